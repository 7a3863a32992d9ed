//! Gitea's shape of the sandbox: its REST API v1 and its webhooks, as its own description (`v1_json`) spells them.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Extract};
use axum::middleware;
use axum::routing::{get, patch, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::git::{CommitInfo, Entry};
use super::rest::{
    Answer, Caller, Repository, comment_body, exchange, may_write, not_found, ok, refuse, take_status,
};
use super::shapes::{At, date};
use super::state::{Account, PostedComment, PostedStatus, Pull, Repo, State};
use super::webhooks::{Happened, Listed, ZERO};
use super::{Inner, Lock};
use crate::forge::Permission;
use crate::model::{RepoName, Sha};

const MAX_JSON_FILE: u64 = 10 << 20;
/// Characters of a status's description: our own bound, Gitea's column is longer.
const MAX_DESCRIPTION: usize = 255;
/// The most items that one page holds.
const MAX_PAGE: usize = 50;
/// Commits that a push lists (`FeedMaxCommitNum`).
const LISTED_COMMITS: usize = 5;

pub(super) fn router(inner: Arc<Inner>) -> Router {
    let repo = Router::new()
        .route("/", get(repository))
        .route("/git/commits/{sha}", get(commit))
        .route("/git/trees/{sha}", get(tree))
        .route("/contents/{*path}", get(contents))
        .route("/branches/{*branch}", get(branch))
        .route("/commits", get(commits))
        .route("/collaborators/{login}/permission", get(permission))
        .route("/pulls", get(pulls))
        .route("/pulls/{number}", get(pull))
        .route("/statuses/{sha}", post(create_status))
        .route("/issues/{number}/comments", get(list_comments).post(create_comment))
        .route("/issues/comments/{id}", patch(edit_comment));
    Router::new()
        .route(
            "/user",
            get(|Extract(inner): Extract<Arc<Inner>>, caller: Caller| async move {
                ok(user_shape(At(&inner.url), &caller))
            }),
        )
        .nest("/repos/{owner}/{name}", repo)
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn_with_state(inner.clone(), exchange))
        .with_state(inner)
}

#[derive(Deserialize)]
struct Asked {
    page: Option<usize>,
    limit: Option<usize>,
    per_page: Option<usize>,
    sha: Option<String>,
    not: Option<String>,
    poster: Option<String>,
    r#ref: Option<String>,
}

impl Asked {
    /// (how many to skip, how many to show)
    fn window(&self, most: usize) -> (usize, usize) {
        let size = self.limit.or(self.per_page).unwrap_or(most).clamp(1, most);
        ((self.page.unwrap_or(1).max(1) - 1) * size, size)
    }
}

async fn repository(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    ok(inner.with_repo(&name, repo_shape)?)
}

async fn commit(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, sha)): Path<(String, String, String)>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let sha = git.resolve(&sha).await.ok_or_else(not_found)?;
    let commit = git.commit(&sha).await.ok_or_else(not_found)?;
    ok(inner.with_repo(&name, |at, repo, _| commit_shape(at, repo, &commit))?)
}

async fn tree(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, id)): Path<(String, String, String)>,
    Query(page): Query<Asked>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let id = Sha::parse(&id).map_err(|_| not_found())?;
    let entries = git.entries(id.as_str(), None).await.map_err(|_| not_found())?;
    let (skip, size) = page.window(1_000);
    let total = entries.len();
    ok(inner.with_repo(&name, |at, repo, _| {
        let url = |kind: &str, id: &str| at.gitea(format_args!("/repos/{}/git/{kind}/{id}", repo.name));
        let shape = |entry: &Entry| {
            json!({
                "path": entry.path, "mode": entry.mode, "type": entry.kind, "size": entry.size.unwrap_or(0), "sha": entry.id,
                "url": url(if entry.kind == "tree" { "trees" } else { "blobs" }, &entry.id),
            })
        };
        json!({
            "sha": id.as_str(), "url": url("trees", id.as_str()), "page": page.page.unwrap_or(1), "total_count": total,
            "truncated": skip + size < total, "tree": entries.iter().skip(skip).take(size).map(shape).collect::<Vec<_>>(),
        })
    })?)
}

