//! The `features` step against eight transforms with a mistake each, and their eight twins without it; two versions of one
//! transform; and a serving endpoint.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// One transform each; `good` is the twin without the mistake.
const TRANSFORMS: &str = r#"
import csv, math, os, random, sys
what, good = sys.argv[1], sys.argv[2] == "good"
serving = len(sys.argv) > 3
rows = list(csv.DictReader(open(os.environ["IN"])))
x = [float(r["amount"]) for r in rows]
mean = sum(x) / len(x)
out, last = [], 0.0
for r, v in zip(rows, x):
    if what == "fit_on_test": f = {"scaled": (v - 50) / 30 if good else (v - mean) / 30}
    if what == "order": f = {"change": v - (float(r["before"]) if good else last)}
    if what == "unseeded": f = {"noisy": v + (random.Random(r["id"]) if good else random).random() / 1000}
    if what == "hashed": f = {"city": sum(map(ord, r["city"])) % 97 if good else hash(r["city"]) % 97}
    if what == "future": f = {"event": r["at"] if good else r["paid"], "v": v}
    if what == "served": f = {"log": math.log(v) if good or not serving else math.log2(v)}
    if what == "nan": f = {"log": math.log1p(v) if good else (math.log(v - 10) if v > 10 else float("nan"))}
    if what == "range": f = {"share": min(v / 100, 1) if good else v / 50}
    out.append(f)
    last = v
with open(os.environ["OUT"], "w", newline="") as file:
    table = csv.DictWriter(file, out[0].keys())
    table.writeheader()
    table.writerows(out)
"#;

/// The mistake, and the rule that must find it.
const MISTAKES: [(&str, &str); 8] = [
    ("fit_on_test", "subset"),
    ("order", "row_order"),
    ("unseeded", "deterministic"),
    ("hashed", "deterministic"),
    ("future", "point_in_time"),
    ("served", "serve_parity"),
    ("nan", "finite"),
    ("range", "max"),
];

fn project(dir: &Path, twin: &str) {
    std::fs::write(dir.join("t.py"), TRANSFORMS).unwrap();
    let mut sample = "id,amount,before,city,at,decided,paid\n".to_owned();
    for i in 0..60 {
        let city = ["Ulm", "Bonn", "Kiel"][i % 3];
        let _ = writeln!(sample, "{i},{},{},{city},2026-03-01,2026-03-02,2026-03-05", 1 + (i * 37) % 99, i);
    }
    std::fs::write(dir.join("sample.csv"), sample).unwrap();
    let mut file = "features:\n".to_owned();
    for (name, _) in MISTAKES {
        let extra = match name {
            "future" => ", time: {feature: event, label: decided}".to_owned(),
            "served" => format!(", serve: python3 t.py {name} {twin} serving"),
            "range" => ", schema: {share: {type: float, min: 0, max: 1}}".to_owned(),
            _ => String::new(),
        };
        let _ = writeln!(
            file,
            "  - {{name: {name}, command: python3 t.py {name} {twin}, sample: sample.csv{extra}}}"
        );
    }
    file.push_str("train: echo trained\n");
    std::fs::write(dir.join(".trainyard.yaml"), file).unwrap();
}

/// Rules that failed, by transform; and all that was printed.
fn run(dir: &Path) -> (BTreeMap<String, Vec<String>>, String, bool) {
    let out = Command::new(env!("CARGO_BIN_EXE_trainyard")).arg("run").current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let (mut found, mut name) = (BTreeMap::<String, Vec<String>>::new(), String::new());
    for line in text.lines() {
        if let Some((of, _)) = line.split_once(": ").filter(|(of, _)| MISTAKES.iter().any(|(m, _)| m == of)) {
            of.clone_into(&mut name);
            found.insert(name.clone(), Vec::new());
        } else if let Some(rule) = line.strip_prefix("fail [").and_then(|rest| rest.split_once(']')) {
            found.entry(name.clone()).or_default().push(rule.0.to_owned());
        }
    }
    (found, format!("{text}\n{}", String::from_utf8_lossy(&out.stderr)), out.status.success())
}

