use super::*;
use crate::agent::mask::Masker;
use crate::agent::script::Places;
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
    fn sources(&self) -> String {
        let line = |s: &crate::model::MetricSource| {
            let gave = if s.used {
                format!("{} points, {} params", s.points, s.params)
            } else {
                "passed over".into()
            };
            format!("{} {}: {gave} {}\n", s.kind, s.place, s.note)
        };
        self.found.sources.iter().map(line).collect()
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
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
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
    assert_eq!(
        b.sources(),
        "json lines log.jsonl: 3 points, 0 params line 3 is no JSON object\njson lines metrics.jsonl: 3 points, 0 params \n"
    );
}

#[test]
fn a_document_counts_when_the_commands_wrote_it() {
    let mut b = bench();
    b.write("metrics.json", "{\"accuracy\": 0.1}");
    b.write("eval/scores.json", "{}");
    let files = ["eval/*.json".to_owned(), "missing.json".to_owned(), "out.csv".to_owned()];
    let mut all = Collectors::new(&b.places, &Wanted { files: files.to_vec(), ..Wanted::default() }).0;
    b.write("eval/scores.json", "{\"a\": {\"b\": 1e3}, \"name\": \"x\", \"flag\": false, \"xs\": [1]}");
    b.write("out.csv", "1");
    b.write("params.yaml", "lr: 0.1\nmodel: {width: 8, layers: [1, 2], token: hunter2!}\n");
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("a/b", "1000", None), point("flag", "0", None)]);
    assert_eq!(
        b.sources(),
        "json metrics.json: passed over it was there before the commands ran\n\
         json missing.json: passed over it is named, but the commands did not write it\n\
         json eval/scores.json: 2 points, 0 params \n\
         csv out.csv: passed over it has no column `step` or `epoch`\n\
         parameters params.yaml: 0 points, 4 params \n"
    );
    let params: Vec<String> = b.found.params.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(params, ["lr=0.1", "model.layers=[1,2]", "model.token=***", "model.width=8"]);
}

#[test]
fn a_document_that_grows_reports_changes_alone() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
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
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
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
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    std::os::unix::fs::symlink("/etc/passwd", b.places.source.join("metrics.json")).unwrap();
    nix::unistd::mkfifo(&b.places.source.join("log.jsonl"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::create_dir(b.places.source.join("params.json")).unwrap();
    b.write("metrics.jsonl", &"x".repeat(3 << 20));
    all.poll(&mut b.found, true);
    assert!(b.points().is_empty());
}

#[test]
fn a_link_in_the_place_of_the_metrics_directory_is_not_followed() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    std::fs::write(b.places.metrics.join("x.json"), "{\"mine\": 1}").unwrap();
    all.poll(&mut b.found, false);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir(elsewhere.path().join("metrics")).unwrap();
    std::fs::write(elsewhere.path().join("metrics/push.json"), "{\"theirs\": 1}").unwrap();
    let out = b.places.metrics.parent().unwrap();
    std::fs::remove_dir_all(out).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), out).unwrap();
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("mine", "1", None)]);
    assert!(b.sources().contains("file $TRAINYARD_METRICS: passed over it leads through a symbolic link"));
}

#[test]
fn lines_of_an_earlier_run_are_not_counted_again() {
    let mut b = bench();
    b.write("log.jsonl", "{\"step\": 1, \"loss\": 0.9}\n");
    b.write("metrics.jsonl", "{\"step\": 1, \"acc\": 0.1}\n{\"step\": 2, \"acc\": 0.2}\n");
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    b.write("log.jsonl", "{\"step\": 1, \"loss\": 0.9}\n{\"step\": 1, \"loss\": 0.8}\n");
    b.write("metrics.jsonl", "{\"step\": 1, \"acc\": 0.3}\n");
    all.poll(&mut b.found, true);
    assert_eq!(b.points(), [point("loss", "0.8", 1), point("acc", "0.3", 1)]);
}