async fn contents(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, path)): Path<(String, String, String)>,
    Query(page): Query<Asked>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let commit = git.resolve(&page.r#ref.unwrap_or_default()).await.ok_or_else(not_found)?;
    let path = path.trim_matches('/').to_owned();
    let found = git.entries(&commit, Some(&path)).await.map_err(|_| not_found())?;
    let entry = found.into_iter().find(|e| e.path == path).ok_or_else(not_found)?;
    let bytes = match entry.size {
        Some(size) if size <= MAX_JSON_FILE => Some(git.blob(&entry.id).await?),
        _ => None,
    };
    if entry.kind == "tree" {
        let inside = git.entries(&entry.id, None).await?;
        let list = inner.with_repo(&name, |at, repo, _| {
            let one = |e: &Entry| content_shape(at, repo, &format!("{path}/{}", e.path), e, None);
            inside.iter().map(one).collect::<Vec<_>>()
        })?;
        return ok(Value::Array(list));
    }
    ok(inner.with_repo(&name, |at, repo, _| content_shape(at, repo, &path, &entry, bytes.as_deref()))?)
}

async fn branch(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, branch)): Path<(String, String, String)>,
) -> Answer {
    let (_, git) = Repository { owner, name }.open(&inner, &caller)?;
    if Sha::parse(&branch).is_ok() {
        return Err(not_found());
    }
    let sha = git.resolve(&branch).await.ok_or_else(not_found)?;
    let commit = git.commit(&sha).await.ok_or_else(not_found)?;
    ok(json!({
        "name": branch, "commit": {"id": commit.sha, "message": commit.message, "timestamp": date(commit.committer.at * 1000)},
        "protected": false, "required_approvals": 0, "enable_status_check": false, "status_check_contexts": [],
        "user_can_push": true, "user_can_merge": true, "effective_branch_protection_name": "",
    }))
}

async fn commits(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
    Query(page): Query<Asked>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let from = git.resolve(page.sha.as_deref().unwrap_or_default()).await.ok_or_else(not_found)?;
    let range = match &page.not {
        Some(not) => {
            let not = git.resolve(not).await.ok_or_else(|| refuse(StatusCode::INTERNAL_SERVER_ERROR, ""))?;
            format!("{not}..{from}")
        }
        None => from,
    };
    let (skip, size) = page.window(MAX_PAGE);
    let commits = git.log(&range, skip, size).await?;
    ok(inner.with_repo(&name, |at, repo, _| commits.iter().map(|c| commit_shape(at, repo, c)).collect())?)
}

async fn permission(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, login)): Path<(String, String, String)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let answer = inner.with_repo(&name, |at, repo, state| {
        if repo.permission(&caller.login) < Permission::Admin {
            return Err(refuse(
                StatusCode::FORBIDDEN,
                "Only admins can query all permissions, repo admins can query all repo permissions, collaborators can query only their own",
            ));
        }
        let account = state.account(&login).ok_or_else(not_found)?;
        let word = match repo.permission(&login) {
            Permission::None => "none",
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Admin => "admin",
        };
        Ok(json!({"permission": word, "role_name": word, "user": user_shape(at, account)}))
    })??;
    ok(answer)
}

async fn pulls(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
    Query(page): Query<Asked>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let (skip, size) = page.window(MAX_PAGE);
    let shapes = inner.state.with(|s| {
        if page.poster.as_ref().is_some_and(|login| s.account(login).is_none()) {
            return Err(refuse(StatusCode::BAD_REQUEST, "user does not exist"));
        }
        let repo = s.repos.get(&name).ok_or_else(not_found)?;
        let wanted = |p: &&Pull| !p.open && page.poster.as_ref().is_none_or(|login| *login == p.author);
        let some = repo.pulls.values().rev().filter(wanted).skip(skip).take(size);
        Ok(some.map(|p| pull_shape(At(&inner.url), s, repo, p)).collect::<Vec<_>>())
    })?;
    ok(Value::Array(shapes))
}

async fn pull(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, number)): Path<(String, String, i64)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let shape = inner.with_repo(&name, |at, repo, state| {
        repo.pulls.get(&number).map(|pull| pull_shape(at, state, repo, pull))
    })?;
    ok(shape.ok_or_else(not_found)?)
}

