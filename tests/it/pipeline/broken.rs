//! What is told about files that are not valid (Show 7), and bad input (S08).

use trainyard::pipeline::{self, Diagnostic};

use super::{EXPECTED, root};

#[test]
fn broken_files_are_told_code_line_column_and_hint() {
    let directory = root().join("tests/data/broken");
    let mut names: Vec<String> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut listed: Vec<&str> = EXPECTED.iter().map(|(name, _)| *name).collect();
    listed.sort_unstable();
    assert_eq!(listed, names, "every file has its row");
    let mut failed = Vec::new();
    for (name, rows) in EXPECTED {
        let text = std::fs::read_to_string(directory.join(format!("{name}.yaml"))).unwrap();
        let found = match pipeline::parse(".trainyard.yaml", text.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(found) => found.into_iter().filter(|f| f.code != "TY060").collect(),
        };
        let fits = found.len() == rows.len()
            && found.iter().zip(*rows).all(|(f, (place, message, help))| {
                format!("{}:{} {}", f.line, f.column, f.code) == *place
                    && f.message.contains(message)
                    && f.help.as_deref().unwrap_or_default().contains(help)
                    && text.get(f.span.clone()).is_some()
            });
        if !fits {
            failed.push(format!("{name}: expected {rows:?}, found {found:#?}"));
        }
    }
    println!("FIGURE broken_pipelines cases={} failed={}", EXPECTED.len(), failed.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// One bad input: what it is, the bytes, and the code it is told (None: it is valid, only costs are measured).
type Bad = (String, Vec<u8>, Option<&'static str>);

fn bad_inputs() -> Vec<Bad> {
    let mut out: Vec<Bad> = Vec::new();
    let mut add =
        |name: &str, bytes: Vec<u8>, code: Option<&'static str>| out.push((name.to_owned(), bytes, code));
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..9 {
        laughs += &format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(", "));
    }
    add("billion laughs, nine levels", laughs.into_bytes(), Some("TY005"));
    let wide = format!("a: &a [{}]\nb: [{}]\n", vec!["x"; 1000].join(","), vec!["*a"; 200].join(","));
    add("few aliases of a wide value", wide.into_bytes(), Some("TY005"));
    let many = format!("a: &a x\nb: [{}]\n", vec!["*a"; 10_000].join(","));
    add("ten thousand aliases", many.into_bytes(), Some("TY005"));
    add("an alias inside of what it names", b"train: &a [x, *a]\n".to_vec(), Some("TY008"));
    add("an alias of nothing", b"train: *a\n".to_vec(), Some("TY008"));
    add(
        "a merge key bomb",
        format!("a: &a {{x: 1}}\nb: {{{}}}\n", "<<: *a, ".repeat(200)).into_bytes(),
        Some("TY009"),
    );
    add("ten thousand brackets", "[".repeat(10_000).into_bytes(), Some("TY004"));
    add("ten thousand braces", "{a: ".repeat(10_000).into_bytes(), Some("TY004"));
    add("ten thousand dashes", "- ".repeat(10_000).into_bytes(), Some("TY004"));
    let steps: String = (0..500).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
    add("five hundred indents", steps.into_bytes(), Some("TY004"));
    add("fifty mebibytes", vec![b'a'; 50 << 20], Some("TY001"));
    add("one byte above the limit", vec![b'#'; 256 * 1024 + 1], Some("TY001"));
    add("the limit, all comment", vec![b'#'; 256 * 1024], Some("TY010"));
    add("a million documents", "---\n".repeat(65_000).into_bytes(), Some("TY006"));
    add("a hundred thousand values", format!("a: [{}]\n", "1,".repeat(100_000)).into_bytes(), Some("TY005"));
    let keys: String = (0..9_000).map(|i| format!("k{i}: 1\n")).collect();
    add("nine thousand unknown keys", keys.into_bytes(), Some("TY013"));
    let keys: String = (0..9_000).map(|_| "train: 1\n").collect();
    add("nine thousand times one key", keys.into_bytes(), Some("TY011"));
    add("a python tag", b"train: !!python/object/apply:os.system [ls]\n".to_vec(), Some("TY007"));
    add("an include", b"train: !include /etc/passwd\n".to_vec(), Some("TY007"));
    add("a directive", b"%TAG ! tag:evil,2000:\n---\ntrain: x\n".to_vec(), Some("TY003"));
    add("a yes", b"concurrency: {group: x, cancel_in_progress: yes}\ntrain: x\n".to_vec(), Some("TY021"));
    add(
        "a no in capitals",
        b"concurrency: {group: x, cancel_in_progress: NO}\ntrain: x\n".to_vec(),
        Some("TY021"),
    );
    add("an octal", b"train: {commands: x, gpu: 0o7}\n".to_vec(), Some("TY017"));
    add("an old octal", b"train: {commands: x, gpu: 07}\n".to_vec(), Some("TY017"));
    add("a sexagesimal", b"timeout: 1:30:00\ntrain: x\n".to_vec(), Some("TY018"));
    add("a NUL", b"train: \"a\\0b\"\n".to_vec(), Some("TY029"));
    add("a raw NUL", b"train: a\0b\n".to_vec(), Some("TY003"));
    add("a tab", b"train:\n\tcommands: x\n".to_vec(), Some("TY003"));
    add("a key that is a list", b"? [a, b]\n: x\n".to_vec(), Some("TY012"));
    add("a key that is nothing", b": x\ntrain: x\n".to_vec(), Some("TY012"));
    add("not UTF-8", b"train: \xff\xfe\n".to_vec(), Some("TY002"));
    add("UTF-16", "train: x".encode_utf16().flat_map(u16::to_le_bytes).collect(), Some("TY003"));
    let bomb = format!("env: {{A: \"{}\"}}\ntrain: x\n", "${B}".repeat(20_000));
    add("a template bomb", bomb.into_bytes(), Some("TY028"));
    let doubling: String = (1..40).map(|i| format!("  V{i}: \"${{V{0}}}${{V{0}}}\"\n", i - 1)).collect();
    add("variables that double", format!("env:\n  V0: x\n{doubling}train: x\n").into_bytes(), Some("TY028"));
    let list = (0..1000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    add(
        "a matrix of a million",
        format!("train: {{commands: x, matrix: {{a: [{list}], b: [{list}]}}}}\n").into_bytes(),
        Some("TY032"),
    );
    let keys: String = (0..64).map(|i| format!("k{i}: [0, 1], ")).collect();
    add(
        "a matrix of two to the 64",
        format!("train: {{commands: x, matrix: {{{keys}}}}}\n").into_bytes(),
        Some("TY032"),
    );
    let join: String = (0..9)
        .map(|i| format!("  - {{name: s{i}, needs: [], matrix: {{k{i}: [1, 2, 3]}}, commands: x}}\n"))
        .collect();
    let names = (0..9).map(|i| format!("s{i}")).collect::<Vec<_>>().join(", ");
    add(
        "needs that multiply",
        format!("steps:\n{join}  - {{name: all, needs: [{names}], commands: x}}\n").into_bytes(),
        Some("TY032"),
    );
    let steps: String = (0..3000).map(|i| format!("  - {{name: s{i}, commands: x}}\n")).collect();
    add("three thousand steps", format!("steps:\n{steps}").into_bytes(), Some("TY033"));
    let dense: String = (0..250)
        .map(|i| {
            format!(
                "  - {{name: s{i}, needs: [{}], commands: x}}\n",
                (0..i.min(60)).map(|j| format!("s{j}")).collect::<Vec<_>>().join(",")
            )
        })
        .collect();
    add("250 steps that need 60 each", format!("steps:\n{dense}").into_bytes(), None);
    let globs = (0..60).map(|i| format!("\"**/a{i}*/**/b*/**/c?\"")).collect::<Vec<_>>().join(",");
    let producers: String = (0..20)
        .map(|p| {
            format!("  - {{name: p{p}, needs: [], commands: x, artifacts: [{globs}]}}\n")
                .replace("/a", &format!("/{p}a"))
        })
        .collect();
    let names = (0..20).map(|i| format!("p{i}")).collect::<Vec<_>>().join(",");
    add(
        "thousands of globs that may meet",
        format!("steps:\n{producers}  - {{name: z, needs: [{names}], commands: x}}\n").into_bytes(),
        None,
    );
    add(
        "a name of 10,000 letters",
        format!("name: {}\ntrain: x\n", "n".repeat(10_000)).into_bytes(),
        Some("TY022"),
    );
    add("a need of itself", b"steps: [{name: a, needs: a, commands: x}]\n".to_vec(), Some("TY031"));
    let ring: String =
        (0..200).map(|i| format!("  - {{name: s{i}, needs: [s{}], commands: x}}\n", (i + 1) % 200)).collect();
    add("a circle of 200", format!("steps:\n{ring}").into_bytes(), Some("TY031"));
    for (what, value, code) in [
        ("zero timeout", "timeout: 0s", "TY018"),
        ("negative timeout", "timeout: -5m", "TY018"),
        ("overflowing timeout", "timeout: 9223372036854775807d", "TY018"),
    ] {
        add(what, format!("{value}\ntrain: x\n").into_bytes(), Some(code));
    }
    for (what, value, code) in [
        ("zero memory", "memory: 0Gi", "TY019"),
        ("negative memory", "memory: -1Gi", "TY019"),
        ("overflowing memory", "memory: 99999999999999999999Ti", "TY019"),
        ("zero cores", "cpu: 0", "TY017"),
        ("negative GPUs", "gpu: -1", "TY017"),
        ("cores without end", "cpu: .inf", "TY017"),
    ] {
        add(what, format!("train: {{commands: x, resources: {{{value}}}}}\n").into_bytes(), Some(code));
    }
    add(
        "a regular expression bomb",
        b"train: x\ndata: {name: d, path: p, schema: {c: {pattern: \"((a{99}){99}){99}\"}}}\n".to_vec(),
        Some("TY041"),
    );
    add(
        "a glob of a thousand braces",
        format!("train: x\nwhen: {{paths: \"{}\"}}\n", "{a,".repeat(1000)).into_bytes(),
        Some("TY025"),
    );
    add(
        "one line of 250 KiB with an error at its end",
        format!("train: [{}, 5]\n", vec!["x"; 19_000].join(", ")).into_bytes(),
        Some("TY015"),
    );
    add("a text of 250 KiB", format!("train: |\n  {}\n", "x".repeat(250_000)).into_bytes(), None);
    add(
        "quotes that never close",
        format!("train: \"{}", "\\\\".repeat(100_000)).into_bytes(),
        Some("TY003"),
    );
    out
}

/// S08. The inputs run in a process of their own (this test again), so that its memory is theirs.
#[test]
fn s08_bad_pipeline_files_cost_little_and_are_told_where() {
    const CHILD: &str = "TRAINYARD_TEST_S08_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return s08_in_a_process_of_its_own();
    }
    let output = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "pipeline::broken::s08_bad_pipeline_files_cost_little_and_are_told_where",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find(|l| l.starts_with("SEC S08")).unwrap_or("SEC S08 cases=0 failed=1");
    println!("{figures}");
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(figures.contains("failed=0"), "{figures}");
}

fn s08_in_a_process_of_its_own() {
    // Tests are built without optimisation and share the machine: the time a case took of the processor counts, of three
    // the shortest.
    const MAX_MS: u128 = 100;
    const MAX_BYTES: u64 = 64 << 20;
    let inputs = bad_inputs();
    let (mut failed, mut slowest, mut largest) = (Vec::new(), (0, ""), (0, ""));
    for (name, bytes, code) in &inputs {
        // Peak memory starts anew.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let before = memory("VmRSS:");
        let timed = || {
            let start = processor_time_ms();
            let parsed = pipeline::parse(".trainyard.yaml", bytes);
            (parsed, processor_time_ms() - start)
        };
        let (parsed, first) = timed();
        let ms = first.min(timed().1).min(timed().1);
        let used = memory("VmHWM:").saturating_sub(before);
        if ms > slowest.0 {
            slowest = (ms, name);
        }
        if used > largest.0 {
            largest = (used, name);
        }
        let told = match (&parsed, code) {
            (Ok(_), None) => true,
            (Err(found), Some(code)) => {
                let lines = bytes.iter().filter(|b| **b == b'\n').count() + 1;
                found.iter().any(|f| f.code == *code)
                    && found.len() <= 51
                    && found.iter().all(|f| f.line >= 1 && f.line <= lines && f.column >= 1)
            }
            _ => false,
        };
        if !told || ms > MAX_MS || used > MAX_BYTES {
            let found = parsed.err().map(|f| f.iter().take(3).map(Diagnostic::one_line).collect::<Vec<_>>());
            failed.push(format!("{name}: {ms} ms, {used} bytes, wanted {code:?}, found {found:?}"));
        }
    }
    println!(
        "\nSEC S08 cases={} failed={} slowest_ms={} ({}) largest_bytes={} ({})",
        inputs.len(),
        failed.len(),
        slowest.0,
        slowest.1,
        largest.0,
        largest.1
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn memory(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn processor_time_ms() -> u128 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
    let ms = |t: nix::sys::time::TimeVal| t.tv_sec() as u128 * 1000 + t.tv_usec() as u128 / 1000;
    ms(usage.user_time()) + ms(usage.system_time())
}

#[test]
fn every_code_is_documented_once_and_shown_by_a_case() {
    let mut ids: Vec<&str> = pipeline::CODES.iter().map(|c| c.id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
    let shown: Vec<String> = EXPECTED
        .iter()
        .flat_map(|(_, rows)| rows.iter().map(|(place, _, _)| place.rsplit(' ').next().unwrap().to_owned()))
        .chain(bad_inputs().iter().filter_map(|(_, _, code)| code.map(str::to_owned)))
        .chain(["TY050", "TY051", "TY060"].map(str::to_owned))
        .collect();
    let silent: Vec<&&str> = ids.iter().filter(|id| !shown.iter().any(|s| s == **id)).collect();
    assert!(silent.is_empty(), "no case shows {silent:?}");
}
