//! S18 in every sink: sixty forms of secrets are said to the daemon by an agent that hides nothing, and by the real agent to a
//! daemon that hides nothing. Then every place where they could have gone is looked through.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::Request;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::Method;
use serde_json::json;
use tower::ServiceExt as _;
use trainyard::model::plan::SecretRef;
use trainyard::model::{RepoName, RepoRef, RunState};
use trainyard::queue::Handler as _;
use trainyard::report::Reporter;
use trainyard::run::{Situation, next};
use trainyard::store::deliveries::IntakeCommit;
use trainyard::store::work::{WorkAsk, WorkItem, WorkKind};

use crate::agent::daemon::{Daemon, run as run_agent, spec};
use crate::store::fixture::{T0, delivery, intake, new_run, pull, sha};
use crate::web::Web;
use crate::web::agent_api::Agent;

/// One value of each kind that people have.
fn values() -> Vec<(&'static str, String)> {
    vec![
        ("PLAIN", "hf_Qx7pLm2RtV9zKd4WnB6s".into()),
        ("SIGNS", "p/w+9&7=\"q'x<%zK>$4 r\\t~".into()),
        ("LETTERS", "пароль-Größe-日本-4711".into()),
        ("LONG", "Zk4".repeat(70) + "end-of-it"),
        (
            "LINES",
            "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEA+7/x\n-----END KEY-----"
                .into(),
        ),
    ]
}

fn percent(text: &str, upper: bool) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) {
            out.push(b as char);
        } else if upper {
            out += &format!("%{b:02X}");
        } else {
            out += &format!("%{b:02x}");
        }
        out
    })
}

/// (what, as a program prints it): twelve forms of five values.
fn cases() -> Vec<(String, String)> {
    let mut cases = Vec::new();
    for (name, value) in values() {
        let line = value.lines().max_by_key(|line| line.len()).unwrap().to_owned();
        let json = serde_json::to_string(&value).unwrap();
        let forms = [
            ("plain", value.clone()),
            ("a line of it", line.clone()),
            ("twice in a word", format!("x{line}{line}y")),
            ("in a URL", format!("https://user:{}@host/", percent(&value, true))),
            ("percent, lower case", percent(&value, false)),
            ("base64", STANDARD.encode(&value)),
            ("base64 of user:value", STANDARD.encode(format!("user:{value}"))),
            ("base64 one off", STANDARD.encode(format!("ab{value}c"))),
            ("base64url", URL_SAFE_NO_PAD.encode(&value)),
            ("hex", hex::encode(&value)),
            ("HEX", hex::encode_upper(&value)),
            ("JSON", json[1..json.len() - 1].to_owned()),
        ];
        cases.extend(forms.map(|(form, text)| (format!("{name} {form}"), text)));
    }
    cases
}

/// What must not be found: the text as printed, and as it would be escaped in JSON and HTML.
fn traces(text: &str) -> Vec<Vec<u8>> {
    let json = serde_json::to_string(text).unwrap();
    let html = text
        .replace('&', "&#38;")
        .replace('<', "&#60;")
        .replace('>', "&#62;")
        .replace('"', "&#34;")
        .replace('\'', "&#39;");
    let mut all =
        vec![text.as_bytes().to_vec(), json.as_bytes()[1..json.len() - 1].to_vec(), html.into_bytes()];
    all.dedup();
    all
}

/// Counts the cases that left a trace in a sink.
fn leaks(sinks: &[(&str, Vec<u8>)]) -> usize {
    let mut found = 0;
    for (what, text) in cases() {
        for (sink, bytes) in sinks {
            if traces(&text).iter().any(|trace| memchr_find(bytes, trace)) {
                println!("leak: {what} in {sink}");
                found += 1;
            }
        }
    }
    found
}

fn memchr_find(bytes: &[u8], what: &[u8]) -> bool {
    aho_corasick::AhoCorasick::new([what]).unwrap().find(bytes).is_some()
}

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn files(dir: &std::path::Path, into: &mut Vec<u8>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        if entry.path().is_dir() {
            files(&entry.path(), into);
        } else {
            into.extend(std::fs::read(entry.path()).unwrap());
        }
    }
}

