//! GitLab's shape of the sandbox: its REST API v4 and its webhooks. Statuses are jobs with GitLab's own state machine.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State as Extract};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use hyper::StatusCode;
use serde_json::{Value, json};

use super::git::{Bare, CommitInfo, Entry};
use super::rest::{Answer, Caller, Refusal, exchange, not_found, ok, refuse};
use super::shapes::{At, date};
use super::state::{Account, PostedComment, PostedStatus, Pull, Repo, State};
use super::webhooks::{Happened, Listed, ZERO};
use super::{Inner, Lock};
use crate::forge::Permission;
use crate::model::{RepoName, Sha};

const MAX_TEXT: usize = 255;
const MAX_NOTE: usize = 1_000_000;
const MAX_PAGE: usize = 100;
/// Commits that a push lists.
const LISTED_COMMITS: usize = 20;

pub(super) fn router(inner: Arc<Inner>) -> Router {
    let project = Router::new()
        .route("/", get(project))
        .route("/repository/commits", get(commits))
        .route("/repository/commits/{sha}", get(commit))
        .route("/repository/commits/{sha}/statuses", get(list_statuses))
        .route("/repository/tree", get(tree))
        .route("/repository/files/{path}/raw", get(file))
        .route("/repository/merge_base", get(merge_base))
        .route("/members/all/{user}", get(member))
        .route("/merge_requests", get(merge_requests))
        .route("/merge_requests/{iid}", get(merge_request))
        .route("/merge_requests/{iid}/notes", get(list_notes).post(create_note))
        .route("/merge_requests/{iid}/notes/{note}", put(edit_note))
        .route("/statuses/{sha}", post(create_status));
    Router::new()
        .route(
            "/user",
            get(|Extract(inner): Extract<Arc<Inner>>, caller: Caller| async move {
                ok(user_shape(At(&inner.url), &caller))
            }),
        )
        .nest("/projects/{id}", project)
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn_with_state(inner.clone(), exchange))
        .with_state(inner)
}

type Pairs = Query<Vec<(String, String)>>;

fn first<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// (how many to skip, how many to show)
fn window(pairs: &[(String, String)]) -> (usize, usize) {
    let number = |name: &str| first(pairs, name).and_then(|text| text.parse::<usize>().ok());
    let size = number("per_page").unwrap_or(20).clamp(1, MAX_PAGE);
    ((number("page").unwrap_or(1).max(1) - 1) * size, size)
}

/// The project of a number or of an encoded path, if the caller may read it.
fn open(inner: &Inner, id: &str, caller: &Account) -> Result<(RepoName, Bare), Refusal> {
    inner.state.with(|s| {
        let repo = s.repos.values().find(|r| r.name.as_str() == id || r.id.to_string() == id);
        let repo = repo.filter(|r| r.permission(&caller.login) >= Permission::Read).ok_or_else(not_found)?;
        Ok((repo.name.clone(), repo.git.clone()))
    })
}

async fn project(Extract(inner): Extract<Arc<Inner>>, caller: Caller, Path(id): Path<String>) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    ok(inner.with_repo(&name, |at, repo, _| {
        let mut shape = project_shape(at, repo);
        shape["path"] = json!(repo.name.name());
        shape["visibility"] = json!(if repo.private { "private" } else { "public" });
        shape
    })?)
}

async fn commits(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(pairs): Pairs,
) -> Answer {
    let (name, git) = open(&inner, &id, &caller)?;
    let from = git.resolve(first(&pairs, "ref_name").unwrap_or_default()).await.ok_or_else(not_found)?;
    let (skip, size) = window(&pairs);
    let commits = git.log(&from, skip, size).await?;
    ok(inner.with_repo(&name, |at, repo, _| commits.iter().map(|c| commit_shape(at, repo, c)).collect())?)
}

async fn commit(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, sha)): Path<(String, String)>,
) -> Answer {
    let (name, git) = open(&inner, &id, &caller)?;
    let sha = git.resolve(&sha).await.ok_or_else(not_found)?;
    let commit = git.commit(&sha).await.ok_or_else(not_found)?;
    ok(inner.with_repo(&name, |at, repo, _| commit_shape(at, repo, &commit))?)
}