#[test]
fn eight_mistakes_are_found_and_their_twins_raise_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    project(dir.path(), "good");
    let (found, text, good) = run(dir.path());
    let alarms: usize = found.values().map(Vec::len).sum();
    assert!(found.len() == 8 && alarms == 0 && good, "{text}");
    assert!(text.contains("trained\n"), "{text}");

    project(dir.path(), "bad");
    let (found, text, good) = run(dir.path());
    let caught = MISTAKES.iter().filter(|(name, rule)| found[*name].iter().any(|r| r == rule)).count();
    println!(
        "FIGURE features.mistakes planted={} caught={caught} twins=8 false_alarms={alarms}",
        MISTAKES.len()
    );
    assert_eq!(caught, 8, "{found:?}\n{text}");
    assert!(!good && text.contains("step train is skipped, since features did not succeed"), "{text}");
}

#[test]
fn a_transform_that_cannot_be_checked_fails() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.csv"), "a\n1\n2\n").unwrap();
    for (command, sample, says) in [
        ("exit 3", "s.csv", "its command failed on 2 rows"),
        ("true", "s.csv", "wrote no file to $OUT"),
        // Fewer rows the first time: what the second has beyond them is a difference, too.
        ("[ -e seen ] && cp $IN $OUT || head -n 2 $IN > $OUT; touch seen", "s.csv", "gives 2 rows and not 1"),
        ("cp $IN $OUT", "none.csv", "cannot read none.csv"),
        ("cp $IN $OUT", "s.parquet", "must be CSV"),
    ] {
        let file = format!(
            "features: [{{name: f, command: \"{command}\", sample: {sample}}}]\ntrain: echo trained\n"
        );
        std::fs::write(dir.path().join(".trainyard.yaml"), file).unwrap();
        let (_, text, good) = run(dir.path());
        assert!(!good && text.contains(says) && !text.contains("\ntrained"), "{command}: {text}");
    }
}

/// Two versions of one transform: what the second changes.
const VERSIONS: &str = r#"
import csv, os, sys
second = sys.argv[1] == "second"
rows = list(csv.DictReader(open(os.environ["IN"])))
out = []
for r in rows:
    v, i = float(r["amount"]), int(r["id"])
    f = {"same": v, "city": r["city"], "near": v / 3, "far": v, "part": v, "kind": i, "word": r["city"]}
    if second:
        f |= {"near": v / 3 * (1 + 1e-4), "far": v + i / 10, "part": v if i < 45 else "", "kind": "k%d" % i, "word": r["city"].upper() if i < 30 else r["city"], "new": 1}
    else:
        f["old"] = 1
    out.append(f)
with open(os.environ["OUT"], "w", newline="") as file:
    table = csv.DictWriter(file, out[0].keys())
    table.writeheader()
    table.writerows(out)
"#;

/// The features step's child on one transform, as an agent starts it; its report.
fn child(dir: &Path, version: &str, diff: Value, base: Option<Value>) -> (Value, bool) {
    let report = dir.join("report.json");
    let transform = json!({"name": "encode", "command": format!("python3 v.py {version}"), "sample": "sample.csv",
        "checks": ["deterministic"], "serve": null, "time": null, "rules": {}, "diff": diff});
    let bases = base.map_or(json!({}), |base| json!({"encode": base}));
    let work = json!({"transforms": [transform], "bases": bases, "report": report});
    std::fs::write(dir.join("work.json"), work.to_string()).unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .args(["data", "features", "work.json"])
        .current_dir(dir)
        .output()
        .unwrap();
    let text = std::fs::read(&report).unwrap_or_else(|_| panic!("{out:?}"));
    let reports: Vec<Value> = serde_json::from_slice(&text).unwrap();
    (reports[0].clone(), out.status.success())
}

fn versions() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    project(dir.path(), "good");
    std::fs::write(dir.path().join("v.py"), VERSIONS).unwrap();
    dir
}

