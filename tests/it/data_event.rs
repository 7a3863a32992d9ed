//! `when: {event: data}`: what changes below a watched place starts one run, compared with the one on the data before.

use sqlx::{Connection, Row};
use trainyard::forge::Forges;
use trainyard::model::{DATA_DIGEST, DATA_PREFIX, EndClass, RunState, Sha};
use trainyard::results::{Choice, Chooser};
use trainyard::sandbox::Delivery;
use trainyard::store::runs::RunRow;
use trainyard::store::watches::WatchRow;
use trainyard::store::work::{WorkAsk, WorkKind};

use crate::heart::Heart;
use crate::scripted::Act;

fn good(_: &str, _: i64) -> Act {
    Act::Finish(EndClass::Succeeded)
}

impl Heart {
    /// A pipeline that runs on pushes and on new data in `place`.
    async fn push_watching(&self, place: &str) {
        let text = format!(
            "name: churn\nwhen: [{{event: push}}, {{event: data, prefix: {place:?}}}]\nsteps: [{{name: train, commands: [python train.py]}}]\n"
        );
        self.push_pipeline(&text).await;
        self.hand_in_all().await;
        self.settle().await;
    }

    async fn watches(&self) -> Vec<WatchRow> {
        let repo = self.store().find_repo("ada/churn").await.unwrap().unwrap();
        self.store().data_watches(&repo.id).await.unwrap()
    }

