//! Directories kept between runs, as the daemon keeps them: the first writer wins, and untrusted runs write nothing.

use reqwest::Method;
use sha2::{Digest, Sha256};

use super::agent_api::{Agent, run_of};
use super::{STEP_SECRET, Web};
use crate::store::fixture::sha;

async fn put(agent: &Agent<'_>, key: &str, bytes: &str) -> u16 {
    let digest = hex::encode(Sha256::digest(bytes));
    let path = format!("cache?key={key}&sha256={digest}");
    agent.call(Method::PUT, &path, bytes.to_owned()).await.0.as_u16()
}

async fn get(agent: &Agent<'_>, key: &str) -> (u16, String) {
    let (status, body) = agent.call(Method::GET, &format!("cache?key={key}"), "").await;
    (status.as_u16(), String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_writer_wins_and_untrusted_runs_only_read_the_default_branch() {
    let web = Web::start().await;
    let run = async |digit: char, branch: &str, trusted: bool| {
        run_of(&web, |new| {
            new.head_sha = sha(digit);
            new.branch = branch.to_owned();
            new.trusted = trusted;
            new.concurrency = None;
        })
        .await
    };
    let (main, branch, fork) =
        (run('a', "main", true).await, run('b', "feature", true).await, run('c', "pull/1/head", false).await);
    let main = Agent::start(&web, &main, 0).await;
    let branch = Agent::start(&web, &branch, 0).await;
    let fork = Agent::start(&web, &fork, 0).await;
    assert_eq!(fork.spec["cache_write"], false);
    // (what, got, wanted)
    let mut cases: Vec<(&str, String, &str)> = Vec::new();
    let mut row = |what: &'static str, got: String, want: &'static str| cases.push((what, got, want));
    let shown = |(status, body): (u16, String)| {
        if status == 200 { format!("200 {body}") } else { status.to_string() }
    };
    row("nothing yet", shown(get(&main, "k").await), "404");
    row("an untrusted run writes nothing", put(&fork, "k", "poison").await.to_string(), "403");
    row("still nothing", shown(get(&main, "k").await), "404");
    row("the first writer", put(&main, "k", "one").await.to_string(), "204");
    row("the same again", put(&main, "k", "one").await.to_string(), "200");
    row("a second writer changes nothing", put(&branch, "k", "two").await.to_string(), "200");
    row("it is the first one's", shown(get(&branch, "k").await), "200 one");
    row("an untrusted run reads the default branch's", shown(get(&fork, "k").await), "200 one");
    row("a branch's own", put(&branch, "b", "theirs").await.to_string(), "204");
    row("others of the repository read it", shown(get(&main, "b").await), "200 theirs");
    row("an untrusted run does not", shown(get(&fork, "b").await), "404");
    let wrong = main.call(Method::PUT, &format!("cache?key=w&sha256={}", "0".repeat(64)), "x").await.0;
    row("a wrong digest", wrong.as_u16().to_string(), "422");
    row("nothing of it stays", shown(get(&main, "w").await), "404");
    row("a secret in the key", put(&main, STEP_SECRET, "x").await.to_string(), "422");
    row("no key", put(&main, "", "x").await.to_string(), "400");
    row("a control character", put(&main, "a%0ab", "x").await.to_string(), "400");
    row("a key that looks like a path is a key", put(&main, "..%2F..%2Fetc", "x").await.to_string(), "204");
    let failed = cases.iter().filter(|(_, got, want)| got != want).count();
    for (what, got, want) in cases.iter().filter(|(_, got, want)| got != want) {
        println!("{what}: {got}, not {want}");
    }
    println!("SEC S07 cases={} failed={failed}", cases.len());
    assert_eq!(failed, 0);
}
