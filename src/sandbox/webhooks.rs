//! The sandbox's webhooks: which events a change makes, and sending them signed, as GitHub does: once, waiting 10 s.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::git::CommitInfo;
use super::shapes::{self, At};
use super::state::{Delivery, PostedComment};
use super::{Inner, Lock, random_hex};
use crate::forge::webhook::github::sign;
use crate::model::RepoName;

const ZERO: &str = "0000000000000000000000000000000000000000";
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
        let sent = self
            .http
            .post(&hook.url)
            .header("user-agent", format!("GitHub-Hookshot/sandbox{number}"))
            .header("content-type", "application/json")
            .header("x-github-event", event)
            .header("x-github-delivery", &delivery.guid)
            .header("x-github-hook-id", "1")
            .header("x-github-hook-installation-target-type", "repository")
            .header("x-hub-signature-256", sign(hook.secret.as_bytes(), body.as_bytes()))
            .body(body)
            .send()
            .await;
        match sent {
            Ok(answer) => delivery.status = Some(answer.status().as_u16()),
            Err(e) => delivery.error = Some(e.without_url().to_string()),
        }
        self.state.with(|s| s.deliveries.push(delivery.clone()));
        delivery
    }

    /// `repository` and `sender`, which every payload has.
    fn common(&self, repo: &RepoName, sender: &str) -> Option<Value> {
        let now = self.clock.now_ms();
        self.with_repo(repo, |at, found, state| {
            let owner = state.account_or_ghost(repo.owner());
            json!({
                "repository": shapes::repository(at, found, &owner, now),
                "sender": shapes::user(at, &state.account_or_ghost(sender)),
            })
        })
        .ok()
    }

    async fn fire(&self, repo: &RepoName, event: &str, sender: &str, parts: Value) {
        let Some(mut payload) = self.common(repo, sender) else { return };
        if let (Some(into), Value::Object(parts)) = (payload.as_object_mut(), parts) {
            into.extend(parts);
        }
        self.deliver(event, payload, None).await;
    }

    pub(super) async fn fire_pull(
        &self,
        repo: &RepoName,
        number: i64,
        action: &str,
        sender: &str,
        more: Value,
    ) {
        let Some(pull) = self.state.with(|s| self.pull_shape(s, repo, number)) else { return };
        let mut parts = json!({"action": action, "number": number, "pull_request": pull});
        if let (Some(into), Value::Object(more)) = (parts.as_object_mut(), more) {
            into.extend(more);
        }
        self.fire(repo, "pull_request", sender, parts).await;
    }

    pub(super) async fn fire_comment(&self, repo: &RepoName, comment: &PostedComment) {
        let now = self.clock.now_ms();
        let parts = self.with_repo(repo, |at, found, state| {
            let pull = found.pulls.get(&comment.number)?;
            let count = found.comments.values().filter(|c| c.number == comment.number).count();
            let author = state.account_or_ghost(&comment.author);
            Some(json!({
                "action": "created",
                "issue": shapes::issue(at, found, pull, &state.account_or_ghost(&pull.author), count, now),
                "comment": shapes::comment(at, found, comment, &author),
            }))
        });
        if let Ok(Some(parts)) = parts {
            self.fire(repo, "issue_comment", &comment.author, parts).await;
        }
    }

    pub(super) async fn fire_ping(&self, repo: &RepoName) {
        let url = self.state.with(|s| s.hook.as_ref().map(|h| h.url.clone())).unwrap_or_default();
        let now = shapes::date(self.clock.now_ms());
        let at = format!("{}/api/v3/repos/{repo}/hooks/1", self.url);
        let parts = json!({
            "zen": "Keep it logically awesome.", "hook_id": 1,
            "hook": {
                "type": "Repository", "id": 1, "name": "web", "active": true, "events": ["push", "pull_request", "issue_comment"],
                "config": {"content_type": "json", "insecure_ssl": "0", "secret": "********", "url": url},
                "updated_at": now, "created_at": now, "url": at, "test_url": format!("{at}/test"),
                "ping_url": format!("{at}/pings"), "deliveries_url": format!("{at}/deliveries"),
                "last_response": {"code": null, "status": "unused", "message": null},
            },
        });
        self.fire(repo, "ping", repo.owner(), parts).await;
    }

    /// Everything that follows from a push: `push` for each ref, then what it does to open pull requests.
    pub(super) async fn pushed(&self, repo: &RepoName, login: &str, moved: &[Moved]) -> anyhow::Result<()> {
        for one in moved {
            // The hook belongs to one repository; what happens in its forks is not told.
            let fork = self.with_repo(repo, |_, found, _| found.fork)?;
            if !fork {
                let parts = self.push_parts(repo, login, one).await?;
                self.fire(repo, "push", login, parts).await;
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

    async fn push_parts(&self, repo: &RepoName, login: &str, one: &Moved) -> anyhow::Result<Value> {
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
        let mut listed: Vec<(CommitInfo, Vec<(String, String)>)> = Vec::new();
        for commit in commits.into_iter().rev().chain(head) {
            let mut changes = git.changes(&commit.sha).await?;
            changes.truncate(LISTED_PATHS);
            listed.push((commit, changes));
        }
        let (before, after) = (one.before.as_deref().unwrap_or(ZERO), one.after.as_deref().unwrap_or(ZERO));
        self.with_repo(repo, |at: At<'_>, found, _| {
            let mut commits: Vec<Value> =
                listed.iter().map(|(commit, changes)| shapes::push_commit(at, found, commit, changes)).collect();
            let head = if one.after.is_some() { commits.pop() } else { None };
            json!({
                "ref": one.reference, "before": before, "after": after, "created": one.before.is_none(),
                "deleted": one.after.is_none(), "forced": forced, "base_ref": null,
                "compare": format!("{}/{repo}/compare/{before}...{after}", self.url), "commits": commits, "head_commit": head,
                "pusher": {"name": login, "email": null},
            })
        })
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