#[test]
fn features_are_held_against_those_of_the_baselines_transform() {
    let dir = versions();
    let kept = dir.path().join(".trainyard/features/encode.output.json");
    let (first, good) = child(dir.path(), "first", Value::Null, None);
    assert!(good && first.get("features").is_none() && kept.is_file(), "{first}");
    std::fs::rename(&kept, dir.path().join("base.json")).unwrap();
    let base = || Some(json!({"output": "base.json", "note": "main at a1b2c3d, the merge-base"}));

    // The same transform gives the same features, whatever else the step leaves.
    let (same, good) = child(dir.path(), "first", json!({"tolerance": [], "on_change": "fail"}), base());
    let states = |report: &Value| -> BTreeMap<String, String> {
        let of = |f: &Value| (text(&f["feature"]), text(&f["state"]));
        report["features"].as_array().unwrap().iter().map(of).collect()
    };
    assert!(good && states(&same).values().all(|s| s == "equal"), "{same}");
    assert_eq!(same["against"], "main at a1b2c3d, the merge-base");

    let tolerance =
        json!([["near", {"relative": 0.001}], ["*", {"absolute": 0.001}], ["gone", {"absolute": 1.0}]]);
    let wanted = |on_change: &str| json!({"tolerance": tolerance, "on_change": on_change});
    let (changed, good) = child(dir.path(), "second", wanted("show"), base());
    let expected = [
        ("city", "equal"),
        ("far", "changed"),
        ("kind", "retyped"),
        ("near", "equal"),
        ("new", "added"),
        ("old", "removed"),
        ("part", "changed"),
        ("same", "equal"),
        ("word", "changed"),
    ];
    let expected = expected.map(|(f, s)| (f.to_owned(), s.to_owned()));
    assert_eq!(states(&changed), BTreeMap::from(expected));
    assert!(good, "shown is not failed: {changed}");
    let of = |name: &str| {
        changed["features"].as_array().unwrap().iter().find(|f| f["feature"] == name).unwrap().clone()
    };
    let number = |name: &str, key: &str| of(name)[key].as_f64().unwrap_or(f64::NAN);
    // id / 10: one row of sixty is equal, the last is off by 5.9.
    assert_eq!(number("far", "rows"), 59.0);
    assert!((number("far", "largest") - 5.9).abs() < 1e-9 && number("far", "share") > 0.98);
    assert_eq!((number("part", "rows"), number("word", "rows")), (15.0, 30.0));
    assert!(number("near", "relative") > 0.9e-4 && number("near", "rows") == 0.0);
    assert_eq!(of("near")["tolerance"], "0.1%");
    let warned: Vec<&Value> = changed["findings"].as_array().unwrap().iter().collect();
    assert!(
        warned.len() == 1 && warned[0]["column"] == "gone" && warned[0]["severity"] == "warn",
        "{warned:?}"
    );

    let (failed, good) = child(dir.path(), "second", wanted("fail"), base());
    let bad: Vec<String> = failed["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["severity"] == "fail" && f["rule"] == "diff")
        .map(|f| text(&f["column"]))
        .collect();
    assert!(!good, "{failed}");
    assert_eq!(bad.iter().collect::<std::collections::BTreeSet<_>>().len(), 5, "{bad:?}");
    println!(
        "FIGURE features.diff features=9 changed=3 retyped=1 added=1 removed=1 within_tolerance=1 wrong=0"
    );
}

#[test]
fn features_that_cannot_be_compared_are_said_to_be_so() {
    let dir = versions();
    child(dir.path(), "first", Value::Null, None);
    let kept = std::fs::read_to_string(dir.path().join(".trainyard/features/encode.output.json")).unwrap();
    let base = json!({"output": "base.json", "note": "main"});
    let tried = |kept: &str, base: Option<Value>| {
        std::fs::write(dir.path().join("base.json"), kept).unwrap();
        let (report, good) = child(dir.path(), "first", json!({"tolerance": [], "on_change": "fail"}), base);
        assert!(good, "it is not this commit's fault: {report}");
        let said: Vec<String> =
            report["findings"].as_array().unwrap().iter().map(|f| text(&f["message"])).collect();
        (said.join("; "), report)
    };
    for (kept, base, says) in [
        (kept.clone(), None, "was not compared"),
        (kept.clone(), Some(json!({"output": null, "note": "no baseline: none"})), "was not compared"),
        (kept.clone(), Some(json!({"output": "nowhere.json", "note": "main"})), "cannot read nowhere.json"),
        (kept[..kept.len() / 2].to_owned(), Some(base.clone()), "cannot be read"),
        (kept.replacen("\"rows\":60", "\"rows\":59", 1), Some(base.clone()), "not of one length"),
        (kept.replacen("\"version\":1", "\"version\":9", 1), Some(base.clone()), "version 9"),
        (r#"{"version":1,"sample":"x","rows":60,"columns":null}"#.into(), Some(base.clone()), "too large"),
        (kept.replacen("\"sample\":\"", "\"sample\":\"0", 1), Some(base.clone()), "another sample"),
    ] {
        let (said, report) = tried(&kept, base);
        assert!(said.contains(says), "{says}: {said}");
        assert!(report.get("features").is_none(), "{says}: {report}");
    }
}

/// A serving endpoint: what it computes, and how it misbehaves.
const SERVER: &str = r#"
import http.server, json, math, os, sys, time
how, port = sys.argv[1], int(sys.argv[2])
if how == "ends": sys.exit(7)
if how == "late": time.sleep(60)
open("server.pid", "w").write(str(os.getpid()))
class Served(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(404); self.send_header("content-length", "0"); self.end_headers()
    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["content-length"])))["instances"]
        assert all(type(r["amount"]) in (int, float) and type(r["city"]) is str and r["none"] is None for r in rows)
        out = [{"city": r["city"][0], "log": (math.log2 if how == "differs" else math.log)(r["amount"])} for r in rows]
        if how == "short": out = out[1:]
        if how == "whole": time.sleep(0.01 if len(rows) > 1 else 0)
        body = json.dumps(out if how == "list" else {"predictions": out}).encode()
        if how == "words": body = b"the customer Ada Lovelace is unknown"
        self.send_response(500 if how == "broken" else 200)
        self.send_header("content-length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Served).serve_forever()
"#;

const TRAINED: &str = r#"
import csv, math, os
rows = list(csv.DictReader(open(os.environ["IN"])))
with open(os.environ["OUT"], "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["log", "city"])
    table.writerows([math.log(float(r["amount"])), r["city"][0]] for r in rows)
"#;

#[test]
fn a_serving_endpoint_gives_what_training_gives() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("server.py"), SERVER).unwrap();
    std::fs::write(dir.path().join("t.py"), TRAINED).unwrap();
    let mut sample = "amount,city,none\n".to_owned();
    for i in 0..120 {
        let _ = writeln!(sample, "{},{},", 1 + (i * 37) % 99, ["Ulm", "Bonn", "Kiel"][i % 3]);
    }
    std::fs::write(dir.path().join("sample.csv"), sample).unwrap();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let tried = |how: &str, port: u16, more: &str| {
        let file = format!(
            "features:\n  - name: encode\n    command: python3 t.py\n    sample: sample.csv\n    checks: [serve_parity]\n    \
             serve: {{command: \"sleep 600 & exec python3 server.py {how} {port}\", url: \"http://127.0.0.1:{port}/f\"{more}}}\n\
             train: echo trained\n"
        );
        std::fs::write(dir.path().join(".trainyard.yaml"), file).unwrap();
        let out = Command::new(env!("CARGO_BIN_EXE_trainyard"))
            .arg("run")
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(!text.contains("Lovelace"), "no answer is told: {text}");
        (text, out.status.success())
    };
    for (how, more) in [("good", ""), ("list", ", batch: 50"), ("whole", ", batch: 120, timeout: 20s")] {
        let (text, good) = tried(how, free(), more);
        assert!(good && text.contains("trained\n"), "{how}: {text}");
        let pid = std::fs::read_to_string(dir.path().join("server.pid")).unwrap();
        assert!(!Path::new("/proc").join(&pid).exists(), "{how}: the server {pid} outlived its check");
        assert!(!text.contains("processes that were left"), "so did what it started: {text}");
    }
    for (how, more, says) in [
        ("differs", "", "log: is another one as it serves, by up to"),
        ("short", ", batch: 10", "an answer holds 9 rows for 10"),
        ("broken", "", "answered 500"),
        ("words", "", "an answer is no JSON"),
        ("ends", "", "its command ended before it answered: exit status: 7"),
        ("late", ", timeout: 1s", "did not answer within 1 s"),
    ] {
        let (text, good) = tried(how, free(), more);
        assert!(!good && text.contains(says) && !text.contains("trained\n"), "{how}: {text}");
    }
    // Another program that holds the port is not asked.
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (text, good) = tried("good", other.local_addr().unwrap().port(), "");
    assert!(!good && text.contains("something listens on 127.0.0.1:"), "{text}");
    println!("FIGURE features.endpoint good=3 false_alarms=0 bad=7 caught=7 left_over=0");
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
