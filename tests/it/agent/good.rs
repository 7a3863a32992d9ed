//! One attempt as it should go, looked at from all sides.

use sha2::{Digest as _, Sha256};
use trainyard::agent::protocol::Input;
use trainyard::model::EndClass;

use super::daemon::{Agent, BOOTSTRAP, Daemon, TOKEN, run, spec, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_from_source_to_result() {
    let daemon = Daemon::start().await;
    let mut spec = spec(
        &daemon.sha,
        &[
            "cat data/x.csv && test \"$(git rev-parse HEAD)\" = \"$WANTED\" && git status --porcelain",
            "echo password is $API_KEY; printf %s \"$API_KEY\" | base64; echo err >&2",
            "echo \"cuda=[$CUDA_VISIBLE_DEVICES] ci=$CI unbuffered=$PYTHONUNBUFFERED who=$TRAINYARD_RUN\"",
            "env | sort > env.txt; cat .git/config > config.txt; ls -la \"$HOME/..\" > ls.txt; cat earlier/model.bin; ./earlier/tool",
            "echo score=0.5 > $TRAINYARD_OUTPUT; echo '{\"accuracy\": 0.91, \"loss\": NaN, \"by\": {\"a\": 1}}' > metrics.json",
            "for i in 1 2 3; do echo \"{\\\"step\\\": $i, \\\"train/loss\\\": 0.$i}\" >> log.jsonl; done; echo 'lr: 0.1' > params.yaml",
            "echo '{\"extra\": 7}' > $TRAINYARD_METRICS/more.json",
            "mkdir -p out/model && echo weights > out/model/w.bin && echo x > out/model/run.sh && chmod +x out/model/run.sh && ln -s /etc/passwd out/model/escape",
        ],
    );
    spec.setup = vec!["echo setup".into()];
    spec.env.insert("WANTED".into(), daemon.sha.to_string());
    spec.env.insert("TRAINYARD_RUN".into(), "r1".into());
    spec.secrets.insert("API_KEY".into(), "s3cr3t-val/ue+1".into());
    spec.gpus = vec![1, 3];
    spec.artifacts = ["out/model/**", "env.txt", "config.txt", "ls.txt"].map(str::to_owned).to_vec();
    for (path, text, executable) in
        [("out/model.bin", "earlier weights\n", false), ("tool", "#!/bin/sh\necho tool ran\n", true)]
    {
        daemon.seen.lock().unwrap().inputs.insert(format!("a1:{path}"), text.into());
        spec.inputs.push(Input {
            attempt: "a1".into(),
            path: path.into(),
            place: format!("earlier/{}", path.rsplit('/').next().unwrap()),
            bytes: text.len() as i64,
            sha256: hex::encode(Sha256::digest(text)),
            executable,
        });
    }
    let (finished, log) = run(&daemon, spec).await;
    assert_eq!((finished.class, finished.exit_code), (EndClass::Succeeded, Some(0)), "{finished:?}\n{log}");
    let ours = |l: &&str| !l.starts_with("[trainyard] source");
    let lines: Vec<&str> = log.lines().filter(|l| !l.starts_with('+')).filter(ours).collect();
    assert_eq!(
        lines,
        [
            "[trainyard] 2 artifacts of earlier steps are in place",
            "setup",
            "1,2",
            "?? earlier/",
            "password is ***",
            "***",
            "err",
            "cuda=[1,3] ci=true unbuffered=1 who=r1",
            "earlier weights",
            "tool ran",
            "[trainyard] left out of the artifacts \"out/model/**\": \"out/model/escape\" is a link out of the source tree",
            "[trainyard] 5 artifacts stored",
            "[trainyard] succeeded: the commands ended with exit code 0",
        ]
    );
    assert!(log.contains("+ echo setup\nsetup\n+ cat data/x.csv && "), "{log}");
    assert_eq!(finished.outputs["score"], "0.5");
    let seen = daemon.seen.lock().unwrap();
    let mut points: Vec<String> =
        seen.points.iter().map(|p| format!("{}={}@{:?}", p.name, p.value, p.step)).collect();
    points.sort();
    assert_eq!(
        points,
        [
            "accuracy=0.91@None",
            "by/a=1@None",
            "extra=7@None",
            "loss=NaN@None",
            "score=0.5@None",
            "train/loss=0.1@Some(1)",
            "train/loss=0.2@Some(2)",
            "train/loss=0.3@Some(3)",
        ]
    );
    assert_eq!(seen.params["lr"], "0.1");
    let kept: Vec<String> = seen.artifacts.iter().map(|(p, (b, x))| format!("{p} {} {x}", b.len())).collect();
    assert!(
        kept.contains(&"out/model/run.sh 2 true".into()) && kept.contains(&"out/model/w.bin 8 false".into())
    );
    assert!(!kept.iter().any(|p| p.contains("escape")), "{kept:?}");
    assert!(
        finished.notes.iter().any(|n| n.contains("is a link out of the source tree")),
        "{:?}",
        finished.notes
    );
    // The token is nowhere that a command can see, and the secret only where it was asked for.
    for file in ["env.txt", "config.txt", "ls.txt"] {
        let text = String::from_utf8_lossy(&seen.artifacts[file].0).into_owned();
        assert!(
            !text.contains(TOKEN) && !text.contains(BOOTSTRAP) && !text.contains("bootstrap.json"),
            "{text}"
        );
    }
    assert!(!log.contains("s3cr3t-val") && !log.contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_line_comes_promptly_and_a_second_agent_leaves_quietly() {
    let daemon = Daemon::start().await;
    daemon.will_run(spec(
        &daemon.sha,
        &["echo first", "while ! test -e ../go; do sleep 0.05; done; echo last"],
    ));
    let mut agent = Agent::start(&daemon.url);
    until("the first line is there", || daemon.seen.lock().unwrap().log.ends_with(b"done; echo last\n"))
        .await;
    let printed = std::fs::metadata(agent.dir.join("spool.log")).unwrap().modified().unwrap();
    let lag = printed.elapsed().unwrap();
    println!("FIGURE first log line seen {} ms after it was printed", lag.as_millis());
    assert!(lag.as_millis() < 1_500, "{lag:?}");
    // The bootstrap is gone; its agent keeps others out.
    assert!(!agent.dir.join("bootstrap.json").exists());
    let mut second = Agent::start_in(&daemon.url, agent.dir.clone(), None);
    assert!(second.end().await);
    assert_eq!(daemon.seen.lock().unwrap().starts, 1);
    // It leads its own session, so a terminal's or daemon's end does not reach it.
    let stat = trainyard::agent::proc::stat(agent.pid() as i32).unwrap();
    assert_eq!(stat.session, agent.pid() as i32);
    std::fs::write(agent.dir.join("go"), "").unwrap();
    assert!(agent.end().await);
    let seen = daemon.seen.lock().unwrap();
    assert_eq!(seen.finished.as_ref().unwrap().class, EndClass::Succeeded);
}