/// By keyset: the token of the next page is the id of the last entry of this one.
async fn tree(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let (name, git) = open(&inner, &id, &caller)?;
    let commit = git.resolve(first(&pairs, "ref").unwrap_or_default()).await.ok_or_else(not_found)?;
    let path = first(&pairs, "path").unwrap_or_default().to_owned();
    let tree = if path.is_empty() {
        commit.clone()
    } else {
        let found = git.entries(&commit, Some(&path)).await.map_err(|_| not_found())?;
        let folder = found.into_iter().find(|e| e.path == path && e.kind == "tree");
        folder.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "404 invalid revision or path Not Found"))?.id
    };
    let entries = git.entries(&tree, None).await.map_err(|_| not_found())?;
    let (_, size) = window(&pairs);
    let start = match first(&pairs, "page_token") {
        Some(token) => entries.iter().position(|e| e.path == token).ok_or_else(not_found)? + 1,
        None => 0,
    };
    let shape = |entry: &Entry| {
        let at = if path.is_empty() { entry.path.clone() } else { format!("{path}/{}", entry.path) };
        json!({"id": entry.id, "name": entry.path, "type": entry.kind, "path": at, "mode": entry.mode})
    };
    let shown: Vec<&Entry> = entries.iter().skip(start).take(size).collect();
    let body = Value::Array(shown.iter().map(|e| shape(e)).collect());
    let mut response = axum::Json(body).into_response();
    if let Some(last) = shown.last().filter(|_| start + shown.len() < entries.len()) {
        let encode = |text: &str| text.bytes().map(|b| format!("%{b:02X}")).collect::<String>();
        let next = format!(
            "<{}/api/v4/projects/{}/repository/tree?pagination=keyset&per_page={size}&ref={commit}&path={}&page_token={}>; rel=\"next\"",
            inner.url,
            encode(name.as_str()),
            encode(&path),
            encode(&last.path)
        );
        if let Ok(value) = next.parse() {
            response.headers_mut().insert("link", value);
        }
    }
    Ok(response)
}

async fn file(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, path)): Path<(String, String)>,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let (_, git) = open(&inner, &id, &caller)?;
    let commit = git.resolve(first(&pairs, "ref").unwrap_or_default()).await.ok_or_else(not_found)?;
    let found = git.entries(&commit, Some(&path)).await.map_err(|_| not_found())?;
    let entry = found.into_iter().find(|e| e.path == path && e.kind == "blob");
    let entry = entry.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "404 File Not Found"))?;
    Ok(git.blob(&entry.id).await?.into_response())
}

async fn merge_base(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(pairs): Pairs,
) -> Answer {
    let (name, git) = open(&inner, &id, &caller)?;
    let refs: Vec<&str> = pairs.iter().filter(|(key, _)| key == "refs[]").map(|(_, v)| v.as_str()).collect();
    let [base, head] = refs.as_slice() else {
        return Err(refuse(StatusCode::BAD_REQUEST, "400 Bad request - Provide exactly 2 refs"));
    };
    let mut found = Vec::new();
    for reference in [base, head] {
        let missing = || {
            let message = format!("400 Bad request - Could not find ref: {reference}");
            refuse(StatusCode::BAD_REQUEST, &message)
        };
        found.push(git.resolve(reference).await.ok_or_else(missing)?);
    }
    let base = git.merge_base(&found[0], &found[1]).await;
    let base = base.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "404 Merge Base Not Found"))?;
    let commit = git.commit(&base).await.ok_or_else(not_found)?;
    ok(inner.with_repo(&name, |at, repo, _| commit_shape(at, repo, &commit))?)
}

async fn member(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, user)): Path<(String, u64)>,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    let shape = inner.with_repo(&name, |at, repo, state| {
        let account = state.accounts.values().find(|a| a.id == user)?;
        let level = match repo.permission(&account.login) {
            Permission::None => return None,
            Permission::Read => 20,
            Permission::Write => 30,
            Permission::Admin => 40,
        };
        let mut shape = user_shape(at, account);
        shape["access_level"] = json!(level);
        shape["expires_at"] = Value::Null;
        Some(shape)
    })?;
    ok(shape.ok_or_else(not_found)?)
}