async fn create_status(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, sha)): Path<(String, String, String)>,
    body: Bytes,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    may_write(&inner, &name, &caller)?;
    if git.resolve(&sha).await.is_none() {
        return Err(not_found());
    }
    let posted = take_status(&inner, &name, &caller, sha, &body, MAX_DESCRIPTION)?;
    let shape = inner.with_repo(&name, |at, repo, _| status_shape(at, repo, &posted, &caller))?;
    Ok((StatusCode::CREATED, axum::Json(shape)))
}

async fn list_comments(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, number)): Path<(String, String, i64)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    ok(inner.with_repo(&name, |at, repo, state| {
        repo.pulls.get(&number).ok_or_else(not_found)?;
        let here = repo.comments.values().filter(|c| c.number == number);
        Ok::<_, super::rest::Refusal>(
            here.map(|c| comment_shape(at, repo, c, &state.account_or_ghost(&c.author))).collect(),
        )
    })??)
}

async fn create_comment(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, number)): Path<(String, String, i64)>,
    body: Bytes,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let text = comment_body(&body)?;
    let posted = inner.add_comment(&name, number, &caller.login, text).ok_or_else(not_found)?;
    let shape = inner.with_repo(&name, |at, repo, _| comment_shape(at, repo, &posted, &caller))?;
    let behind = inner.clone();
    tokio::spawn(async move { behind.fire_comment(&name, &posted).await });
    Ok((StatusCode::CREATED, axum::Json(shape)))
}

async fn edit_comment(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, id)): Path<(String, String, u64)>,
    body: Bytes,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let posted = inner.edit_comment(&name, id, &caller, comment_body(&body)?)?;
    ok(inner.with_repo(&name, |at, repo, state| {
        comment_shape(at, repo, &posted, &state.account_or_ghost(&posted.author))
    })?)
}

// Gitea's JSON.

impl At<'_> {
    fn gitea(self, path: impl std::fmt::Display) -> String {
        format!("{}/api/v1{path}", self.0)
    }
}

fn user_shape(at: At<'_>, account: &Account) -> Value {
    json!({
        "id": account.id, "login": account.login, "login_name": "", "source_id": 0, "full_name": "",
        "email": format!("{}@sandbox.invalid", account.login), "avatar_url": format!("{}/avatars/{}", at.0, account.id),
        "html_url": format!("{}/{}", at.0, account.login), "language": "", "is_admin": false, "last_login": date(0),
        "created": date(0), "restricted": false, "active": true, "prohibit_login": false, "location": "", "website": "",
        "description": "", "visibility": "public", "followers_count": 0, "following_count": 0, "starred_repos_count": 0,
    })
}

fn repo_shape(at: At<'_>, repo: &Repo, state: &State) -> Value {
    let web = format!("{}/{}", at.0, repo.name);
    json!({
        "id": repo.id, "owner": user_shape(at, &state.account_or_ghost(repo.name.owner())), "name": repo.name.name(),
        "full_name": repo.name, "description": "", "empty": false, "private": repo.private, "fork": repo.fork,
        "template": false, "mirror": false, "size": 1, "language": "", "languages_url": at.gitea(format_args!("/repos/{}/languages", repo.name)),
        "html_url": web, "url": at.gitea(format_args!("/repos/{}", repo.name)), "link": "", "ssh_url": format!("git@sandbox.invalid:{}.git", repo.name),
        "clone_url": format!("{web}.git"), "original_url": "", "website": "", "stars_count": 0, "forks_count": 0,
        "watchers_count": 0, "open_issues_count": 0, "open_pr_counter": 0, "release_counter": 0,
        "default_branch": repo.default_branch, "archived": false, "created_at": date(repo.created_ms),
        "updated_at": date(repo.created_ms), "permissions": {"admin": false, "push": true, "pull": true},
        "has_issues": true, "has_pull_requests": true, "internal": false, "object_format_name": "sha1",
    })
}

