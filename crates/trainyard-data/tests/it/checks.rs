//! Rules, schema, sets and drift on tables whose faults are known.

use trainyard_data::drift::Verdict;

use crate::support::*;

#[test]
fn a_good_table_passes_and_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let base =
        profile(&write_parquet(&dir.path().join("a.parquet"), &table(20_000, 1, Change::default()), 4_000))
            .unwrap();
    let other = write_parquet(&dir.path().join("b.parquet"), &table(15_000, 2, Change::default()), 4_000);
    let rules = rules(
        r#"{"schema": {"id": {"type": "int64", "unique": true}, "f0": {"type": "float", "min": -20, "max": 40, "mean": {"min": 9.8, "max": 10.2}, "finite": true},
            "f2": {"nulls": "<5%"}, "plan": {"one_of": ["basic", "plus", "pro, \"x\"", "família", "team"], "max_length": 8}, "active": {"type": "bool"},
            "at": {"type": "time", "monotonic": "strictly_increasing", "min": "2023-01-01"}, "f1": {}, "count": {"distinct": {"max": 40}, "median": {"min": 15, "max": 25}}},
            "strict": true, "rows": {"min": 10000}, "duplicate_rows": 0, "pairs": [{"left": "f0", "is": ">", "right": "f2", "mostly": 0.9}]}"#,
    );
    let check = check(&other, &rules, Some(&base)).unwrap();
    assert!(check.passed, "{:?}", check.findings);
    assert_eq!(check.findings, []);
    let verdict = |c: &str| check.drift.iter().find(|d| d.column == c).unwrap().verdict;
    assert_eq!(verdict("f0"), Verdict::Stable);
    assert_eq!(verdict("plan"), Verdict::Stable);
    assert_eq!((verdict("id"), verdict("at")), (Verdict::NotTested, Verdict::NotTested));
}

/// Each planted change is found, under its name, in its column, and nothing else is.
#[test]
fn planted_changes_are_found_alone() {
    let dir = tempfile::tempdir().unwrap();
    let base =
        profile(&write_parquet(&dir.path().join("a.parquet"), &table(20_000, 1, Change::default()), 20_000))
            .unwrap();
    let cases = [
        ("mean", Change { shift: 0.2, ..Change::default() }, "drift:f0"),
        ("spread", Change { spread: 1.5_f64.sqrt(), ..Change::default() }, "drift:f1"),
        ("mix", Change { mix: 0.2, ..Change::default() }, "drift:plan"),
        ("nulls", Change { nulls: 0.05, ..Change::default() }, "null_jump:f2"),
    ];
    let count = cases.len();
    for (name, change, want) in cases {
        let path =
            write_parquet(&dir.path().join(format!("{name}.parquet")), &table(20_000, 7, change), 6_000);
        let check = check(&path, &rules("{}"), Some(&base)).unwrap();
        assert_eq!(failed(&check), [want], "{name}: {:?}", check.drift);
        assert!(!check.passed);
    }
    println!("FIGURE data.planted_changes cases={count} found={count} false_alarms=0");
}