async fn merge_requests(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(pairs): Pairs,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    let (skip, size) = window(&pairs);
    ok(inner.with_repo(&name, |at, repo, state| {
        let wanted = |p: &&Pull| {
            first(&pairs, "state").is_none_or(|word| word == state_of(p))
                && first(&pairs, "author_id")
                    .is_none_or(|id| state.account_or_ghost(&p.author).id.to_string() == id)
        };
        let some = repo.pulls.values().filter(wanted).skip(skip).take(size);
        some.map(|p| merge_request_shape(at, state, repo, p)).collect()
    })?)
}

async fn merge_request(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, iid)): Path<(String, i64)>,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    let shape = inner.with_repo(&name, |at, repo, state| {
        repo.pulls.get(&iid).map(|p| merge_request_shape(at, state, repo, p))
    })?;
    ok(shape.ok_or_else(not_found)?)
}

/// The newest of each name.
async fn list_statuses(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, sha)): Path<(String, String)>,
    Query(pairs): Pairs,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    ok(inner.with_repo(&name, |at, repo, state| {
        let mut newest: Vec<&PostedStatus> = Vec::new();
        for status in repo.statuses.iter().filter(|s| s.sha == sha) {
            newest.retain(|other| other.context != status.context);
            newest.push(status);
        }
        let wanted = |s: &&&PostedStatus| first(&pairs, "name").is_none_or(|name| name == s.context);
        let (skip, size) = window(&pairs);
        let shape = |s: &&PostedStatus| {
            status_shape(at, repo, s, &state.account_or_ghost(&s.by), pipeline(repo, &sha))
        };
        newest.iter().filter(wanted).skip(skip).take(size).map(shape).collect()
    })?)
}

fn form(body: &[u8]) -> Result<Vec<(String, String)>, Refusal> {
    let uri = hyper::Uri::builder()
        .path_and_query(format!("/?{}", String::from_utf8_lossy(body)))
        .build()
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "400 Bad request"))?;
    Query::<Vec<(String, String)>>::try_from_uri(&uri)
        .map(|Query(pairs)| pairs)
        .map_err(|_| refuse(StatusCode::BAD_REQUEST, "400 Bad request"))
}

/// The outside pipeline of a commit: GitLab makes one for the first status.
fn pipeline(repo: &Repo, sha: &str) -> u64 {
    repo.statuses.iter().find(|s| s.sha == sha).map_or(0, |first| 1_000_000 + first.id)
}

/// As `POST /projects/:id/statuses/:sha`: the texts are taken first, then the job takes the step that the state asks for, if its
/// state machine has it; a job that has ended is left, and another one begins.
async fn create_status(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, sha)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let (name, git) = open(&inner, &id, &caller)?;
    let pairs = form(&body)?;
    let bad = |message: &str| refuse(StatusCode::BAD_REQUEST, message);
    let wanted = first(&pairs, "state").unwrap_or_default().to_owned();
    let step = match wanted.as_str() {
        "pending" => "enqueue",
        "running" => "run",
        "success" => "success",
        "failed" => "drop",
        "canceled" => "cancel",
        _ => return Err(bad("state does not have a valid value")),
    };
    let context = first(&pairs, "name").unwrap_or("default").to_owned();
    let description = first(&pairs, "description").map(str::to_owned);
    let target_url = first(&pairs, "target_url").map(str::to_owned);
    if [&Some(context.clone()), &description, &target_url]
        .iter()
        .any(|text| text.as_ref().is_some_and(|t| t.chars().count() > MAX_TEXT))
    {
        return Err(bad("a text is too long (maximum is 255 characters)"));
    }
    let known = match Sha::parse(&sha) {
        Ok(sha) => git.commit(sha.as_str()).await.is_some(),
        Err(_) => false,
    };
    if !known {
        return Err(refuse(StatusCode::NOT_FOUND, "404 Commit Not Found"));
    }
    let at_ms = inner.clock.now_ms();
    let shape = inner.state.with(|s| {
        let id = s.next_id();
        let repo = s.repos.get_mut(&name).ok_or_else(not_found)?;
        if repo.permission(&caller.login) < Permission::Write {
            return Err(refuse(StatusCode::FORBIDDEN, "403 Forbidden"));
        }
        let given = first(&pairs, "pipeline_id").and_then(|text| text.parse::<u64>().ok());
        if given.is_some_and(|given| given != pipeline(repo, &sha)) {
            return Err(refuse(StatusCode::NOT_FOUND, "404 Pipeline Not Found"));
        }
        let last = repo.statuses.iter_mut().rev().find(|p| p.sha == sha && p.context == context);
        let open = last.filter(|p| matches!(p.state.as_str(), "pending" | "running"));
        if let Some(job) = &open {
            let allowed = !matches!((job.state.as_str(), step), ("pending", "enqueue") | ("running", "enqueue" | "run"));
            if !allowed {
                let from = job.state.clone();
                if let Some(job) = open {
                    job.description = description;
                }
                let message = format!(
                    "Cannot transition status via :{step} from :{from} (Reason(s): Status cannot transition via \"{step}\")"
                );
                return Err(refuse(StatusCode::BAD_REQUEST, &message));
            }
        }
        let posted = PostedStatus {
            id,
            sha: sha.clone(),
            context,
            state: wanted,
            description,
            target_url,
            by: caller.login.clone(),
            at_ms,
        };
        repo.statuses.push(posted.clone());
        Ok(status_shape(At(&inner.url), repo, &posted, &caller, pipeline(repo, &sha)))
    })?;
    Ok((StatusCode::CREATED, axum::Json(shape)))
}

