//! The table of ARCHITECTURE.md is the law: a room uses only rooms of a lower level.

use std::collections::BTreeMap;
use std::path::Path;

fn levels() -> BTreeMap<String, u32> {
    let text = std::fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md");
    let mut levels = BTreeMap::new();
    for line in text.lines().filter(|l| l.starts_with("| ")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        if let Some(level) = cells.get(1).and_then(|c| c.parse().ok()) {
            for room in cells[2].split('`').skip(1).step_by(2) {
                levels.insert(room.to_owned(), level);
            }
        }
    }
    levels
}

fn sources(dir: &Path, out: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

#[test]
fn rooms_use_only_rooms_of_a_lower_level() {
    let levels = levels();
    assert!(levels.len() >= 15, "the table of ARCHITECTURE.md was not found: {levels:?}");
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let mention = regex::Regex::new(r"\bcrate::(\{[^;]*\}|[a-z_]+)").unwrap();
    let word = regex::Regex::new(r"(?:^\{|,)\s*([a-z_]+)").unwrap();
    let (mut arrows, mut wrong) = (0, Vec::new());
    for file in files {
        let room = file.strip_prefix("src").unwrap().components().next().unwrap();
        let room = Path::new(room.as_os_str()).file_stem().unwrap().to_str().unwrap().to_owned();
        if room == "lib" || room == "main" {
            continue;
        }
        let Some(level) = levels.get(&room) else {
            wrong.push(format!("{} belongs to room {room:?}, which has no row in the table", file.display()));
            continue;
        };
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests may look anywhere.
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        if file.file_name().is_some_and(|n| n == "tests.rs") {
            continue;
        }
        for (number, line) in code.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            for found in mention.captures_iter(line) {
                let inner = &found[1];
                let used: Vec<String> = if inner.starts_with('{') {
                    word.captures_iter(inner).map(|c| c[1].to_owned()).collect()
                } else {
                    vec![inner.to_owned()]
                };
                for other in used.into_iter().filter(|o| *o != room) {
                    let Some(theirs) = levels.get(&other) else { continue };
                    arrows += 1;
                    if theirs >= level {
                        wrong.push(format!(
                            "{}:{}: {room} (level {level}) uses {other} (level {theirs})",
                            file.display(),
                            number + 1
                        ));
                    }
                }
            }
        }
    }
    assert!(arrows > 20, "too few uses found ({arrows}): does the scan still work?");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!("FIGURE architecture rooms={} uses={arrows} violations=0", levels.len());
}

#[test]
fn the_context_of_statuses_is_spelled_once() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let spelled = |file: &std::path::PathBuf| std::fs::read_to_string(file).unwrap().contains("trainyard/{");
    files.retain(spelled);
    assert_eq!(files, [Path::new("src/report/status.rs")], "use its `context` or `target`");
}