#[test]
fn a_file_that_is_written_again_is_read_again() {
    let mut b = bench();
    let lines = "{\"step\": 1, \"acc\": 0.1}\n{\"step\": 2, \"acc\": 0.2}\n";
    // A commit may hold last week's file, and a training that repeats itself writes the same one.
    for name in ["metrics.jsonl", "log.jsonl", "a.jsonl"] {
        b.write(name, lines);
    }
    let mut all =
        Collectors::new(&b.places, &Wanted { files: vec!["a.jsonl".into()], ..Wanted::default() }).0;
    b.write("metrics.jsonl", lines);
    // One that is longer than the old one may be a resumed one: it goes on where that ended.
    b.write("log.jsonl", &lines.replace("acc", "f1"));
    all.poll(&mut b.found, false);
    let same = b.points();
    assert!(same.contains(&point("acc", "0.1", 1)) && same.contains(&point("acc", "0.2", 2)), "{same:?}");
    b.write("log.jsonl", &format!("{}{{\"step\": 3, \"f1\": 0.3}}\n", lines.replace("acc", "f2")));
    b.write("a.jsonl", &format!("{lines}{{\"step\": 3, \"acc\": 0.3}}\n"));
    all.poll(&mut b.found, true);
    assert_eq!(
        b.points(),
        // `acc` at the steps 1 and 2 was said before, with the same values.
        [point("acc", "0.3", 3), point("f2", "0.1", 1), point("f2", "0.2", 2), point("f1", "0.3", 3)]
    );
}

#[test]
fn hugging_face_states_repeat_nothing() {
    let mut b = bench();
    b.write("old/trainer_state.json", "{\"log_history\": [{\"loss\": 9.0, \"step\": 1}]}");
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    let one = "{\"epoch\": 0.5, \"grad_norm\": 1.25, \"learning_rate\": 5e-05, \"loss\": 0.9, \"step\": 10}";
    let two = "{\"epoch\": 1.0, \"eval_accuracy\": 0.8, \"eval_loss\": NaN, \"step\": 20}";
    let end =
        "{\"epoch\": 1.0, \"step\": 20, \"total_flos\": 1e3, \"train_loss\": 0.85, \"train_runtime\": 3.5}";
    let state = |history: &[&str]| {
        format!("{{\"best_metric\": null, \"global_step\": 20, \"log_history\": [{}]}}", history.join(", "))
    };
    b.write("out/checkpoint-10/trainer_state.json", &state(&[one]));
    all.poll(&mut b.found, false);
    b.write("out/checkpoint-20/trainer_state.json", &state(&[one, two]));
    b.write("out/trainer_state.json", &state(&[one, two, end]));
    b.write("out/all_results.json", "{\"epoch\": 1.0, \"eval_accuracy\": 0.8, \"train_loss\": 0.85}");
    // Another training of the same step uses the same names.
    b.write("second/trainer_state.json", &state(&[one]));
    all.poll(&mut b.found, true);
    let got = b.points();
    let mut names: Vec<String> =
        got.iter().map(|(n, v, s)| format!("{n}={v}@{}", s.map_or("-".into(), |s| s.to_string()))).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "eval_accuracy=0.8@-",
            "eval_accuracy=0.8@20",
            "eval_loss=NaN@20",
            "grad_norm=1.25@10",
            "learning_rate=0.00005@10",
            "loss=0.9@10",
            "second/grad_norm=1.25@10",
            "second/learning_rate=0.00005@10",
            "second/loss=0.9@10",
            "total_flos=1000@20",
            "train_loss=0.85@-",
            "train_loss=0.85@20",
            "train_runtime=3.5@20",
        ]
    );
    assert!(
        b.sources().contains("hugging face old/trainer_state.json: passed over it was there before"),
        "{}",
        b.sources()
    );
}

