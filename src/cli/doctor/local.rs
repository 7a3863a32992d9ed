//! Who can read what on this machine: the files of secrets, and whom steps run as.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::Report;
use crate::config::{Config, SecretSource};
use crate::executor::local::{StepUsers, capability_names};

/// Do steps run on this machine?
fn has_local_pool(config: &Config) -> bool {
    config.pools().values().any(|pool| pool.executor == "local")
}

pub(super) fn step_user(report: &mut Report, config: &Config) {
    const ABOUT: &str = "step user";
    if !has_local_pool(config) {
        return;
    }
    let more = if nix::unistd::geteuid().is_root() {
        String::new()
    } else {
        format!("; a daemon that is not root needs {}", capability_names())
    };
    match StepUsers::configured(&config.executor.local) {
        Err(error) => report.fail(
            ABOUT,
            format!("{error:#}"),
            "the daemon does not start like this; `executor.local.uids = \"70000-70063\"` is a range that few machines use",
        ),
        Ok(StepUsers::Own) => report.warn(
            ABOUT,
            "steps run as the daemon's own user, and can read all of its secrets",
            "set executor.local.uids; until then only repositories with `trusted = true` run here",
        ),
        Ok(StepUsers::One(user)) => report.warn(
            ABOUT,
            format!(
                "all steps run as {}{more}: each can read the secrets of those that run at the same time, and speak for them",
                user.name
            ),
            "set executor.local.uids instead, so that each has a user id of its own; until then the repositories that run here must trust each other",
        ),
        Ok(StepUsers::Each(uids)) => {
            report.ok(ABOUT, format!("each step has one of the {} user ids {uids}{more}", uids.count()));
        }
    }
}

/// The files that hold secrets.
fn files(config: &Config) -> Vec<PathBuf> {
    let forges = config.forge.values().flat_map(|forge| {
        std::iter::once(&forge.token).chain(forge.hook.iter().flat_map(|hook| &hook.secrets))
    });
    let steps = config.repository.iter().flat_map(|r| r.secrets.values().map(|secret| &secret.source));
    let own = [&config.database_password, &config.s3.access_key_id, &config.s3.secret_access_key];
    let all = forges.chain(steps).chain(own.into_iter().flatten());
    let mut files: Vec<PathBuf> = all
        .filter_map(|source| match source {
            SecretSource::File(path) => Some(path.clone()),
            SecretSource::Env(_) => None,
        })
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Says which files of secrets others can read. True: none.
pub(super) fn secret_files(report: &mut Report, config: &Config) -> bool {
    let users = StepUsers::configured(&config.executor.local).ok().filter(|_| has_local_pool(config));
    let (mut steps, mut others) = (Vec::new(), Vec::new());
    for path in files(config) {
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if users.as_ref().is_some_and(|users| users.can_read(&path)) {
            steps.push(path.display().to_string());
        } else if meta.mode() & 0o004 != 0 {
            others.push(path.display().to_string());
        }
    }
    let mend = |files: &[String]| {
        format!(
            "`chmod 600 {}`, with the daemon's user as owner, in a directory that is closed to others",
            files.join(" ")
        )
    };
    if !steps.is_empty() {
        report.fail("secrets", format!("every step can read {}", steps.join(", ")), mend(&steps));
    }
    if !others.is_empty() {
        report.warn(
            "secrets",
            format!("the mode of {} lets everybody read", others.join(", ")),
            mend(&others),
        );
    }
    steps.is_empty() && others.is_empty()
}