#[test]
fn each_rule_finds_its_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(
        &dir.path().join("a.csv"),
        "id,age,plan,email,at,low,high\n1,20,a,x@y.z,2024-01-01,1,2\n2,-1,b,bad,2024-01-02,5,4\n2,30,d,q@y.z,2023-12-31,1,2\n4,,c,r@y.z,2024-02-01,0,9\n",
    );
    for (json, want) in [
        (r#"{"schema": {"age": {"min": 0}}}"#, vec!["min:age"]),
        (r#"{"schema": {"age": {"min": 0, "mostly": 0.6}}}"#, vec![]),
        (r#"{"schema": {"age": {"below": 30}}}"#, vec!["below:age"]),
        (r#"{"schema": {"age": {"nulls": 0}}}"#, vec!["nulls:age"]),
        (r#"{"schema": {"age": {"nulls": "25%"}}}"#, vec![]),
        (r#"{"schema": {"age": {"nulls": "<25%"}}}"#, vec!["nulls:age"]),
        (r#"{"schema": {"plan": {"one_of": ["a", "b", "c"]}}}"#, vec!["one_of:plan"]),
        (r#"{"schema": {"plan": {"not_in": ["b"]}}}"#, vec!["not_in:plan"]),
        (r#"{"schema": {"email": {"regex": "^[^@]+@[^@]+$"}}}"#, vec!["regex:email"]),
        (r#"{"schema": {"email": {"pattern": "[^@]+@[^@]+"}}}"#, vec!["pattern:email"]),
        (r#"{"schema": {"email": {"regex": "[a-z]"}}}"#, vec![]),
        (r#"{"schema": {"email": {"pattern": "[a-z]"}}}"#, vec!["pattern:email"]),
        (r#"{"schema": {"email": {"min_length": 4}}}"#, vec!["length:email"]),
        (r#"{"schema": {"id": {"unique": true}}}"#, vec!["unique:id"]),
        (r#"{"unique": [["id", "plan"]]}"#, vec![]),
        (r#"{"schema": {"at": {"monotonic": "increasing"}}}"#, vec!["monotonic:at"]),
        (r#"{"schema": {"at": {"fresh": "7d"}}}"#, vec!["fresh:at"]),
        (r#"{"schema": {"at": {"max": "2024-01-31"}}}"#, vec!["max:at"]),
        (r#"{"pairs": [{"left": "low", "is": "<", "right": "high"}]}"#, vec!["pair:low"]),
        (r#"{"rows": {"min": 5}}"#, vec!["rows"]),
        (r#"{"schema": {"age": {"type": "time"}}}"#, vec!["type:age"]),
        (r#"{"schema": {"Age": {}}}"#, vec!["missing_column:Age"]),
        (r#"{"schema": {"gone": {"optional": true}}}"#, vec![]),
        (r#"{"order": ["age", "id", "plan", "email", "at", "low", "high"]}"#, vec!["order"]),
        (r#"{"schema": {"high": {"mean": {"max": 4}}}}"#, vec!["mean:high"]),
        (r#"{"schema": {"high": {"max_z": 1}}}"#, vec!["max_z:high"]),
        (r#"{"schema": {"high": {"quantiles": {"0.5": {"min": 3.5}}}}}"#, vec!["quantile:high"]),
        (r#"{"unique": [["nothing"]]}"#, vec!["missing_column:nothing"]),
    ] {
        let check = check(&path, &rules(json), None).unwrap();
        assert_eq!(failed(&check), want, "{json}: {:?}", check.findings);
        assert_eq!(check.passed, want.is_empty());
    }
    // Examples say the row and the value, and nothing when the column is personal.
    let found = check(&path, &rules(r#"{"schema": {"email": {"regex": "@"}}}"#), None).unwrap();
    assert_eq!(
        (found.findings[0].examples[0].row, found.findings[0].examples[0].value.as_str()),
        (Some(1), "bad")
    );
    let found =
        check(&path, &rules(r#"{"schema": {"email": {"regex": "@", "personal": true}}}"#), None).unwrap();
    assert!(
        found.findings[0].examples.is_empty() && found.findings[0].masked && found.findings[0].count == 1
    );
    // Wrong use is neither a pass nor a failed check.
    for json in [
        r#"{"schema": {"age": {"type": "int", "regex": "x"}}}"#,
        r#"{"schema": {"age": {"type": "int", "max": "2024-01-01"}}}"#,
        r#"{"schema": {"age": {"type": "text", "mean": {"min": 1}}}}"#,
        r#"{"schema": {"at": {"min": "yesterday"}}}"#,
        r#"{"schema": {"age": {"above": true}}}"#,
        r#"{"schema": {"email": {"regex": "("}}}"#,
        r#"{"schema": {"age": {"mostly": 1.5, "min": 0}}}"#,
    ] {
        assert!(matches!(check(&path, &rules(json), None), Err(trainyard_data::Error::Usage(_))), "{json}");
    }
}

#[test]
fn a_column_of_another_type_than_its_rules_want_fails_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let late = format!("{}n/a,1,1,2024-01-01,\n", "1,1,1,2024-01-01,\n".repeat(10));
    let csv = write(&dir.path().join("a.csv"), format!("text,n,b,at,empty\nx,1,1,2024-01-01,\n{late}"));
    let texts = write(&dir.path().join("texts.csv"), "k\na\nb\n");
    let t = table(50, 1, Change::default());
    let parquet = write_parquet(&dir.path().join("a.parquet"), &t, 10);
    let key = format!(r#"{{"foreign_keys": [{{"columns": ["n"], "references": {texts:?}, "to": ["k"]}}]}}"#);
    let split = format!(r#"{{"disjoint": [{{"path": {texts:?}, "on": ["k"]}}]}}"#);
    let numbers = write(&dir.path().join("numbers.csv"), "k\n1\n2\n");
    for (path, json, want, says) in [
        (&csv, r#"{"schema": {"text": {"min": 0}}}"#, vec!["type:text"], "`min` wants numbers or times"),
        (&csv, r#"{"schema": {"text": {"std": {"max": 1}, "nulls": 0}}}"#, vec!["type:text"], "`std` wants"),
        (&csv, r#"{"schema": {"text": {"fresh": "7d"}}}"#, vec!["type:text"], "`fresh` wants times"),
        (&csv, r#"{"schema": {"text": {"monotonic": "increasing"}}}"#, vec!["type:text"], "`monotonic`"),
        (&csv, r#"{"schema": {"empty": {"max": 1}}}"#, vec!["type:empty"], "`max` wants numbers or times"),
        (&csv, r#"{"schema": {"n": {"below": "2024-02-01"}}}"#, vec!["type:n"], "`below` wants times"),
        (&csv, r#"{"schema": {"n": {"one_of": ["a", "b"]}}}"#, vec!["type:n"], "`one_of` wants text"),
        (&csv, r#"{"schema": {"n": {"one_of": [true]}}}"#, vec!["type:n"], "wants true and false"),
        (&csv, r#"{"schema": {"at": {"one_of": ["a"]}}}"#, vec!["type:at"], "`one_of` wants text"),
        (&csv, r#"{"schema": {"at": {"finite": true}}}"#, vec!["type:at"], "`finite` wants numbers"),
        (&csv, r#"{"schema": {"n": {"datetime": true}}}"#, vec!["type:n"], "`datetime` wants text or times"),
        (&csv, r#"{"pairs": [{"left": "n", "is": "<=", "right": "text"}]}"#, vec!["type:n"], "`pairs`"),
        (&csv, &key, vec!["type"], "cannot be compared"),
        (&numbers, &split, vec!["type"], "cannot be compared"),
        (&parquet, r#"{"schema": {"at": {"regex": "^2"}}}"#, vec!["type:at"], "`regex` wants text"),
        (&parquet, r#"{"schema": {"id": {"min_length": 3}}}"#, vec!["type:id"], "`min_length` wants text"),
        // Rules that suit it are kept, and a pair of numbers beside one of texts is compared.
        (&csv, r#"{"schema": {"at": {"max": "2023-01-01"}, "b": {"max": 0}}}"#, vec!["max:at", "max:b"], ""),
        (
            &csv,
            r#"{"pairs": [{"left": "n", "is": "<", "right": "text"}, {"left": "n", "is": "<", "right": "b"}]}"#,
            vec!["type:n", "pair:n"],
            "",
        ),
    ] {
        let c = check(path, &rules(json), None).unwrap();
        assert_eq!(failed(&c), want, "{json}: {:?}", c.findings);
        assert!(c.findings[0].message.contains(says), "{json}: {:?}", c.findings);
    }
    // Softened as any other finding.
    let soft = check(&csv, &rules(r#"{"schema": {"text": {"min": 0, "on_fail": "warn"}}}"#), None).unwrap();
    assert!(soft.passed && soft.findings.iter().any(|f| f.rule == "type"), "{:?}", soft.findings);
    let json = format!(
        r#"{{"schema": {{"k": {{"on_fail": "warn"}}}}, "disjoint": [{{"path": {texts:?}, "on": ["k"]}}]}}"#
    );
    let strict = check(&numbers, &rules(&json), None).unwrap();
    assert!(!strict.passed, "the rule on splits is not of the column: {:?}", strict.findings);
    // A column that first comes late.
    let lines = format!("{}{}", "{\"a\": 1}\n".repeat(600_000), "{\"a\": 1, \"id\": 7}\n".repeat(2));
    let lines = write(&dir.path().join("late.jsonl"), lines);
    for json in [
        r#"{"schema": {"id": {"unique": true}}}"#,
        r#"{"schema": {"id": {"type": "int", "unique": true, "max": 7}}}"#,
        r#"{"unique": [["id"]]}"#,
    ] {
        assert_eq!(failed(&check(&lines, &rules(json), None).unwrap()), ["unique:id"], "{json}");
    }
    // What no look at the first lines tells: numbers, and after them texts.
    let late = format!("n\n{}{}", "12\n".repeat(700_000), "lots\n".repeat(100_000));
    let late = write(&dir.path().join("late.csv"), late);
    for json in [r#"{"schema": {"n": {"min": 0}}}"#, r#"{"schema": {"n": {"mean": {"min": 0}}}}"#] {
        assert_eq!(failed(&check(&late, &rules(json), None).unwrap()), ["type:n"], "{json}");
    }
    let one = write(&dir.path().join("one.csv"), format!("n\n{}0.5\n", "12\n".repeat(50)));
    for json in [
        r#"{"schema": {"n": {"max": 9007199254740993}}}"#,
        r#"{"schema": {"n": {"not_in": [9007199254740993]}}}"#,
    ] {
        let c = check(&one, &rules(json), None).unwrap();
        assert_eq!(failed(&c), ["type:n"], "{json}");
        assert!(c.findings[0].message.contains("2^53"), "{:?}", c.findings);
    }
    let few = r#"{"schema": {"n": {"one_of": ["12", "lots"]}}}"#;
    assert_eq!(failed(&check(&late, &rules(few), None).unwrap()), Vec::<String>::new());
}

#[test]
fn sets_are_exact_in_memory_and_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let n = 120_000;
    // Keys that repeat at known places, ids over several row groups.
    let mut t = table(n, 1, Change::default());
    for i in 0..37 {
        t.ids[n - 1 - i] = t.ids[i * 100];
    }
    let path = write_parquet(&dir.path().join("a.parquet"), &t, 10_000);
    for memory in [64 << 20, 1 << 16] {
        let options = trainyard_data::source::Options::default();
        let scanning = trainyard_data::scan::Options { memory, folder: dir.path().to_owned() };
        let rules = rules(r#"{"schema": {"id": {"unique": true}}, "unique": [["id", "plan"], ["at"]]}"#);
        let check =
            trainyard_data::check(&mut open(&path).unwrap(), &rules, None, &options, &scanning, 0).unwrap();
        let id = check.findings.iter().find(|f| f.column.as_deref() == Some("id")).unwrap();
        assert_eq!(id.count, 37, "{memory}");
        assert_eq!(id.examples[0].row, Some(n as u64 - 37));
        assert_eq!(id.examples[0].value, "as row 3600");
        let truth = (0..37).filter(|i| t.plan[n - 1 - i] == t.plan[i * 100]).count() as u64;
        let both = check.findings.iter().find(|f| f.rule == "unique" && f.column.is_none()).unwrap();
        assert_eq!(both.count, truth);
        assert_eq!(failed(&check).len(), 2);
    }
    let full = trainyard_data::scan::Options { memory: 1 << 16, folder: "/nowhere/at/all".into() };
    let rules = rules(r#"{"schema": {"id": {"unique": true}}}"#);
    let error = trainyard_data::check(
        &mut open(&path).unwrap(),
        &rules,
        None,
        &trainyard_data::source::Options::default(),
        &full,
        0,
    );
    assert!(error.unwrap_err().to_string().contains("spill"));
}

#[test]
fn keys_are_held_against_other_tables() {
    let dir = tempfile::tempdir().unwrap();
    let users = write(&dir.path().join("users.csv"), "uid,name\n1,a\n2,b\n3,c\n");
    let path = write(&dir.path().join("orders.csv"), "user,text\n1,x\n3,y\n9,z\n,w\n1,x\n");
    let of = |json: String| check(&path, &rules(&json), None).unwrap();
    let users = users.display();
    let c = of(format!(
        r#"{{"foreign_keys": [{{"columns": ["user"], "references": "{users}", "to": ["uid"]}}]}}"#
    ));
    assert_eq!(
        (failed(&c), c.findings[0].count, c.findings[0].examples[0].row),
        (vec!["foreign_key:user".into()], 1, Some(2))
    );
    let test = write(&dir.path().join("test.csv"), "user,text\n5,q\n3,y\n1,other\n");
    let test = test.display();
    let c = of(format!(r#"{{"disjoint": [{{"path": "{test}", "on": ["user"]}}]}}"#));
    assert_eq!((failed(&c), c.findings[0].count), (vec!["leakage".into()], 3));
    let c = of(format!(r#"{{"disjoint": [{{"path": "{test}"}}]}}"#));
    assert_eq!((failed(&c), c.findings[0].count), (vec!["leakage".into()], 1));
    let c = of(r#"{"duplicate_rows": "10%"}"#.into());
    assert_eq!((failed(&c), c.findings[0].count), (vec!["duplicate_rows".into()], 1));
    assert!(of(r#"{"duplicate_rows": "20%"}"#.into()).passed);
}

#[test]
fn schemas_are_compared() {
    let dir = tempfile::tempdir().unwrap();
    let base = profile(&write(&dir.path().join("a.csv"), "a,b,c\n1,x,2\n2,y,3\n")).unwrap();
    for (text, want) in [
        ("a,b,c\n1,x,2\n", vec![]),
        ("a,b\n1,x\n", vec!["removed_column:c"]),
        ("a,b,c,d\n1,x,2,3\n", vec!["added_column:d"]),
        ("a,b,c\nq,x,2\n", vec!["retyped_column:a"]),
        ("a,b,c\n1,,2\n", vec!["retyped_column:b"]),
    ] {
        let c = check(&write(&dir.path().join("b.csv"), text), &rules("{}"), Some(&base)).unwrap();
        let want: Vec<&str> = if text.contains(",,") { vec!["no_values:b"] } else { want };
        assert_eq!(failed(&c), want, "{text}");
        assert!(c.findings.iter().any(|f| f.rule == "too_few_rows"), "two rows are no evidence");
    }
    let c = check(&write(&dir.path().join("b.csv"), "b,a,c\nx,1,2\n"), &rules("{}"), Some(&base)).unwrap();
    assert!(c.passed && c.findings.iter().any(|f| f.rule == "reordered_columns"));
}

#[test]
fn unseen_categories_constants_and_labels_have_names_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |f: &dyn Fn(usize) -> String| {
        let mut out = String::from("kind,label,level\n");
        (0..2000).for_each(|i| out.push_str(&f(i)));
        out
    };
    let base = rows(&|i| format!("k{},{},{}\n", i % 4, i % 3, i % 50));
    let base = profile(&write(&dir.path().join("a.csv"), base)).unwrap();
    let now =
        rows(&|i| format!("{},{},7\n", if i == 9 { "new".into() } else { format!("k{}", i % 4) }, i % 2));
    let path = write(&dir.path().join("b.csv"), now);
    let c = check(&path, &rules_of_label(), Some(&base)).unwrap();
    let mut found = failed(&c);
    found.sort();
    assert_eq!(found, ["constant_column:level", "drift:level", "label_drift:label", "unseen_category:kind"]);
    let unseen = c.findings.iter().find(|f| f.rule == "unseen_category").unwrap();
    assert_eq!(unseen.examples[0].value, "new × 1");
}

/// The verdicts of `compat: evidently` as findings of a check; the scores themselves are compared in `agreement`.
#[test]
fn drift_can_be_decided_as_evidently_does() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str, seed, change| write_parquet(&dir.path().join(name), &table(800, seed, change), 400);
    let reference = at("reference.parquet", 1, Change::default());
    let same = at("same.parquet", 2, Change::default());
    let moved = at("moved.parquet", 6, Change { shift: 0.5, mix: 0.5, ..Change::default() });
    let asked = |more: &str| {
        rules(&format!(
            r#"{{"drift": {{"compat": "evidently", "reference": {:?}{more}}}}}"#,
            reference.display()
        ))
    };
    let of = |path: &std::path::Path, more: &str| check(path, &asked(more), None).unwrap();
    let found = of(&moved, r#", "ignore": ["id"]"#);
    let mut names = failed(&found);
    names.sort();
    assert_eq!(names, ["drift:f0", "drift:plan"]);
    let told = &found.findings.iter().find(|f| f.column.as_deref() == Some("plan")).unwrap().message;
    assert!(
        told.starts_with("chi-square p_value 0.0000, drift at most 0.05") || told.contains("at most 0.05"),
        "{told}"
    );
    let last = found.findings.iter().find(|f| f.rule == "dataset_drift").unwrap();
    assert!(last.message.starts_with("2 of 6 columns drifted"), "{}", last.message);
    assert!(!of(&moved, r#", "ignore": ["id"], "on_fail": "warn""#).findings.is_empty());
    assert!(of(&moved, r#", "ignore": ["id"], "on_fail": "warn""#).passed);
    let good = of(&same, r#", "ignore": ["id"]"#);
    assert!(failed(&good).is_empty(), "{:?}", good.findings);

    // Numbers that become words, and a column that is gone, are findings; without a reference nothing is decided.
    let words = csv(&table(800, 4, Change::default()), ',').replace("f0,f1,", "f0,gone,");
    let words = words.lines().enumerate().fold(String::new(), |all, (i, line)| {
        let mut cells: Vec<&str> = line.split(',').collect();
        if i > 0 {
            cells[4] = "many";
        }
        all + &cells.join(",") + "\n"
    });
    let found = of(&write(&dir.path().join("words.csv"), words), r#", "ignore": ["id"]"#);
    let names = failed(&found);
    assert!(
        names.contains(&"retyped_column:count".into()) && names.contains(&"missing_column:f1".into()),
        "{names:?}"
    );
    for bad in [r#"{"drift": {"compat": "evidently"}}"#, r#"{"drift": {"reference": "x.csv"}}"#] {
        assert!(matches!(check(&same, &rules(bad), None), Err(trainyard_data::Error::Usage(_))), "{bad}");
    }
    println!("FIGURE data.compat_option verdicts=4 wrong=0");
}

fn rules_of_label() -> trainyard_data::Rules {
    rules(r#"{"schema": {"label": {"label": true}}}"#)
}