async fn list_notes(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, iid)): Path<(String, i64)>,
    Query(pairs): Pairs,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    let (skip, size) = window(&pairs);
    ok(inner.with_repo(&name, |at, repo, state| {
        let pull = repo.pulls.get(&iid).ok_or_else(not_found)?;
        let here = repo.comments.values().filter(|c| c.number == iid).skip(skip).take(size);
        let shape = |c: &PostedComment| note_shape(at, repo, pull, c, &state.account_or_ghost(&c.author));
        Ok::<_, Refusal>(here.map(shape).collect())
    })??)
}

fn note_body(body: &[u8]) -> Result<String, Refusal> {
    let pairs = form(body)?;
    let text = first(&pairs, "body").unwrap_or_default();
    if text.trim().is_empty() {
        return Err(refuse(StatusCode::BAD_REQUEST, "400 Bad request - Note {:note=>[\"can't be blank\"]}"));
    }
    if text.chars().count() > MAX_NOTE {
        return Err(refuse(StatusCode::BAD_REQUEST, "400 Bad request - Note is too long"));
    }
    Ok(text.to_owned())
}

async fn create_note(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, iid)): Path<(String, i64)>,
    body: Bytes,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    let text = note_body(&body)?;
    let posted = inner.add_comment(&name, iid, &caller.login, text).ok_or_else(not_found)?;
    let shape = inner.with_repo(&name, |at, repo, _| {
        repo.pulls.get(&iid).map(|pull| note_shape(at, repo, pull, &posted, &caller))
    })?;
    let behind = inner.clone();
    tokio::spawn(async move { behind.fire_comment(&name, &posted).await });
    Ok((StatusCode::CREATED, axum::Json(shape.ok_or_else(not_found)?)))
}

async fn edit_note(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((id, iid, note)): Path<(String, i64, u64)>,
    body: Bytes,
) -> Answer {
    let (name, _) = open(&inner, &id, &caller)?;
    let posted = inner.edit_comment(&name, note, &caller, note_body(&body)?)?;
    let shape = inner.with_repo(&name, |at, repo, state| {
        let pull = repo.pulls.get(&iid)?;
        Some(note_shape(at, repo, pull, &posted, &state.account_or_ghost(&posted.author)))
    })?;
    ok(shape.ok_or_else(not_found)?)
}

// GitLab's JSON.

fn user_shape(at: At<'_>, account: &Account) -> Value {
    json!({
        "id": account.id, "username": account.login, "name": account.login, "state": "active", "locked": false,
        "avatar_url": null, "web_url": format!("{}/{}", at.0, account.login),
    })
}