fn pull_shape(at: At<'_>, state: &State, repo: &Repo, pull: &Pull) -> Value {
    let web = format!("{}/{}/pulls/{}", at.0, repo.name, pull.number);
    let head = pull.head_repo.as_ref().and_then(|name| state.repos.get(name));
    let end = |label: &str, sha: &str, of: Option<&Repo>| {
        json!({
            "label": label, "ref": label, "sha": sha, "repo_id": of.map_or(-1, |r| r.id as i64),
            "repo": of.map(|r| repo_shape(at, r, state)),
        })
    };
    let title = if pull.draft { format!("WIP: {}", pull.title) } else { pull.title.clone() };
    json!({
        "id": pull.id, "url": web, "number": pull.number, "user": user_shape(at, &state.account_or_ghost(&pull.author)),
        "title": title, "body": "", "labels": [], "milestone": null, "assignee": null, "assignees": [],
        "requested_reviewers": [], "state": if pull.open { "open" } else { "closed" }, "draft": pull.draft, "is_locked": false,
        "comments": 0, "html_url": web, "diff_url": format!("{web}.diff"), "patch_url": format!("{web}.patch"),
        "mergeable": true, "merged": pull.merged, "merged_at": pull.merged.then(|| date(pull.created_ms)), "merge_commit_sha": null,
        "merged_by": null, "allow_maintainer_edit": false, "base": end(&pull.base_branch, &pull.base_sha, Some(repo)),
        "head": end(&pull.head_branch, &pull.head_sha, head), "merge_base": pull.base_sha, "due_date": null,
        "created_at": date(pull.created_ms), "updated_at": date(pull.created_ms), "closed_at": null, "pin_order": 0,
    })
}

fn commit_shape(at: At<'_>, repo: &Repo, commit: &CommitInfo) -> Value {
    let url = |id: &str| at.gitea(format_args!("/repos/{}/git/commits/{id}", repo.name));
    let by =
        |by: &super::git::Signature| json!({"name": by.name, "email": by.email, "date": date(by.at * 1000)});
    let parents: Vec<Value> =
        commit.parents.iter().map(|p| json!({"url": url(p), "sha": p, "created": date(0)})).collect();
    json!({
        "url": url(&commit.sha), "sha": commit.sha, "created": date(commit.committer.at * 1000),
        "html_url": format!("{}/{}/commit/{}", at.0, repo.name, commit.sha),
        "commit": {
            "url": url(&commit.sha), "author": by(&commit.author), "committer": by(&commit.committer), "message": commit.message,
            "tree": {"url": at.gitea(format_args!("/repos/{}/git/trees/{}", repo.name, commit.tree)), "sha": commit.tree, "created": date(0)},
        },
        "author": null, "committer": null, "parents": parents,
    })
}

fn content_shape(at: At<'_>, repo: &Repo, path: &str, entry: &Entry, bytes: Option<&[u8]>) -> Value {
    let kind = match (entry.kind.as_str(), entry.mode.as_str()) {
        ("tree", _) => "dir",
        ("commit", _) => "submodule",
        (_, "120000") => "symlink",
        _ => "file",
    };
    let file = bytes.filter(|_| kind == "file");
    let target = bytes.filter(|_| kind == "symlink").map(|b| String::from_utf8_lossy(b).into_owned());
    let url = at.gitea(format_args!("/repos/{}/git/blobs/{}", repo.name, entry.id));
    json!({
        "name": path.rsplit('/').next(), "path": path, "sha": entry.id, "last_commit_sha": entry.id, "type": kind,
        "size": entry.size.unwrap_or(0), "encoding": file.map(|_| "base64"), "content": file.map(|b| BASE64_STANDARD.encode(b)),
        "target": target, "url": url, "html_url": url, "git_url": url, "download_url": null, "submodule_git_url": null,
        "_links": {"self": url, "git": url, "html": url},
    })
}

fn status_shape(at: At<'_>, repo: &Repo, status: &PostedStatus, creator: &Account) -> Value {
    json!({
        "id": status.id, "status": status.state, "target_url": status.target_url.clone().unwrap_or_default(),
        "description": status.description.clone().unwrap_or_default(), "context": status.context,
        "url": at.gitea(format_args!("/repos/{}/statuses/{}", repo.name, status.sha)), "creator": user_shape(at, creator),
        "created_at": date(status.at_ms), "updated_at": date(status.at_ms),
    })
}

