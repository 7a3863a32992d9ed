//! The sandbox's webhooks: which events a change makes, in its forge's words, and sending them signed, as forges do: once.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::git::CommitInfo;
use super::shapes::{self, At};
use super::state::{Delivery, PostedComment, State};
use super::{Inner, Lock, random_hex};
use crate::config::ForgeKind;
use crate::forge::webhook::{gitea, github, gitlab};
use crate::model::RepoName;

pub(super) const ZERO: &str = "0000000000000000000000000000000000000000";
/// Commits and paths that a push lists. Receivers must not rely on them, so few are enough.
const LISTED_COMMITS: usize = 20;
const LISTED_PATHS: usize = 300;

/// One ref that a push moved.
#[derive(Debug)]
pub(super) struct Moved {
    pub reference: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl Moved {
    /// `branch` or `tag`, and the name without its prefix.
    pub fn short(&self) -> Option<(&'static str, &str)> {
        let branch = self.reference.strip_prefix("refs/heads/").map(|name| ("branch", name));
        branch.or_else(|| self.reference.strip_prefix("refs/tags/").map(|name| ("tag", name)))
    }
}

/// A commit of a push with the letters and paths that it changes.
pub(super) type Listed = (CommitInfo, Vec<(String, String)>);

/// What a webhook tells, before a forge's words are put to it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, by reference")]
pub(super) enum Happened<'a> {
    Ping,
    Pushed {
        login: &'a str,
        moved: &'a Moved,
        forced: bool,
        /// Oldest first.
        listed: &'a [Listed],
        head: Option<Listed>,
    },
    Pull {
        number: i64,
        /// GitHub's word.
        action: &'a str,
        login: &'a str,
        /// What goes beside the pull request, in GitHub's words.
        more: &'a Value,
    },
    Commented(&'a PostedComment),
}

/// What lies between two listings of refs.
pub(super) fn moved(before: &[(String, String)], after: &[(String, String)]) -> Vec<Moved> {
    let find = |list: &[(String, String)], name: &str| {
        list.iter().find(|(n, _)| n == name).map(|(_, sha)| sha.clone())
    };
    let mut names: Vec<&String> = before.iter().chain(after).map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    let each = names.into_iter().map(|name| Moved {
        reference: name.clone(),
        before: find(before, name),
        after: find(after, name),
    });
    each.filter(|m| m.before != m.after).collect()
}

impl Inner {
    /// Sends one webhook, if there is a hook, and keeps what became of it.
    pub(super) async fn deliver(&self, event: &str, payload: Value, guid: Option<String>) -> Delivery {
        static SENT: AtomicU64 = AtomicU64::new(1);
        let guid = guid.unwrap_or_else(|| {
            let hex = random_hex(16);
            format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
        });
        let mut delivery = Delivery { guid, event: event.to_owned(), payload, status: None, error: None };
        let Some(hook) = self.state.with(|s| s.hook.clone()) else {
            delivery.error = Some("there is no hook".into());
            return delivery;
        };
        let body = delivery.payload.to_string();
        let number = SENT.fetch_add(1, Ordering::Relaxed);
        let call = self.http.post(&hook.url).header("content-type", "application/json");
        let (secret, guid) = (hook.secret.as_bytes(), delivery.guid.as_str());
        let call = match self.kind {
            ForgeKind::Github => call
                .header("user-agent", format!("GitHub-Hookshot/sandbox{number}"))
                .header("x-github-event", event)
                .header("x-github-delivery", guid)
                .header("x-github-hook-id", "1")
                .header("x-github-hook-installation-target-type", "repository")
                .header("x-hub-signature-256", github::sign(secret, body.as_bytes())),
            ForgeKind::Gitlab => {
                let call = call
                    .header("user-agent", "GitLab/19.0.0")
                    .header("x-gitlab-event", event)
                    .header("x-gitlab-instance", &self.url)
                    .header("x-gitlab-webhook-uuid", random_hex(16))
                    .header("x-gitlab-event-uuid", "of the whole chain")
                    .header("idempotency-key", guid);
                if hook.secret.starts_with(gitlab::TOKEN_PREFIX) {
                    let at_s = self.clock.now_ms() / 1000;
                    call.header("webhook-id", guid)
                        .header("webhook-timestamp", at_s.to_string())
                        .header("webhook-signature", gitlab::sign(secret, guid, at_s, body.as_bytes()))
                } else {
                    call.header("x-gitlab-token", &hook.secret)
                }
            }
            // Gitea sends all of these.
            ForgeKind::Gitea => {
                let signature = gitea::sign(secret, body.as_bytes());
                let mut call = call.header("user-agent", "Go-http-client/1.1");
                for family in ["x-gitea", "x-gogs", "x-github"] {
                    call = call
                        .header(format!("{family}-event"), event)
                        .header(format!("{family}-event-type"), event)
                        .header(format!("{family}-delivery"), guid);
                }
                call.header("x-gitea-signature", &signature)
                    .header("x-gogs-signature", &signature)
                    .header("x-hub-signature-256", format!("sha256={signature}"))
            }
        };
        let sent = call.body(body).send().await;
        match sent {
            Ok(answer) => delivery.status = Some(answer.status().as_u16()),
            Err(e) => delivery.error = Some(e.without_url().to_string()),
        }
        self.state.with(|s| s.deliveries.push(delivery.clone()));
        delivery
    }