fn project_shape(at: At<'_>, repo: &Repo) -> Value {
    let web = format!("{}/{}", at.0, repo.name);
    json!({
        "id": repo.id, "name": repo.name.name(), "description": null, "web_url": web, "path_with_namespace": repo.name,
        "default_branch": repo.default_branch, "http_url_to_repo": format!("{web}.git"),
    })
}

fn commit_shape(at: At<'_>, repo: &Repo, commit: &CommitInfo) -> Value {
    json!({
        "id": commit.sha, "short_id": &commit.sha[..8], "title": commit.message.lines().next(), "message": commit.message,
        "parent_ids": commit.parents, "created_at": date(commit.committer.at * 1000), "author_name": commit.author.name,
        "author_email": commit.author.email, "authored_date": date(commit.author.at * 1000),
        "committer_name": commit.committer.name, "committer_email": commit.committer.email,
        "committed_date": date(commit.committer.at * 1000), "trailers": {},
        "web_url": format!("{}/{}/-/commit/{}", at.0, repo.name, commit.sha),
    })
}

fn state_of(pull: &Pull) -> &'static str {
    match (pull.open, pull.merged) {
        (true, _) => "opened",
        (false, true) => "merged",
        (false, false) => "closed",
    }
}

fn merge_request_shape(at: At<'_>, state: &State, repo: &Repo, pull: &Pull) -> Value {
    let source = pull.head_repo.as_ref().and_then(|name| state.repos.get(name));
    json!({
        "id": pull.id, "iid": pull.number, "project_id": repo.id, "title": pull.title, "description": "", "state": state_of(pull),
        "created_at": date(pull.created_ms), "updated_at": date(pull.created_ms), "target_branch": pull.base_branch,
        "source_branch": pull.head_branch, "author": user_shape(at, &state.account_or_ghost(&pull.author)), "assignees": [],
        "reviewers": [], "source_project_id": source.map(|r| r.id), "target_project_id": repo.id, "labels": [],
        "draft": pull.draft, "work_in_progress": pull.draft, "milestone": null, "merge_status": "can_be_merged",
        "detailed_merge_status": "mergeable", "sha": pull.head_sha, "merge_commit_sha": null, "user_notes_count": 0,
        "web_url": format!("{}/{}/-/merge_requests/{}", at.0, repo.name, pull.number),
        "diff_refs": {"base_sha": pull.base_sha, "head_sha": pull.head_sha, "start_sha": pull.base_sha},
    })
}

fn status_shape(at: At<'_>, _: &Repo, status: &PostedStatus, author: &Account, pipeline: u64) -> Value {
    json!({
        "id": status.id, "sha": status.sha, "ref": "main", "status": status.state, "name": status.context,
        "target_url": status.target_url, "description": status.description, "created_at": date(status.at_ms),
        "started_at": null, "finished_at": null, "allow_failure": false, "coverage": null, "pipeline_id": pipeline,
        "author": user_shape(at, author),
    })
}