#[test]
fn tables_are_known_by_name_or_header() {
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    // Lightning writes the file anew when there are more columns.
    b.write("lightning_logs/version_0/metrics.csv", "epoch,step,train_loss\n0,49,0.5\n");
    b.write("lightning_logs/version_0/hparams.yaml", "lr: 0.02\nlayers: 2\n");
    all.poll(&mut b.found, false);
    b.write(
        "lightning_logs/version_0/metrics.csv",
        "epoch,step,train_loss,val_acc\n0,49,0.5,\n0,49,,0.75\n1,99,nan,\n",
    );
    b.write("training.log", "epoch,accuracy,loss,val_loss\n0,0.5,1.25,inf\n1,0.625,1.0,0.5\n");
    b.write("runs/detect/train/results.csv", "   epoch,  metrics/mAP50(B)\n   1,   0.25\n");
    b.write("history.csv", "epoch;loss2\n0;0.5\n");
    b.write("data/people.csv", "id,age\n1,30\n");
    b.write("app.log", "epoch of the dinosaurs\n");
    all.poll(&mut b.found, true);
    let got = b.points();
    let expected = [
        point("train_loss", "0.5", 49),
        point("loss2", "0.5", 0),
        point("val_acc", "0.75", 49),
        point("train_loss", "NaN", 99),
        point("metrics/mAP50(B)", "0.25", 1),
        point("accuracy", "0.5", 0),
        point("loss", "1.25", 0),
        point("val_loss", "inf", 0),
        point("accuracy", "0.625", 1),
        point("loss", "1", 1),
        point("val_loss", "0.5", 1),
    ];
    assert_eq!(got, expected);
    assert_eq!((b.found.params["lr"].as_str(), b.found.params["layers"].as_str()), ("0.02", "2"));
    let sources = b.sources();
    assert!(!sources.contains("people") && !sources.contains("app.log"), "{sources}");
}

#[test]
fn event_files_are_read_as_they_grow() {
    use super::events::tests::scalar;
    let mut b = bench();
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    let write = |b: &Bench, name: &str, bytes: &[u8]| {
        b.write(name, "");
        std::fs::write(b.places.source.join(name), bytes).unwrap();
    };
    let first = scalar("loss", 0.5, 1, false);
    let second = scalar("loss", f32::NAN, 2, true);
    let third = scalar("loss", 0.25, 3, true);
    let torn = [&first[..], &second[..20]].concat();
    write(&b, "runs/events.out.tfevents.1.host", &torn);
    all.poll(&mut b.found, false);
    assert_eq!(b.points(), [point("loss", "0.5", 1)]);
    write(&b, "runs/events.out.tfevents.1.host", &[&first[..], &second, &third[..third.len() - 1]].concat());
    // Keras' two directories; a second run of the same names; a record that was spoiled.
    write(&b, "logs/train/events.out.tfevents.2", &scalar("epoch_loss", 1.0, 0, true));
    write(&b, "logs/validation/events.out.tfevents.2", &scalar("epoch_loss", 2.0, 0, true));
    write(&b, "runs/second/events.out.tfevents.3", &scalar("loss", 4.0, 1, false));
    let mut spoiled = [scalar("x", 1.0, 0, false), scalar("x", 2.0, 1, false)].concat();
    let at = spoiled.len() - 6;
    spoiled[at] ^= 1;
    write(&b, "bad/events.out.tfevents.4", &spoiled);
    all.poll(&mut b.found, true);
    let mut got = b.points();
    got.sort();
    let mut expected = [
        point("x", "1", 0),
        point("train/epoch_loss", "1", 0),
        point("validation/epoch_loss", "2", 0),
        point("loss", "NaN", 2),
        point("second/loss", "4", 1),
    ];
    expected.sort();
    assert_eq!(got, expected);
    let sources = b.sources();
    assert!(sources.contains("its last record is torn"), "{sources}");
    assert!(sources.contains("where its checksum fails"), "{sources}");
}

