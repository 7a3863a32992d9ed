//! Fetches the one commit of an attempt through the daemon's git proxy, with a git that trusts nothing it reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::client::{Backoff, Client};
use super::process::{Ended, Exit, Limits, Output, Stop, supervise};
use crate::model::Sha;

/// Settings for every git call. Nothing of the machine's or the user's configuration is read beside them.
const SETTINGS: &[(&str, &str)] = &[
    ("protocol.allow", "never"),
    ("protocol.http.allow", "always"),
    ("protocol.https.allow", "always"),
    // A redirect would carry the token to another host.
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1000"),
    ("http.lowSpeedTime", "60"),
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("credential.helper", ""),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "no"),
    ("transfer.fsckObjects", "true"),
    ("fetch.fsckObjects", "true"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("init.defaultBranch", "main"),
    ("advice.detachedHead", "false"),
];

/// Why there is no source.
#[derive(Debug)]
pub enum NoSource {
    Stopped(Stop),
    /// git's own last words.
    Failed(String),
}

pub struct Fetch<'a> {
    pub client: &'a Client,
    pub sha: &'a Sha,
    /// An empty or missing directory.
    pub into: &'a Path,
    pub home: &'a Path,
    /// A file with the CAs to trust, where the daemon speaks TLS.
    pub ca: Option<&'a Path>,
    pub deadline: Instant,
    pub stop: watch::Receiver<Option<Stop>>,
}

impl Fetch<'_> {
    /// Leaves `into` as a checkout of the commit, detached, with no remote and no token in its configuration.
    pub async fn run(&self) -> Result<(), NoSource> {
        std::fs::create_dir_all(self.into)
            .map_err(|e| NoSource::Failed(format!("cannot make {}: {e}", self.into.display())))?;
        self.git(&["init", "--quiet", "."]).await?;
        let mut backoff = Backoff::default();
        let url = self.client.git_url();
        let fetch = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--depth=1",
            "--end-of-options",
            url.as_str(),
            self.sha.as_str(),
        ];
        loop {
            match self.git(&fetch).await {
                Ok(()) => break,
                Err(NoSource::Failed(why)) if backoff.tries() < 6 && passing(&why) => {
                    tracing::warn!(why, "git fetch failed; trying again");
                    tokio::select! {
                        () = backoff.wait() => {}
                        () = tokio::time::sleep_until(self.deadline) => return Err(NoSource::Stopped(Stop::TimedOut)),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        self.git(&["checkout", "--quiet", "--detach", self.sha.as_str()]).await?;
        let _ = std::fs::remove_file(self.into.join(".git/FETCH_HEAD"));
        Ok(())
    }

    async fn git(&self, args: &[&str]) -> Result<(), NoSource> {
        let mut command = Command::new("git");
        command.args(args).current_dir(self.into).env_clear().envs(self.environment());
        let limits =
            Limits { deadline: self.deadline, grace: Duration::from_secs(2), stop: self.stop.clone() };
        let mut said: Vec<u8> = Vec::new();
        let ended = supervise(command, limits, |output| {
            if let (Output::Bytes(bytes), true) = (output, said.len() < 64 * 1024) {
                said.extend_from_slice(bytes);
            }
        })
        .await;
        match ended {
            Ok(Ended { stop: Some(stop), .. }) => Err(NoSource::Stopped(stop)),
            Ok(Ended { exit: Exit::Code(0), .. }) => Ok(()),
            Ok(ended) => Err(NoSource::Failed(last_words(args[0], ended.exit, &said))),
            Err(error) => Err(NoSource::Failed(format!(
                "cannot start git: {error}; the image needs git for its source"
            ))),
        }
    }

    /// The token travels in the environment, which only this user can read, never on the command line.
    fn environment(&self) -> BTreeMap<String, String> {
        let mut env = BTreeMap::from(
            [
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_ALLOW_PROTOCOL", "http:https"),
                ("GIT_LFS_SKIP_SMUDGE", "1"),
                ("LC_ALL", "C"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        env.insert("PATH".into(), std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into()));
        env.insert("HOME".into(), self.home.to_string_lossy().into_owned());
        let header = self.client.authorization();
        let ca = self.ca.map(|path| path.to_string_lossy().into_owned());
        let settings = SETTINGS
            .iter()
            .copied()
            .chain([("http.extraHeader", header.as_str())])
            .chain(ca.iter().map(|path| ("http.sslCAInfo", path.as_str())));
        let mut count = 0;
        for (key, value) in settings {
            env.insert(format!("GIT_CONFIG_KEY_{count}"), key.to_owned());
            env.insert(format!("GIT_CONFIG_VALUE_{count}"), value.to_owned());
            count += 1;
        }
        env.insert("GIT_CONFIG_COUNT".into(), count.to_string());
        env
    }
}

/// Worth another try: the daemon was away or cut us off. Not: it said no.
fn passing(why: &str) -> bool {
    ![
        "error: 401",
        "error: 403",
        "error: 404",
        "error: 410",
        "not our ref",
        "fsck",
        "No space left",
        "cannot start",
    ]
    .iter()
    .any(|no| why.contains(no))
}

fn last_words(what: &str, exit: Exit, said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join(" | ");
    format!("git {what} ended with code {}: {last}", exit.code())
}