fn note_shape(at: At<'_>, repo: &Repo, pull: &Pull, note: &PostedComment, author: &Account) -> Value {
    json!({
        "id": note.id, "type": null, "body": note.body(), "author": user_shape(at, author), "created_at": date(note.created_ms),
        "updated_at": date(note.updated_ms), "system": false, "noteable_id": pull.id, "noteable_type": "MergeRequest",
        "project_id": repo.id, "noteable_iid": pull.number, "resolvable": false, "confidential": false, "internal": false,
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
    let user = |login: &str| {
        let account = state.account_or_ghost(login);
        json!({"id": account.id, "name": account.login, "username": account.login, "avatar_url": null, "email": "[REDACTED]"})
    };
    Some(match what {
        // GitLab has none: its page's test sends one of the others.
        Happened::Ping => return None,
        Happened::Pushed { login, moved, listed, .. } => {
            let account = state.account_or_ghost(login);
            let (kind, _) = moved.short()?;
            let (header, word) =
                if kind == "tag" { ("Tag Push Hook", "tag_push") } else { ("Push Hook", "push") };
            let skip = listed.len().saturating_sub(LISTED_COMMITS);
            let commits: Vec<Value> = listed.iter().skip(skip).map(listed_shape).collect();
            let zero = || ZERO.to_owned();
            let payload = json!({
                "object_kind": word, "event_name": word, "before": moved.before.clone().unwrap_or_else(zero),
                "after": moved.after.clone().unwrap_or_else(zero), "ref": moved.reference, "ref_protected": false,
                "checkout_sha": moved.after, "message": null, "user_id": account.id, "user_name": account.login,
                "user_username": account.login, "user_email": "", "user_avatar": null, "project_id": found.id,
                "project": project_shape(at, found), "commits": commits, "total_commits_count": listed.len(), "push_options": {},
            });
            (header.into(), payload)
        }
        Happened::Pull { number, action, login, more } => {
            let pull = found.pulls.get(number)?;
            let mut attributes = attributes(state, found, pull);
            let mut changes = json!({});
            let word = match *action {
                "opened" => "open",
                "reopened" => "reopen",
                "closed" if pull.merged => "merge",
                "closed" => "close",
                "ready_for_review" => {
                    changes = json!({"draft": {"previous": true, "current": false}});
                    "update"
                }
                "labeled" => {
                    changes = json!({"labels": {"previous": [], "current": []}});
                    "update"
                }
                _ => {
                    if let Some(before) = more.get("before") {
                        attributes["oldrev"] = before.clone();
                    } else if let Some(from) = more.pointer("/changes/base/ref/from") {
                        changes = json!({"target_branch": {"previous": from, "current": pull.base_branch}});
                    } else if let Some(from) = more.pointer("/changes/title/from") {
                        changes = json!({"title": {"previous": from, "current": pull.title}});
                    }
                    "update"
                }
            };
            attributes["action"] = json!(word);
            let payload = json!({
                "object_kind": "merge_request", "event_type": "merge_request", "user": user(login), "labels": [],
                "project": project_shape(at, found), "object_attributes": attributes, "changes": changes,
            });
            ("Merge Request Hook".into(), payload)
        }
        Happened::Commented(comment) => {
            let pull = found.pulls.get(&comment.number)?;
            let author = state.account_or_ghost(&comment.author);
            let payload = json!({
                "object_kind": "note", "event_type": "note", "user": user(&comment.author), "project_id": found.id,
                "project": project_shape(at, found), "merge_request": attributes(state, found, pull),
                "object_attributes": {
                    "id": comment.id, "note": comment.body(), "noteable_type": "MergeRequest", "author_id": author.id,
                    "created_at": date(comment.created_ms), "updated_at": date(comment.updated_ms), "project_id": found.id,
                    "noteable_id": pull.id, "system": false, "action": "create",
                },
            });
            ("Note Hook".into(), payload)
        }
    })
}

/// A merge request as webhooks have it: without its base commit, its author by number alone.
fn attributes(state: &State, repo: &Repo, pull: &Pull) -> Value {
    let source = pull.head_repo.as_ref().and_then(|name| state.repos.get(name));
    json!({
        "id": pull.id, "iid": pull.number, "title": pull.title, "state": state_of(pull), "description": "",
        "author_id": state.account_or_ghost(&pull.author).id, "source_branch": pull.head_branch,
        "target_branch": pull.base_branch, "source_project_id": source.map(|r| r.id), "target_project_id": repo.id,
        "draft": pull.draft, "work_in_progress": pull.draft, "created_at": date(pull.created_ms),
        "updated_at": date(pull.created_ms), "last_commit": {"id": pull.head_sha, "author": {"name": "Somebody", "email": "x@example.com"}},
    })
}

fn listed_shape((commit, changes): &Listed) -> Value {
    let paths = |letters: &str| -> Vec<&str> {
        changes.iter().filter(|(l, _)| letters.contains(l.as_str())).map(|(_, path)| path.as_str()).collect()
    };
    json!({
        "id": commit.sha, "message": commit.message, "title": commit.message.lines().next(), "url": "",
        "timestamp": date(commit.committer.at * 1000),
        "author": {"name": commit.author.name, "email": commit.author.email},
        "added": paths("A"), "removed": paths("D"), "modified": paths("MT"),
    })
}