#[test]
fn evaluations_and_dvc_files() {
    let mut b = bench();
    b.write("dvc.yaml", "metrics: [eval/live.json]\nplots: [roc.csv, curve.json]\n");
    let mut all = Collectors::new(&b.places, &Wanted::default()).0;
    b.write(
        "out/results_2026-01-01.json",
        "{\"results\": {\"hellaswag\": {\"alias\": \"hellaswag\", \"acc,none\": 0.5, \"acc_stderr,none\": 0.01, \
         \"exact_match,strict\": 0.25, \"x,none\": \"N/A\"}}, \"versions\": {}, \"config\": {\"model\": \"hf\", \"limit\": 10}}",
    );
    b.write("eval/live.json", "{\"auc\": 0.9}");
    b.write("roc.csv", "fpr,tpr\n0,0\n1,1\n");
    b.write("curve.json", "[{\"step\": 0, \"lr\": 0.5}, {\"step\": 1, \"lr\": 0.25}]");
    b.write("dvclive/metrics.json", "{\"train\": {\"loss\": 0.5}, \"step\": 1, \"once\": 7}");
    b.write("dvclive/params.yaml", "depth: 3\n");
    b.write("dvclive/plots/metrics/train/loss.tsv", "step\tloss\n0\t0.75\n1\t0.5\n");
    all.poll(&mut b.found, true);
    let mut got = b.points();
    got.sort();
    assert_eq!(
        got,
        [
            point("auc", "0.9", None),
            point("hellaswag/acc", "0.5", None),
            point("hellaswag/acc_stderr", "0.01", None),
            point("hellaswag/exact_match/strict", "0.25", None),
            point("lr", "0.25", 1),
            point("lr", "0.5", 0),
            point("once", "7", 1),
            point("train/loss", "0.5", 1),
            point("train/loss", "0.75", 0),
        ]
    );
    assert_eq!((b.found.params["config.model"].as_str(), b.found.params["depth"].as_str()), ("hf", "3"));
    assert!(b.sources().contains("csv roc.csv: passed over it has no column `step`"), "{}", b.sources());
}

#[test]
fn reports_of_tests_are_summed() {
    let mut b = bench();
    let wanted = Wanted { junit: Some("report.xml".into()), ..Wanted::default() };
    let mut all = Collectors::new(&b.places, &wanted).0;
    b.write(
        "report.xml",
        "<testsuite><testcase name=\"a\" time=\"0.5\"/><testcase name=\"b\"><failure message=\"no\"/></testcase></testsuite>",
    );
    b.write("junit-two.xml", "<testsuite><testcase name=\"c\"><skipped/></testcase></testsuite>");
    all.poll(&mut b.found, true);
    let got = b.points();
    assert_eq!(got.len(), 8);
    assert_eq!(
        got[4..],
        [
            point("tests/passed", "1", None),
            point("tests/failed", "1", None),
            point("tests/skipped", "1", None),
            point("tests/seconds", "0.5", None)
        ]
    );
    assert!(b.sources().contains("1 passed, 1 failed, 0 skipped in 0.5 s; b: no"), "{}", b.sources());
}

#[test]
fn patterns_find_what_is_printed() {
    let mut b = bench();
    let patterns = [
        r"epoch (?P<step>\d+).* loss[=:] *(?P<loss>[-+\w.]+)".to_owned(),
        r"^(?P<name>\w+) -> (?P<value>\S+)$".to_owned(),
    ];
    let (mut all, scanner) =
        Collectors::new(&b.places, &Wanted { patterns: patterns.to_vec(), ..Wanted::default() });
    let mut scanner = scanner.unwrap();
    for piece in ["epoch 1 of 2 loss", "=0.5\repoch 2 loss: nan\n", "auc -> 0.75\nauc -> none\n", "junk\n"] {
        scanner.push(piece.as_bytes());
    }
    scanner.push(&vec![b'x'; 100_000]);
    scanner.push(b" epoch 9 loss=1\nlast -> 3");
    scanner.finish();
    all.poll(&mut b.found, true);
    assert_eq!(
        b.points(),
        [
            point("loss", "0.5", 1),
            point("loss", "NaN", 2),
            point("auc", "0.75", None),
            point("last", "3", None)
        ]
    );
    assert!(Collectors::new(&b.places, &Wanted::default()).1.is_none(), "nothing is guessed");
}