/// The daemon believes no agent: this one masks nothing.
#[tokio::test]
async fn sixty_forms_in_every_sink_of_the_daemon() {
    let captured = Captured::default();
    let writer = captured.clone();
    let logging =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone());
    let _guard = tracing::subscriber::set_default(logging.finish());
    let dir = tempfile::tempdir().unwrap();
    let mut extra = String::from(
        "[dashboard]\npublic_read = true\n[[repository]]\nforge = \"github\"\nname = \"ada/masked\"\n",
    );
    for (name, value) in values() {
        let path = dir.path().join(name);
        std::fs::write(&path, value).unwrap();
        extra += &format!("secrets.{name} = {{ file = {:?} }}\n", path.display().to_string());
    }
    let web = Web::with("http://127.0.0.1:9", &extra).await;
    let store = &web.place.store;
    let repo = RepoRef {
        forge_id: "masked".into(),
        name: RepoName::parse("ada/masked").unwrap(),
        default_branch: "main".into(),
    };
    let repo = store.upsert_repo("github", &repo, T0).await.unwrap();
    let mut new = new_run(&repo, &sha('a'), RunState::Queued);
    new.plan = crate::store::fixture::plan(&["test"]);
    new.plan.timeout_ms = 86_400_000;
    new.plan.steps[0].secrets =
        values().into_iter().map(|(n, _)| SecretRef { name: n.into(), env: n.into() }).collect();
    let hook = delivery("masked", b"{}");
    let id = hook.id.clone();
    store.deliver(hook).await.unwrap();
    let pulls = vec![(repo.clone(), pull(1, &sha('a')))];
    let commit = IntakeCommit { runs: vec![new], pulls, ..intake(&id) };
    let run = store.commit_intake(commit, T0).await.unwrap().unwrap().remove(0);

    let agent = Agent::start(&web, &run, 0).await;
    assert_eq!(agent.spec["secrets"].as_object().unwrap().len(), 5);
    let mut said = Vec::new();
    let mut offset = 0;
    for (_, text) in cases() {
        said.extend_from_slice(format!("+ {text}\n").as_bytes());
    }
    // In pieces, so that forms are cut at many places.
    for piece in said.chunks(997) {
        let (status, body) = agent.call(Method::POST, &format!("log?offset={offset}"), piece.to_vec()).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        offset += piece.len();
    }
    let all = cases();
    let points: Vec<_> = all
        .iter()
        .map(|(_, text)| json!({"name": format!("m {text}"), "value": 1.0, "step": null, "at_ms": T0}))
        .collect();
    let pairs: BTreeMap<String, String> =
        all.iter().map(|(_, text)| (format!("p {text}"), text.clone())).collect();
    let body = json!({"first_seq": 1, "points": points, "params": pairs}).to_string();
    assert_eq!(agent.call(Method::POST, "metrics", body).await.0, 200);
    for (_, text) in &all {
        let path = percent(&text.replace(['\n', '/', '\\'], "_"), true);
        let digest = hex::encode(<sha2::Sha256 as sha2::Digest>::digest("x"));
        let _ = agent
            .call(Method::PUT, &format!("artifact?path=out%2F{path}&sha256={digest}&executable=0"), "x")
            .await;
        let _ =
            agent.call(Method::PUT, &format!("cache?key={}&sha256={digest}", percent(text, true)), "x").await;
    }
    let texts: Vec<&String> = all.iter().map(|(_, text)| text).collect();
    let body = json!({"class": "failed", "exit_code": 1, "reason": format!("it said {texts:?}"), "outputs": pairs,
        "notes": texts, "log_lost_bytes": 0});
    assert_eq!(agent.call(Method::POST, "finish", body.to_string()).await.0, 204);

    // The run ends as its reconciler would have it, and is reported on.
    let view = web.place.view(&run).await;
    let limits = web.app.config.limits.clone();
    let ended = web.app.clock.now_ms();
    let situation = Situation {
        view: &view,
        now: ended,
        limits: &limits,
        answering: &BTreeMap::new(),
        queued: &std::collections::BTreeSet::new(),
        observed: &BTreeMap::new(),
        failed: &BTreeMap::new(),
        ahead: None,
    };
    store.apply(next(&situation).change.unwrap(), ended).await.unwrap();
    assert_eq!(web.place.view(&run).await.run.state, RunState::Failed);
    let app = &web.app;
    let reporter = Reporter::new(
        store.clone(),
        Arc::new(app.forges.clone()),
        app.blobs.clone(),
        app.clock.clone(),
        app.config.clone(),
        app.instance.clone(),
    );
    let key = WorkAsk::report_commit(&repo, &sha('a'), T0).key;
    let item = WorkItem { kind: WorkKind::Report, key, epoch: 1, claimed: 1, tries: 0, waits: 0 };
    reporter.handle(&item).await.unwrap();
    let due = store.outbox_due("github", None, i64::MAX / 2, 99).await.unwrap();
    assert!(due.len() >= 2, "a status and a comment: {due:?}");
    let posted = format!("{due:?}");

    let uid = agent.uid.clone();
    let pages = [
        ("runs page", "/".to_owned()),
        ("run page", format!("/runs/{run}")),
        ("API run", format!("/api/v1/runs/{run}")),
        ("API why", format!("/api/v1/runs/{run}/why")),
        ("API metrics", format!("/api/v1/runs/{run}/metrics")),
        ("API params", format!("/api/v1/runs/{run}/params")),
        ("API artifacts", format!("/api/v1/runs/{run}/artifacts")),
        ("API log", format!("/api/v1/attempts/{uid}/log")),
        ("log stream", format!("/api/v1/attempts/{uid}/log/stream?from=0&as=lines")),
    ];
    let router = trainyard::http::app::router(app.clone());
    let mut sinks = vec![("status and comment", posted.into_bytes())];
    for (name, path) in pages {
        let request = Request::get(&path).header("host", "trainyard.test").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        assert!(answer.status().is_success(), "{name}: {}", answer.status());
        let read = axum::body::to_bytes(answer.into_body(), 64 << 20);
        let body = tokio::time::timeout(std::time::Duration::from_secs(20), read).await.unwrap().unwrap();
        assert!(!body.is_empty(), "{name}");
        sinks.push((name, body.to_vec()));
    }
    store.check().await.unwrap();
    let mut database = Vec::new();
    files(web.place.path.parent().unwrap(), &mut database);
    sinks.push(("database files", database));
    let mut blobs = Vec::new();
    files(&web.blob_dir(), &mut blobs);
    sinks.push(("stored bytes", blobs));
    tracing::info!("the end");
    sinks.push(("the daemon's log", captured.0.lock().unwrap().clone()));
    // The test can fail: what was said is found where nothing is hidden.
    assert_eq!(leaks(&[("control", said)]), 60);
    let failed = leaks(&sinks);
    println!("SEC S18 cases={} sinks={} failed={failed}", cases().len(), sinks.len());
    std::io::stdout().flush().unwrap();
    assert_eq!(failed, 0);
}