fn comment_shape(at: At<'_>, repo: &Repo, comment: &PostedComment, author: &Account) -> Value {
    let web = format!("{}/{}/pulls/{}", at.0, repo.name, comment.number);
    json!({
        "id": comment.id, "html_url": format!("{web}#issuecomment-{}", comment.id), "pull_request_url": web, "issue_url": "",
        "user": user_shape(at, author), "original_author": "", "original_author_id": 0, "body": comment.body(), "assets": [],
        "created_at": date(comment.created_ms), "updated_at": date(comment.updated_ms),
    })
}

/// The webhook of what happened: its event and payload.
pub(super) fn webhook(
    at: At<'_>,
    state: &State,
    repo: &RepoName,
    what: &Happened<'_>,
) -> Option<(String, Value)> {
    let found = state.repos.get(repo)?;
    let sender = |login: &str| user_shape(at, &state.account_or_ghost(login));
    let common = |login: &str, more: Value| {
        let mut body = json!({"repository": repo_shape(at, found, state), "sender": sender(login)});
        if let (Some(into), Value::Object(more)) = (body.as_object_mut(), more) {
            into.extend(more);
        }
        body
    };
    Some(match what {
        // Gitea has none: its page's test sends a push.
        Happened::Ping => return None,
        Happened::Pushed { login, moved, listed, head, .. } => {
            if moved.after.is_none() {
                let (kind, name) = moved.short()?;
                let more = json!({"ref": name, "ref_type": kind, "pusher_type": "user"});
                return Some(("delete".into(), common(login, more)));
            }
            let commits: Vec<Value> = listed.iter().rev().take(LISTED_COMMITS).map(listed_shape).collect();
            let zero = || ZERO.to_owned();
            let more = json!({
                "ref": moved.reference, "before": moved.before.clone().unwrap_or_else(zero),
                "after": moved.after.clone().unwrap_or_else(zero), "compare_url": "", "commits": commits,
                "total_commits": listed.len(), "head_commit": head.as_ref().map(listed_shape), "pusher": sender(login),
            });
            ("push".into(), common(login, more))
        }
        Happened::Pull { number, action, login, more } => {
            let pull = found.pulls.get(number)?;
            let mut changes = json!({});
            let action = match *action {
                "synchronize" => "synchronized",
                "labeled" => "label_updated",
                "ready_for_review" => {
                    changes = json!({"title": {"from": format!("WIP: {}", pull.title)}});
                    "edited"
                }
                "edited" => {
                    if let Some(from) = more.pointer("/changes/base/ref/from") {
                        changes = json!({"ref": {"from": from}});
                    } else if let Some(from) = more.pointer("/changes/title/from") {
                        changes = json!({"title": {"from": from}});
                    }
                    "edited"
                }
                same => same,
            };
            let more = json!({
                "action": action, "number": number, "changes": changes, "pull_request": pull_shape(at, state, found, pull),
                "review": null,
            });
            ("pull_request".into(), common(login, more))
        }
        Happened::Commented(comment) => {
            let pull = found.pulls.get(&comment.number)?;
            let author = state.account_or_ghost(&comment.author);
            let more = json!({
                "action": "created", "is_pull": true, "comment": comment_shape(at, found, comment, &author),
                "issue": {
                    "id": pull.id, "number": pull.number, "title": pull.title, "state": if pull.open { "open" } else { "closed" },
                    "pull_request": {"merged": pull.merged, "merged_at": null},
                },
            });
            ("issue_comment".into(), common(&comment.author, more))
        }
    })
}

fn listed_shape((commit, changes): &Listed) -> Value {
    let paths = |letters: &str| -> Vec<&str> {
        changes.iter().filter(|(l, _)| letters.contains(l.as_str())).map(|(_, path)| path.as_str()).collect()
    };
    json!({
        "id": commit.sha, "message": commit.message, "url": "", "timestamp": date(commit.committer.at * 1000),
        "author": {"name": commit.author.name, "email": commit.author.email, "username": ""},
        "committer": {"name": commit.committer.name, "email": commit.committer.email, "username": ""}, "verification": null,
        "added": paths("A"), "removed": paths("D"), "modified": paths("MT"),
    })
}
