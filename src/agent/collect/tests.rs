use super::*;
use crate::clock::ManualClock;

struct Bench {
    _dir: tempfile::TempDir,
    places: Places,
    found: Found,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let places = Places::below(dir.path(), dir.path().join("src"));
    places.make().unwrap();
    let found = Found::new(Masker::new(&[("TOKEN", "hunter2!")]), ManualClock::at(7));
    Bench { _dir: dir, places, found }
}

impl Bench {
    fn write(&self, name: &str, text: &str) {
        let path = self.places.source.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    fn points(&mut self) -> Vec<(String, String, Option<i64>)> {
        self.found.points.drain(..).map(|p| (p.name, p.value.to_string(), p.step)).collect()
    }
}

fn point(name: &str, value: &str, step: impl Into<Option<i64>>) -> (String, String, Option<i64>) {
    (name.into(), value.into(), step.into())
}

#[test]
fn json_lines_are_followed_live_and_torn_lines_wait() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &[]);
    b.write("log.jsonl", "{\"step\": 1, \"loss\": 0.5, \"epoch\": 0.1}\n{\"step\": 2, \"lo");
    all.poll(&mut b.found, false);
    assert_eq!(b.points(), [point("loss", "0.5", 1)]);
    b.write("log.jsonl", "{\"step\": 1, \"loss\": 0.5, \"epoch\": 0.1}\n{\"step\": 2, \"loss\": NaN, \"val\": {\"f1\": -Infinity}}\n[1]\n");
    all.poll(&mut b.found, false);
    assert_eq!(b.points(), [point("loss", "NaN", 2), point("val/f1", "-inf", 2)]);
    // The last line may lack its line feed.
    b.write("metrics.jsonl", "{\"acc\": 0.1}\n{\"acc\": 0.2}\n{\"epoch\": 9, \"acc\": true}");
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("acc", "0.1", 0), point("acc", "0.2", 1), point("acc", "1", 9)]);
    assert!(b.found.notes.iter().any(|n| n == "log.jsonl: line 3 is no JSON object"), "{:?}", b.found.notes);
}

#[test]
fn a_document_counts_when_the_commands_wrote_it() {
    let mut b = bench();
    b.write("metrics.json", "{\"accuracy\": 0.1}");
    b.write("eval/scores.json", "{}");
    let files = ["eval/*.json".to_owned(), "missing.json".to_owned(), "out.csv".to_owned()];
    let mut all = Collectors::new(&b.places, &files);
    b.write("eval/scores.json", "{\"a\": {\"b\": 1e3}, \"name\": \"x\", \"flag\": false, \"xs\": [1]}");
    b.write("out.csv", "1");
    b.write("params.yaml", "lr: 0.1\nmodel: {width: 8, layers: [1, 2], token: hunter2!}\n");
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("a/b", "1000", None), point("flag", "0", None)]);
    let notes = b.found.notes.join("\n");
    for text in [
        "metrics.json: passed over, it was there before the commands ran",
        "missing.json: named in the pipeline, but the commands did not write it",
        "out.csv: passed over, only",
    ] {
        assert!(notes.contains(text), "{notes}");
    }
    let params: Vec<String> = b.found.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(params, ["lr=0.1", "model.layers=[1,2]", "model.token=***", "model.width=8"]);
}

#[test]
fn a_document_that_grows_reports_changes_alone() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &[]);
    b.write("metrics.json", "{\"step\": 1, \"loss\": 0.5}");
    all.poll(&mut b.found, false);
    all.poll(&mut b.found, false);
    b.write("metrics.json", "{\"step\": 2, \"loss\": 0.5");
    all.poll(&mut b.found, false);
    b.write("metrics.json", "{\"step\": 22, \"loss\": 0.25}");
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("loss", "0.5", 1), point("loss", "0.25", 22)]);
}

#[test]
fn outputs_are_kept_and_numbers_are_metrics_too() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &[]);
    std::fs::write(
        &b.places.output,
        "accuracy=0.93\nmodel=out/m.bin\nloss=nan\nnotes<<EOF\nline=1\nline 2\nEOF\nkey=hunter2!\nLD_PRELOAD=/x\nPATH=/y\n\
         GIT_SSH=z\nBASH_ENV=q\nbad name=1\nx$(id)=2\nrubbish\n\n",
    )
    .unwrap();
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("accuracy", "0.93", None), point("loss", "NaN", None)]);
    let outputs: Vec<String> = b.found.outputs.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(outputs, ["accuracy=0.93", "key=***", "loss=nan", "model=out/m.bin", "notes=line=1\nline 2"]);
    let refused = b.found.notes.iter().filter(|n| n.contains("refused")).count();
    println!("SEC S21 cases=6 failed={}", 6 - refused);
    assert_eq!(refused, 6);
}

#[test]
fn files_that_are_no_files_are_left_alone() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &[]);
    std::os::unix::fs::symlink("/etc/passwd", b.places.source.join("metrics.json")).unwrap();
    nix::unistd::mkfifo(&b.places.source.join("log.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(b.places.source.join("params.json")).unwrap();
    b.write("metrics.jsonl", &"x".repeat(3 << 20));
    all.poll(&mut b.found, true);
    assert!(b.points().is_empty());
}

#[test]
fn lines_of_an_earlier_run_are_not_counted_again() {
    let mut b = bench();
    b.write("log.jsonl", "{\"step\": 1, \"loss\": 0.9}\n");
    b.write("metrics.jsonl", "{\"step\": 1, \"acc\": 0.1}\n{\"step\": 2, \"acc\": 0.2}\n");
    let mut all = Collectors::new(&b.places, &[]);
    b.write("log.jsonl", "{\"step\": 1, \"loss\": 0.9}\n{\"step\": 1, \"loss\": 0.8}\n");
    b.write("metrics.jsonl", "{\"step\": 1, \"acc\": 0.3}\n");
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("loss", "0.8", 1), point("acc", "0.3", 1)]);
}