/// The agent hides them before they leave the machine: the daemon of this test takes everything as it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_forms_in_all_that_an_agent_sends() {
    let daemon = Daemon::start().await;
    let script = cases().iter().enumerate().fold(String::new(), |mut script, (n, (_, text))| {
        let word = trainyard::agent::script::quoted(text);
        let line = trainyard::agent::script::quoted(&text.replace('\n', " "));
        script += &format!("printf '%s\\n' {word}; printf '%s' {word} >&2; echo\n");
        script += &format!("printf 'o{n}=%s\\n' {line} >> $TRAINYARD_OUTPUT\n");
        script
    });
    let mut one = spec(&daemon.sha, &["sh ./said.sh", "exit 3"]);
    // The script is written by setup, so that the commands' echo does not carry it a second time.
    one.setup = vec![format!("printf '%s' {} > said.sh", trainyard::agent::script::quoted(&script))];
    for (name, value) in values() {
        one.secrets.insert(name.into(), value);
    }
    let (finished, log) = run_agent(&daemon, one).await;
    let seen = daemon.seen.lock().unwrap();
    let sinks = [
        ("log", log.clone().into_bytes()),
        ("metrics", format!("{:?}", seen.points).into_bytes()),
        ("params", format!("{:?}", seen.params).into_bytes()),
        ("artifacts", format!("{:?}", seen.artifacts.keys().collect::<Vec<_>>()).into_bytes()),
        ("result", serde_json::to_vec(&finished).unwrap()),
    ];
    assert!(finished.outputs.len() >= 40 && log.matches("***").count() >= 60, "{finished:?}");
    let failed = leaks(&sinks);
    println!("SEC S18 cases={} sinks={} failed={failed}", cases().len(), sinks.len());
    assert_eq!(failed, 0);
}