    /// Of the pipelines that are known.
    async fn priorities(&self) -> Vec<Option<String>> {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&self.place.path);
        let mut file = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let rows = sqlx::query("SELECT priority FROM pipelines").fetch_all(&mut file).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Runs, oldest generation first.
    async fn generations(&self) -> Vec<RunRow> {
        let mut runs = self.runs().await;
        runs.sort_by_key(|run| run.generation);
        runs
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_data_starts_one_run_once_it_stays() {
    let heart = Heart::new(good).await;
    let raw = heart.watched().join("raw");
    std::fs::create_dir_all(&raw).unwrap();
    std::fs::write(raw.join("a.csv"), "x\n1\n").unwrap();
    heart.push_watching(&format!("{}/", raw.display())).await;
    heart.pass(300).await;
    assert_eq!(heart.runs().await.len(), 1, "what lay there is known");

    // Written in two parts: not run on before it stays for a look.
    std::fs::write(raw.join("b.csv"), "x\n").unwrap();
    heart.pass(60).await;
    std::fs::write(raw.join("b.csv"), "x\n2\n3\n").unwrap();
    heart.pass(60).await;
    assert_eq!(heart.runs().await.len(), 1);
    let before = heart.watches().await.remove(0);
    heart.pass(120).await;
    let runs = heart.generations().await;
    assert_eq!(runs.len(), 2);
    let (first, run) = (&runs[0], &runs[1]);
    assert_eq!((run.generation, run.state, run.trusted), (2, RunState::Succeeded, true));
    assert_eq!(run.head_sha, first.head_sha);
    assert_eq!((run.branch.as_str(), run.actor.as_str()), ("main", "new data"));
    let after = heart.watches().await.remove(0);
    assert_eq!(Some(&run.variables[DATA_DIGEST]), after.digest.as_ref());
    assert_eq!(run.variables[DATA_PREFIX], after.prefix);
    assert!(run.message.ends_with("2 files, 10 bytes"), "{}", run.message);
    assert_eq!((after.changes, after.files, after.error.as_str()), (1, 2, ""));

    // It is held against the same commit on the data before.
    let forges = Forges::connect(&heart.config).unwrap();
    let repo = heart.store().find_repo("ada/churn").await.unwrap().unwrap();
    let forge = forges.get("github").unwrap();
    let chooser = Chooser { store: heart.store(), forge: forge.as_ref(), repo: &repo, candidate: run };
    let note = format!("main at {}, on the data before", first.head_sha.abbreviated());
    assert_eq!(chooser.choose(None).await.unwrap().choice, Choice::Use { run: first.id.clone(), note });

    // A crash after the change was handed in and before that was noted: handed in again, decided once (G2, G3).
    assert!(heart.store().note_watch(before, after.changes).await.unwrap());
    heart
        .store()
        .ask(vec![WorkAsk { kind: WorkKind::Data, key: repo.id.to_string(), at_ms: 0 }], 0)
        .await
        .unwrap();
    heart.pass(300).await;
    assert_eq!(heart.generations().await.len(), 2);
    assert_eq!(heart.watches().await.remove(0).changes, 1);
    let decisions = heart.decisions().await;
    let data: Vec<&String> = decisions.iter().filter(|d| d.starts_with("data ")).collect();
    assert_eq!(
        data,
        ["data done: run of `churn` at ".to_owned() + first.head_sha.short() + " on `main`, generation 2"]
            .iter()
            .collect::<Vec<_>>()
    );

    // Back to what it was is another change.
    std::fs::remove_file(raw.join("b.csv")).unwrap();
    heart.pass(180).await;
    assert_eq!(heart.generations().await.len(), 3);
    println!("FIGURE data_event looks_before_a_run=2 runs=3 changes=2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_allowed_and_asked_for_is_watched() {
    let heart = Heart::new(good).await;
    let allowed = heart.watched();
    std::fs::create_dir_all(&allowed).unwrap();
    let beside = format!("{}-secret/", allowed.display());
    std::fs::create_dir_all(&beside).unwrap();
    for place in [&beside, &format!("{}/../", allowed.display()), "s3://elsewhere/"] {
        heart.push_watching(place).await;
        let row = heart.watches().await.remove(0);
        assert!(row.error.contains("may not be watched: add it"), "{}", row.error);
        assert_eq!((row.digest, row.files), (None, 0));
    }
    // The default branch no longer asks: nothing is looked at.
    heart.push_pipeline("name: churn\ntrain: python train.py\n").await;
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(heart.watches().await, []);

    // A branch that is not the default one has no say.
    heart.tree.write(
        ".trainyard.yaml",
        format!("name: churn\nwhen: [{{event: push, branch: '**'}}, {{event: data, prefix: {:?}}}]\ntrain: python train.py\n", allowed.display().to_string()),
    );
    heart.tree.commit("Watch");
    heart.tree.push(&["HEAD:refs/heads/topic"]);
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!(heart.watches().await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pipelines_asked_for_ends_with_their_files() {
    let heart = Heart::new(good).await;
    std::fs::create_dir_all(heart.watched()).unwrap();
    let place = format!("{}/", heart.watched().display());
    let text = format!(
        "name: churn\npriority: high\nwhen: [{{event: push}}, {{event: data, prefix: {place:?}}}]\ntrain: python train.py\n"
    );
    heart.push_pipeline(&text).await;
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!((heart.watches().await.len(), heart.priorities().await), (1, vec![Some("high".to_owned())]));

    std::fs::remove_file(heart.tree.file(".trainyard.yaml")).unwrap();
    heart.tree.commit("Train elsewhere");
    heart.tree.push(&["HEAD:refs/heads/main"]);
    heart.hand_in_all().await;
    heart.settle().await;
    assert_eq!((heart.watches().await, heart.priorities().await), (vec![], vec![]));
    std::fs::write(heart.watched().join("a.csv"), "x\n1\n").unwrap();
    heart.pass(300).await;
    assert_eq!(heart.runs().await.len(), 1);
}

/// A push that is decided late, such as one that waited out an error of the forge, is not what the default branch asks for now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_push_that_comes_late_takes_no_watch_back() {
    let heart = Heart::new(good).await;
    let place = format!("{}/", heart.watched().display());
    let text = |priority: &str, when: &str| {
        format!("name: churn\npriority: {priority}\nwhen: [{{event: push}}{when}]\ntrain: python train.py\n")
    };
    let watching = format!(", {{event: data, prefix: {place:?}}}");
    let pushed = async |priority: &str, when: &str| {
        let sha = heart.push_pipeline(&text(priority, when)).await;
        (sha, heart.sandbox.deliveries().pop().unwrap())
    };
    let decided = async |sent: &Delivery, id: &str| {
        heart.hand_in(heart.store(), sent, id).await;
        heart.settle().await;
        let shas: Vec<Sha> = heart.watches().await.into_iter().map(|row| row.sha).collect();
        (shas, heart.priorities().await.remove(0))
    };
    let (one, first) = pushed("low", &watching).await;
    let (two, second) = pushed("normal", &watching).await;
    let (three, third) = pushed("high", &watching).await;
    let high = Some("high".to_owned());
    assert_eq!(decided(&first, "1").await, (vec![one.clone()], Some("low".into())));
    assert_eq!(decided(&third, "3").await, (vec![three.clone()], high.clone()));
    assert_eq!(decided(&second, "2").await, (vec![three.clone()], high.clone()), "{two} comes late");
    assert_eq!(decided(&first, "1 again").await, (vec![three.clone()], high.clone()));

    // Nothing is watched any more: a late push does not begin it again.
    let (_, fourth) = pushed("low", "").await;
    assert_eq!(decided(&fourth, "4").await, (vec![], Some("low".into())));
    assert_eq!(decided(&third, "3 again").await, (vec![], Some("low".into())));

    // The branch is moved back: that is newer than where it was.
    heart.tree.push(&["--force", &format!("{two}:refs/heads/main")]);
    let back = heart.sandbox.deliveries().pop().unwrap();
    assert_eq!(decided(&back, "5").await, (vec![two.clone()], Some("normal".into())));
    // Moved to another history, and then a late word of the one that was left.
    heart.tree.git(&["reset", "--hard", "--quiet", one.as_str()]);
    heart.tree.write(".trainyard.yaml", text("high", &watching));
    let other = heart.tree.commit("Another history");
    heart.tree.push(&["--force", "HEAD:refs/heads/main"]);
    let moved = heart.sandbox.deliveries().pop().unwrap();
    assert_eq!(decided(&moved, "6").await, (vec![other.clone()], high.clone()));
    assert_eq!(decided(&fourth, "4 again").await, (vec![other], high));
}