    async fn tell(&self, repo: &RepoName, what: &Happened<'_>) {
        let told = self.state.with(|state| match self.kind {
            ForgeKind::Github => self.github_webhook(state, repo, what),
            ForgeKind::Gitlab => super::gitlab::webhook(At(&self.url), state, repo, what),
            ForgeKind::Gitea => super::gitea::webhook(At(&self.url), state, repo, what),
        });
        if let Some((event, payload)) = told {
            self.deliver(&event, payload, None).await;
        }
    }

    pub(super) async fn fire_pull(
        &self,
        repo: &RepoName,
        number: i64,
        action: &str,
        sender: &str,
        more: Value,
    ) {
        self.tell(repo, &Happened::Pull { number, action, login: sender, more: &more }).await;
    }

    pub(super) async fn fire_comment(&self, repo: &RepoName, comment: &PostedComment) {
        self.tell(repo, &Happened::Commented(comment)).await;
    }

    pub(super) async fn fire_ping(&self, repo: &RepoName) {
        self.tell(repo, &Happened::Ping).await;
    }

    fn github_webhook(&self, state: &State, repo: &RepoName, what: &Happened<'_>) -> Option<(String, Value)> {
        let (at, now) = (At(&self.url), self.clock.now_ms());
        let found = state.repos.get(repo)?;
        let (event, sender, parts) = match what {
            Happened::Ping => ("ping", repo.owner(), self.ping_parts(state, repo)),
            Happened::Pushed { login, moved, forced, listed, head } => {
                let each = |one: &Listed| shapes::push_commit(at, found, &one.0, &one.1);
                let zero = || ZERO.to_owned();
                let before = moved.before.clone().unwrap_or_else(zero);
                let after = moved.after.clone().unwrap_or_else(zero);
                let parts = json!({
                    "ref": moved.reference, "before": before, "after": after, "created": moved.before.is_none(),
                    "deleted": moved.after.is_none(), "forced": forced, "base_ref": null,
                    "compare": format!("{}/{repo}/compare/{before}...{after}", self.url),
                    "commits": listed.iter().map(each).collect::<Vec<_>>(), "head_commit": head.as_ref().map(each),
                    "pusher": {"name": login, "email": null},
                });
                ("push", *login, parts)
            }
            Happened::Pull { number, action, login, more } => {
                let pull = self.pull_shape(state, repo, *number)?;
                let mut parts = json!({"action": action, "number": number, "pull_request": pull});
                if let (Some(into), Value::Object(more)) = (parts.as_object_mut(), more) {
                    into.extend(more.clone());
                }
                ("pull_request", *login, parts)
            }
            Happened::Commented(comment) => {
                let pull = found.pulls.get(&comment.number)?;
                let count = found.comments.values().filter(|c| c.number == comment.number).count();
                let author = state.account_or_ghost(&comment.author);
                let asker = state.account_or_ghost(&pull.author);
                let parts = json!({
                    "action": "created", "issue": shapes::issue(at, found, pull, &asker, count, now),
                    "comment": shapes::comment(at, found, comment, &author),
                });
                ("issue_comment", comment.author.as_str(), parts)
            }
        };
        let owner = state.account_or_ghost(repo.owner());
        let mut payload = json!({
            "repository": shapes::repository(at, found, &owner, now),
            "sender": shapes::user(at, &state.account_or_ghost(sender)),
        });
        if let (Some(into), Value::Object(parts)) = (payload.as_object_mut(), parts) {
            into.extend(parts);
        }
        Some((event.to_owned(), payload))
    }

