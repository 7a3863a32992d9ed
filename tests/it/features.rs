//! The `features` step against eight transforms with a mistake each, and their eight twins without it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

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
        ("true", "s.csv", "its command wrote nothing to $OUT"),
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