/// Every form with random and with spoiled bytes: a note or a result, never a panic or a hang.
#[test]
fn random_bytes_do_no_harm() {
    use super::events::tests::scalar;
    use rand::{Rng as _, SeedableRng as _};
    let mut random = rand::rngs::StdRng::seed_from_u64(4);
    let samples: &[(&str, &[u8])] = &[
        ("metrics.json", b"{\"a\": 1, \"b\": {\"c\": NaN}, \"metrics\": [{\"name\": \"x\", \"value\": 1}]}"),
        ("metrics.jsonl", b"{\"step\": 1, \"a\": 2}\n{\"step\": 2, \"a\": -Infinity}\n"),
        ("params.yaml", b"a: 1\nb: {c: [1, 2]}\n"),
        ("out/trainer_state.json", b"{\"log_history\": [{\"loss\": 1.0, \"step\": 1}]}"),
        ("out/all_results.json", b"{\"eval_loss\": 1.0}"),
        ("lightning_logs/version_0/metrics.csv", b"epoch,step,a\n0,1,2\n\"x\ny\",3\n"),
        ("training.log", b"epoch,loss\n0,1\n"),
        ("dvclive/plots/metrics/a.tsv", b"step\ta\n0\t1\n"),
        ("results_1.json", b"{\"results\": {\"t\": {\"acc,none\": 1}}, \"versions\": {}}"),
        (
            "junit.xml",
            b"<testsuite><testcase name=\"a\"><failure message=\"b\">c</failure></testcase></testsuite>",
        ),
        ("dvc.yaml", b"metrics: [a.json]\nstages: {x: {metrics: [b.json]}}\n"),
    ];
    let event = [scalar("a", 1.0, 1, true), scalar("b", 2.0, 2, false)].concat();
    let (mut files, mut listed) = (0, 0);
    for round in 0..60 {
        let mut b = bench();
        let mut all = Collectors::new(&b.places, &Wanted::default()).0;
        for (name, sample) in
            samples.iter().copied().chain([("runs/events.out.tfevents.1", event.as_slice())])
        {
            let mut bytes = sample.to_vec();
            match round % 3 {
                // Bytes of no form at all, some of a few, some long.
                0 => {
                    bytes = vec![0; random.random_range(0..5_000)];
                    random.fill(bytes.as_mut_slice());
                }
                // A sample with some bytes changed.
                1 => {
                    for _ in 0..random.random_range(1..8) {
                        let at = random.random_range(0..bytes.len());
                        bytes[at] = random.random();
                    }
                }
                // Cut and doubled.
                _ => {
                    bytes.truncate(random.random_range(0..=sample.len()));
                    bytes.extend_from_slice(&sample[..random.random_range(0..sample.len())]);
                }
            }
            b.write(name, "");
            std::fs::write(b.places.source.join(name), &bytes).unwrap();
            files += 1;
            if round % 2 == 0 {
                all.poll(&mut b.found, false);
            }
        }
        let begun = std::time::Instant::now();
        all.poll(&mut b.found, true);
        assert!(begun.elapsed().as_secs() < 10, "round {round} took {:?}", begun.elapsed());
        listed += b.found.sources.len();
    }
    println!("FIGURE metric_files_spoiled files={files} listed={listed} panics=0");
    assert!(listed > 60 * 8);
}

/// A step that writes without end is bounded by points, names, parameters and notes.
#[test]
fn what_is_found_is_bounded() {
    let mut b = bench();
    for i in 0..3_000 {
        b.found.point(&format!("m{i}"), 1.0, Some(i));
        b.found.param(&format!("p{i}"), "x");
        b.found.passed_over("json", &format!("f{i}"), "no".into());
        b.found.note(format!("n{i}"));
    }
    assert_eq!((b.found.points.len(), b.found.params.len()), (2_000, 1_000));
    assert_eq!((b.found.sources.len(), b.found.notes.len()), (200, 50));
    b.found.point("a hunter2! name", 1.0, None);
    assert!(!b.found.points.iter().any(|p| p.name.contains("hunter2")));
}