    fn ping_parts(&self, state: &State, repo: &RepoName) -> Value {
        let url = state.hook.as_ref().map(|h| h.url.clone()).unwrap_or_default();
        let now = shapes::date(self.clock.now_ms());
        let at = format!("{}/api/v3/repos/{repo}/hooks/1", self.url);
        json!({
            "zen": "Keep it logically awesome.", "hook_id": 1,
            "hook": {
                "type": "Repository", "id": 1, "name": "web", "active": true, "events": ["push", "pull_request", "issue_comment"],
                "config": {"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": url},
                "updated_at": now, "created_at": now, "url": at, "test_url": format!("{at}/test"),
                "ping_url": format!("{at}/pings"), "deliveries_url": format!("{at}/deliveries"),
                "last_response": {"code": null, "status": "unused", "message": null},
            },
        })
    }

    /// Everything that follows from a push: `push` for each ref, then what it does to open pull requests.
    pub(super) async fn pushed(&self, repo: &RepoName, login: &str, moved: &[Moved]) -> anyhow::Result<()> {
        for one in moved {
            // The hook belongs to one repository; what happens in its forks is not told.
            let fork = self.with_repo(repo, |_, found, _| found.fork)?;
            if !fork {
                self.tell_push(repo, login, one).await?;
            }
        }
        for one in moved {
            let Some(branch) = one.reference.strip_prefix("refs/heads/") else { continue };
            for (base, number) in self.open_pulls_of(repo, branch) {
                self.follow(repo, &base, number, login, one).await?;
            }
        }
        Ok(())
    }

    async fn tell_push(&self, repo: &RepoName, login: &str, one: &Moved) -> anyhow::Result<()> {
        let git = self.git(repo)?;
        let forced = match (&one.before, &one.after) {
            (Some(before), Some(after)) => !git.is_ancestor(before, after).await,
            _ => false,
        };
        let commits = match (&one.before, &one.after) {
            (Some(before), Some(after)) => git.log(&format!("{before}..{after}"), 0, LISTED_COMMITS).await?,
            _ => Vec::new(),
        };
        let head = match &one.after {
            Some(after) => git.commit(after).await,
            None => None,
        };
        let mut listed: Vec<Listed> = Vec::new();
        for commit in commits.into_iter().rev().chain(head) {
            let mut changes = git.changes(&commit.sha).await?;
            changes.truncate(LISTED_PATHS);
            listed.push((commit, changes));
        }
        let head = if one.after.is_some() { listed.pop() } else { None };
        self.tell(repo, &Happened::Pushed { login, moved: one, forced, listed: &listed, head }).await;
        Ok(())
    }

    /// Open pull requests, in whatever repository, whose head is this branch.
    fn open_pulls_of(&self, repo: &RepoName, branch: &str) -> Vec<(RepoName, i64)> {
        self.state.with(|s| {
            let all = s.repos.values().flat_map(|r| r.pulls.values().map(move |p| (r, p)));
            let ours =
                all.filter(|(_, p)| p.open && p.head_repo.as_ref() == Some(repo) && p.head_branch == branch);
            ours.map(|(r, p)| (r.name.clone(), p.number)).collect()
        })
    }

    /// Lets a pull request follow its head branch, or closes it when that is gone.
    async fn follow(
        &self,
        head: &RepoName,
        base: &RepoName,
        number: i64,
        login: &str,
        one: &Moved,
    ) -> anyhow::Result<()> {
        let base_branch =
            self.with_repo(base, |_, found, _| found.pulls.get(&number).map(|p| p.base_branch.clone()))?;
        let base_sha = match base_branch {
            Some(branch) => self.git(base)?.resolve(&branch).await,
            None => None,
        };
        self.state.with(|s| {
            let pull = s.repos.get_mut(base).and_then(|r| r.pulls.get_mut(&number));
            if let Some(pull) = pull {
                match &one.after {
                    Some(after) => pull.head_sha.clone_from(after),
                    None => pull.open = false,
                }
                if let Some(sha) = base_sha {
                    pull.base_sha = sha;
                }
            }
        });
        match (&one.before, &one.after) {
            (Some(before), Some(after)) => {
                self.show_head(base, number, &self.git(head)?, after).await?;
                let more = json!({"before": before, "after": after});
                self.fire_pull(base, number, "synchronize", login, more).await;
            }
            (_, None) => self.fire_pull(base, number, "closed", login, json!({})).await,
            (None, Some(_)) => {}
        }
        Ok(())
    }
}
