//! `trainyard data` as a shell sees it: what it prints, and its exit code.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

pub fn data(args: &[&str], env: &[(&str, String)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_trainyard"))
        .arg("data")
        .args(args)
        .envs(env.iter().cloned())
        .output()
        .unwrap()
}

pub fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

pub fn csv(path: &Path, shift: f64, plans: &[&str]) {
    let mut text = String::from("id,age,plan\n");
    for i in 0..4000_u32 {
        // A spread of values without a generator: the fractional parts of multiples of an irrational number.
        let age = 20.0 + 40.0 * ((f64::from(i) * 0.618_033_988_75).fract() + shift);
        text.push_str(&format!("{i},{age:.3},{}\n", plans[i as usize % plans.len()]));
    }
    std::fs::write(path, text).unwrap();
}

#[test]
fn profile_check_and_diff() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    csv(&dir.path().join("a.csv"), 0.0, &["free", "pro", "team"]);
    csv(&dir.path().join("same.csv"), 0.0001, &["free", "pro", "team"]);
    csv(&dir.path().join("moved.csv"), 0.2, &["free", "pro", "team", "t\u{1b}[31meam"]);
    let out = data(&["profile", &at("a.csv"), "-o", &at("a.json")], &[]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(said(&out).contains("4000 rows, 3 columns"), "{}", said(&out));

    // The profiles of two parts are that of the whole.
    let text = std::fs::read_to_string(at("a.csv")).unwrap();
    let (head, rows) = text.split_once('\n').unwrap();
    let middle = rows.match_indices('\n').nth(1499).unwrap().0 + 1;
    for (name, part) in [("first", &rows[..middle]), ("second", &rows[middle..])] {
        std::fs::write(at(&format!("{name}.csv")), format!("{head}\n{part}")).unwrap();
        let (table, profile) = (at(&format!("{name}.csv")), at(&format!("{name}.json")));
        data(&["profile", &table, "--edges", &at("a.json"), "-o", &profile], &[]);
    }
    let out = data(&["merge", &at("first.json"), &at("second.json"), "-o", &at("both.json")], &[]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let read = |name: &str| trainyard_data::Profile::read(at(name).as_ref()).unwrap();
    let (whole, both) = (read("a.json"), read("both.json"));
    assert_eq!((whole.rows, both.rows), (4000, 4000));
    for (a, b) in whole.columns.iter().zip(&both.columns) {
        assert!(a.agrees_exactly(b), "{}", a.field.name);
    }
    std::fs::write(at("other.csv"), "id,years\n1,2\n").unwrap();
    data(&["profile", &at("other.csv"), "-o", &at("other.json")], &[]);
    let out = data(&["merge", &at("a.json"), &at("other.json"), "-o", &at("no.json")], &[]);
    assert!(out.status.code() == Some(2) && said(&out).contains("\"years\""), "{}", said(&out));

    let out = data(&["check", &at("same.csv"), "--baseline", &at("a.json")], &[]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    assert!(said(&out).ends_with("PASSED\n"));

    let out = data(&["diff", &at("a.json"), &at("moved.csv")], &[]);
    let text = said(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(
        text.contains("FAIL [drift] age: moved by 0.6") && text.contains("[unseen_category] plan"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "nothing from the data steers the terminal");

    let out = data(&["check", &at("moved.csv"), "--baseline", &at("a.csv"), "--json"], &[]);
    let json: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((json["passed"].as_bool(), json["rows"].as_u64()), (Some(false), Some(4000)));

    std::fs::write(
        dir.path().join("rules.yaml"),
        "schema:\n  age: {max: 60, nulls: \"<1%\"}\n  plan: {one_of: [free, pro, team]}\nrows: {min: 100}\n",
    )
    .unwrap();
    let out = data(&["check", &at("a.csv"), "--rules", &at("rules.yaml")], &[]);
    assert_eq!(out.status.code(), Some(0), "{}", said(&out));
    let out = data(&["check", &at("moved.csv"), "--rules", &at("rules.yaml")], &[]);
    assert_eq!(out.status.code(), Some(1));
    assert!(said(&out).contains("FAIL [max] age"), "{}", said(&out));

    std::fs::write(dir.path().join("empty.yaml"), "# nothing yet\n").unwrap();
    std::fs::write(dir.path().join("off.yaml"), "drift: {alpha: -1}\n").unwrap();
    std::fs::write(dir.path().join("ragged.csv"), "id,age,plan\n1,20,free\n2\n").unwrap();
    std::fs::write(dir.path().join("open.csv"), "id,plan\n1,\"free\n2,pro\n").unwrap();
    std::fs::write(dir.path().join("wrong.yaml"), "schema:\n  age: {maximum: 60}\n").unwrap();
    for (args, code) in [
        (vec!["check", "nothing/*.csv"], 2),
        (vec!["check", &at("a.csv"), "--rules", &at("wrong.yaml")], 2),
        (vec!["check", &at("a.csv"), "--rules", &at("absent.yaml")], 2),
        (vec!["check", &at("a.csv"), "--rules", "/dev/zero"], 2),
        (vec!["profile", "ftp://host/a.csv"], 2),
        (vec!["profile"], 2),
        (vec!["profile", &at("absent.csv")], 2),
        (vec!["check", &at("a.csv"), "--baseline", &at("rules.yaml")], 2),
        (vec!["check", &at("a.csv"), "--baseline", &at("absent.json")], 2),
        (vec!["profile", &at("a.csv"), "--edges", &at("absent.json")], 2),
        (vec!["check", &at("a.csv"), "--rules", &at("empty.yaml")], 2),
        (vec!["check", &at("a.csv"), "--rules", &at("off.yaml")], 2),
        (vec!["check", &at("a.csv"), "--baseline", &at("ragged.csv")], 1),
        (vec!["profile", &at("ragged.csv")], 1),
        (vec!["profile", &at("open.csv")], 1),
    ] {
        let out = data(&args, &[]);
        assert_eq!(out.status.code(), Some(code), "{args:?}: {}", said(&out));
    }
}

/// Names of files and columns are text from outside wherever they are printed, and a reason is said once.
#[test]
fn names_steer_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(dir.path().join("a\u{1b}[31m\nPASSED.csv"), "").unwrap();
    std::fs::write(dir.path().join("b.csv"), "u\u{1b}[31m,b\n1,2\n1,3\n").unwrap();
    std::fs::write(dir.path().join("rules.json"), "{\"unique\": [[\"u\\u001b[31m\"]]}").unwrap();
    for args in [
        vec!["profile", &at("a\u{1b}[31m\nPASSED.csv")],
        vec!["profile", &at("*.csv")],
        vec!["check", &at("b.csv"), "--rules", &at("rules.json")],
    ] {
        let out = data(&args, &[]);
        let text = said(&out);
        assert_eq!(out.status.code(), Some(1), "{text}");
        assert!(!text.contains('\u{1b}') && !text.lines().any(|l| l.starts_with("PASSED")), "{text}");
    }
    let out = data(&["profile", &at("b.csv"), "--edges", &at(&"x".repeat(300))], &[]);
    assert_eq!(said(&out).matches("os error").count(), 1, "{}", said(&out));
}

/// A bucket with one object, over HTTP. Ranges from `broken_from` on are refused.
fn bucket(object: Vec<u8>, broken_from: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let object = object.clone();
            std::thread::spawn(move || {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                    head.push(byte[0]);
                }
                let head = String::from_utf8_lossy(&head).to_lowercase();
                let range = head.split("range: bytes=").nth(1).and_then(|r| {
                    let (from, to) = r.split("\r\n").next()?.split_once('-')?;
                    Some((from.parse::<usize>().ok()?, to.parse::<usize>().ok()?.min(object.len() - 1)))
                });
                let common =
                    "last-modified: Wed, 21 Oct 2026 07:28:00 GMT\r\netag: \"v1\"\r\nconnection: close\r\n";
                let answer = |status: &str, more: String, body: &[u8]| {
                    let mut out = format!("HTTP/1.1 {status}\r\n{common}{more}\r\n").into_bytes();
                    out.extend_from_slice(body);
                    out
                };
                let reply = match range {
                    _ if head.starts_with("head ") => {
                        answer("200 OK", format!("content-length: {}\r\n", object.len()), b"")
                    }
                    Some((_, to)) if to >= broken_from => {
                        answer("403 Forbidden", "content-length: 0\r\n".into(), b"")
                    }
                    Some((from, to)) => {
                        let more = format!(
                            "content-length: {}\r\ncontent-range: bytes {from}-{to}/{}\r\n",
                            to - from + 1,
                            object.len()
                        );
                        answer("206 Partial Content", more, &object[from..=to])
                    }
                    None => answer("404 Not Found", "content-length: 0\r\n".into(), b""),
                };
                let _ = stream.write_all(&reply);
            });
        }
    });
    address
}

#[test]
fn object_storage_is_read_and_its_failures_are_told() {
    let dir = tempfile::tempdir().unwrap();
    csv(&dir.path().join("a.csv"), 0.0, &["x", "y"]);
    let object = std::fs::read(dir.path().join("a.csv")).unwrap();
    let length = object.len();
    for (broken_from, code) in [(usize::MAX, 0), (length - 10, 1)] {
        let env = [
            ("AWS_ENDPOINT", bucket(object.clone(), broken_from)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "eu-central-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "example".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "example".to_owned()),
        ];
        let out = data(&["profile", "s3://bucket/folder/a.csv"], &env);
        let text = said(&out);
        assert_eq!(out.status.code(), Some(code), "{text}");
        if code == 0 {
            assert!(text.contains("4000 rows"), "{text}");
        } else {
            assert!(text.contains("s3://bucket/folder/a.csv") && !text.contains("rows"), "{text}");
        }
    }
}
