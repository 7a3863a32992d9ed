//! GitHub's REST API as far as trainyard calls it, answered from the repositories and the state.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Query, Request, State as Extract};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::git::{Bare, Entry};
use super::shapes::{self, At};
use super::state::{Account, Exchange, FaultKind, PostedStatus};
use super::{Inner, Lock};
use crate::config::ForgeKind;
use crate::forge::Permission;
use crate::model::{RepoName, Sha};

/// GitHub's own limits.
const MAX_DESCRIPTION: usize = 140;
const MAX_CONTEXT: usize = 255;
const MAX_COMMENT: usize = 65_536;
const MAX_STATUSES: usize = 1_000;
const MAX_JSON_FILE: u64 = 1 << 20;

pub(super) type Answer = Result<(StatusCode, axum::Json<Value>), Refusal>;

/// Anything but 2xx.
pub(super) struct Refusal(StatusCode, Value);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, axum::Json(self.1)).into_response()
    }
}

pub(super) fn refuse(status: StatusCode, message: &str) -> Refusal {
    Refusal(status, shapes::error(status.as_u16(), message))
}

pub(super) fn not_found() -> Refusal {
    refuse(StatusCode::NOT_FOUND, "Not Found")
}

fn invalid(resource: &str, field: &str, code: &str, message: &str) -> Refusal {
    Refusal(StatusCode::UNPROCESSABLE_ENTITY, shapes::invalid(resource, field, code, message))
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        refuse(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}"))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every handler answers so")]
pub(super) fn ok(body: Value) -> Answer {
    Ok((StatusCode::OK, axum::Json(body)))
}

pub(super) fn router(inner: Arc<Inner>) -> Router {
    let repo = Router::new()
        .route("/", get(repository))
        .route("/git/commits/{sha}", get(git_commit))
        .route("/git/trees/{sha}", get(git_tree))
        .route("/contents/{*path}", get(contents))
        .route("/compare/{basehead}", get(compare))
        .route("/commits", get(commits))
        .route("/collaborators/{login}/permission", get(permission))
        .route("/pulls/{number}", get(pull))
        .route("/statuses/{sha}", post(create_status))
        .route("/issues/{number}/comments", get(list_comments).post(create_comment))
        .route("/issues/comments/{id}", patch(edit_comment));
    Router::new()
        .route("/user", get(user))
        .route("/search/issues", get(search))
        .nest("/repos/{owner}/{name}", repo)
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn_with_state(inner.clone(), exchange))
        .with_state(inner)
}

/// Keeps every call with its answer, and lets ordered failures happen.
pub(super) async fn exchange(Extract(inner): Extract<Arc<Inner>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let Ok(body) = to_bytes(body, 16 << 20).await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large").into_response();
    };
    let mut record = Exchange {
        forge: inner.kind.word(),
        method: parts.method.to_string(),
        path: path.clone(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        request: read_body(&parts.headers, &body),
        status: 0,
        response: Value::Null,
        injected: false,
    };
    let fault = inner.state.with(|s| s.take_fault(parts.method.as_str(), &path));
    let response = match &fault {
        Some(FaultKind::Answer { status, headers, body }) => injected(*status, headers, body),
        Some(FaultKind::DropBefore) => broken(),
        Some(FaultKind::DropAfter) | None => match account_of(&inner, &parts.headers) {
            Some(account) => {
                let mut request = Request::from_parts(parts, Body::from(body));
                request.extensions_mut().insert(account);
                next.run(request).await
            }
            None => refuse(StatusCode::UNAUTHORIZED, "Bad credentials").into_response(),
        },
    };
    record.injected = fault.is_some();
    let response = if matches!(fault, Some(FaultKind::DropBefore)) {
        response
    } else {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        record.status = parts.status.as_u16();
        record.response = serde_json::from_slice(&body).unwrap_or(Value::Null);
        Response::from_parts(parts, Body::from(body))
    };
    inner.state.with(|s| s.exchanges.push(record));
    if matches!(fault, Some(FaultKind::DropAfter)) { broken() } else { response }
}

/// JSON as it is; a form as an object of texts.
fn read_body(headers: &HeaderMap, body: &[u8]) -> Value {
    let form = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|v| v.as_bytes().starts_with(b"application/x-www-form"));
    if !form {
        return serde_json::from_slice(body).unwrap_or(Value::Null);
    }
    let uri = format!("/?{}", String::from_utf8_lossy(body)).parse::<hyper::Uri>();
    let pairs = uri.ok().and_then(|uri| Query::<Vec<(String, String)>>::try_from_uri(&uri).ok());
    pairs.map_or(Value::Null, |Query(pairs)| pairs.into_iter().map(|(k, v)| (k, Value::String(v))).collect())
}

fn injected(status: u16, headers: &[(String, String)], body: &str) -> Response {
    let mut response = Response::new(Body::from(body.to_owned()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) =
            (header::HeaderName::try_from(name), header::HeaderValue::try_from(value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// An answer that ends before it is whole: the connection closes.
fn broken() -> Response {
    let cut =
        futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("dropped as ordered")) });
    ([(header::CONTENT_LENGTH, "1000")], Body::from_stream(cut)).into_response()
}

fn account_of(inner: &Inner, headers: &HeaderMap) -> Option<Account> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let token = match inner.kind {
        ForgeKind::Github => text("authorization")?.strip_prefix("Bearer ")?,
        ForgeKind::Gitlab => text("private-token")?,
        ForgeKind::Gitea => text("authorization")?.strip_prefix("token ")?,
    };
    inner.state.with(|s| s.accounts.values().find(|a| !a.token.is_empty() && a.token == token).cloned())
}

#[derive(Deserialize)]
pub(super) struct Repository {
    pub owner: String,
    pub name: String,
}

impl Repository {
    /// The repository's name and git folder, if it is here and the caller may read it.
    pub fn open(&self, inner: &Inner, caller: &Account) -> Result<(RepoName, Bare), Refusal> {
        let name = RepoName::parse(&format!("{}/{}", self.owner, self.name)).map_err(|_| not_found())?;
        inner.state.with(|s| {
            let repo = s.repos.get(&name).ok_or_else(not_found)?;
            if repo.permission(&caller.login) < Permission::Read {
                return Err(not_found());
            }
            Ok((name.clone(), repo.git.clone()))
        })
    }
}

pub(super) type Caller = axum::Extension<Account>;

#[derive(Deserialize)]
struct Page {
    per_page: Option<usize>,
    page: Option<usize>,
}

impl Page {
    /// (how many to skip, how many to show)
    fn window(&self) -> (usize, usize) {
        let size = self.per_page.unwrap_or(30).clamp(1, 100);
        ((self.page.unwrap_or(1).max(1) - 1) * size, size)
    }
}

async fn repository(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    ok(inner.state.with(|s| inner.repository_shape(s, &name)).ok_or_else(not_found)?)
}

async fn user(Extract(inner): Extract<Arc<Inner>>, caller: Caller) -> Answer {
    ok(shapes::own_user(At(&inner.url), &caller, inner.clock.now_ms()))
}

#[derive(Deserialize)]
struct Search {
    q: String,
}

/// Search as far as trainyard asks it: `repo:o/n is:pr is:merged author:login`.
async fn search(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Query(search): Query<Search>,
    Query(page): Query<Page>,
) -> Answer {
    let word =
        |prefix: &str| search.q.split(' ').find_map(|word| word.strip_prefix(prefix)).unwrap_or_default();
    let (name, author) = (word("repo:"), word("author:"));
    let invalid = || invalid("Search", "q", "invalid", "The listed users or repositories cannot be searched");
    let name = RepoName::parse(name).map_err(|_| invalid())?;
    let known = inner.state.with(|s| {
        s.account(author).is_some()
            && s.repos.get(&name).is_some_and(|r| r.permission(&caller.login) >= Permission::Read)
    });
    if !known {
        return Err(invalid());
    }
    let (skip, size) = page.window();
    let now = inner.clock.now_ms();
    ok(inner.with_repo(&name, |at, repo, state| {
        let found: Vec<Value> = repo
            .pulls
            .values()
            .filter(|p| p.merged && p.author == author)
            .map(|p| shapes::found_issue(at, repo, p, &state.account_or_ghost(&p.author), now))
            .collect();
        let items: Vec<&Value> = found.iter().skip(skip).take(size).collect();
        json!({"total_count": found.len(), "incomplete_results": false, "search_type": "lexical", "items": items})
    })?)
}

async fn git_commit(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, sha)): Path<(String, String, String)>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let sha = Sha::parse(&sha).map_err(|_| not_found())?;
    let commit = git.commit(sha.as_str()).await.ok_or_else(not_found)?;
    ok(inner.with_repo(&name, |at, repo, _| shapes::git_commit(at, repo, &commit))?)
}

async fn git_tree(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, id)): Path<(String, String, String)>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let id = Sha::parse(&id).map_err(|_| not_found())?;
    let entries = git.entries(id.as_str(), None).await.map_err(|_| not_found())?;
    ok(inner.with_repo(&name, |at, repo, _| shapes::tree(at, repo, id.as_str(), &entries))?)
}

#[derive(Deserialize)]
struct Reference {
    r#ref: Option<String>,
}

async fn contents(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, path)): Path<(String, String, String)>,
    Query(at_ref): Query<Reference>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let reference = match at_ref.r#ref {
        Some(reference) => reference,
        None => inner.with_repo(&name, |_, repo, _| repo.default_branch.clone())?,
    };
    let commit = git.resolve(&reference).await.ok_or_else(not_found)?;
    let path = path.trim_matches('/').to_owned();
    let found = git.entries(&commit, Some(&path)).await.map_err(|_| not_found())?;
    let entry = found.into_iter().find(|e| e.path == path).ok_or_else(not_found)?;
    if entry.kind == "tree" {
        let inside = git.entries(&entry.id, None).await?;
        let list = inner.with_repo(&name, |at, repo, _| {
            let one = |e: &Entry| {
                let mut shape = shapes::content(at, repo, &reference, &format!("{path}/{}", e.path), e, None);
                if let Some(fields) = shape.as_object_mut() {
                    for only_alone in ["content", "encoding", "target", "submodule_git_url"] {
                        fields.remove(only_alone);
                    }
                }
                shape
            };
            inside.iter().map(one).collect::<Vec<_>>()
        })?;
        return ok(Value::Array(list));
    }
    let content = match entry.size {
        Some(size) if size <= MAX_JSON_FILE => Some(git.blob(&entry.id).await?),
        _ => None,
    };
    let text = content.map(|bytes| {
        if entry.mode == "120000" {
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            base64_lines(&bytes)
        }
    });
    ok(inner.with_repo(&name, |at, repo, _| {
        shapes::content(at, repo, &reference, &path, &entry, text.as_deref())
    })?)
}

/// In lines of 60, as GitHub does.
fn base64_lines(bytes: &[u8]) -> String {
    let mut lines = String::new();
    for (at, character) in BASE64_STANDARD.encode(bytes).chars().enumerate() {
        if at > 0 && at % 60 == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines + "\n"
}

async fn compare(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, basehead)): Path<(String, String, String)>,
    Query(page): Query<Page>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let (base_name, head_name) = basehead.split_once("...").ok_or_else(not_found)?;
    let base = git.resolve(base_name).await.ok_or_else(not_found)?;
    let head = git.resolve(head_name).await.ok_or_else(not_found)?;
    let Some(merge_base) = git.merge_base(&base, &head).await else {
        let message = format!("No common ancestor between {base_name} and {head_name}.");
        return Err(refuse(StatusCode::NOT_FOUND, &message));
    };
    let (behind, ahead) = git.behind_ahead(&base, &head).await?;
    let (skip, size) = page.window();
    let mut commits = git.log(&format!("{base}..{head}"), skip, size).await?;
    commits.reverse();
    let base = git.commit(&base).await.ok_or_else(not_found)?;
    let merge_base = git.commit(&merge_base).await.ok_or_else(not_found)?;
    let it = shapes::Comparison {
        head_name,
        base: &base,
        merge_base: &merge_base,
        behind,
        ahead,
        commits: &commits,
    };
    ok(inner.with_repo(&name, |at, repo, _| shapes::comparison(at, repo, &it))?)
}

#[derive(Deserialize)]
struct CommitQuery {
    sha: Option<String>,
    per_page: Option<usize>,
    page: Option<usize>,
}

async fn commits(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name)): Path<(String, String)>,
    Query(query): Query<CommitQuery>,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    let from = match query.sha {
        Some(sha) => sha,
        None => inner.with_repo(&name, |_, repo, _| repo.default_branch.clone())?,
    };
    let from = git.resolve(&from).await.ok_or_else(not_found)?;
    let (skip, size) = Page { per_page: query.per_page, page: query.page }.window();
    let commits = git.log(&from, skip, size).await?;
    ok(inner.with_repo(&name, |at, repo, _| commits.iter().map(|c| shapes::commit(at, repo, c)).collect())?)
}

async fn permission(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, login)): Path<(String, String, String)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let answer = inner.with_repo(&name, |at, repo, state| {
        if repo.permission(&caller.login) < Permission::Write {
            return Err(refuse(StatusCode::FORBIDDEN, "Must have push access to view collaborator permission."));
        }
        let account = state.account(&login).ok_or_else(not_found)?;
        let may = repo.permission(&login);
        let word = match may {
            Permission::None => "none",
            Permission::Read => "read",
            Permission::Write => "write",
            Permission::Admin => "admin",
        };
        let mut user = shapes::user(at, account);
        user["role_name"] = json!(word);
        user["permissions"] = json!({
            "pull": may >= Permission::Read, "triage": may >= Permission::Write, "push": may >= Permission::Write,
            "maintain": may >= Permission::Admin, "admin": may >= Permission::Admin,
        });
        Ok(json!({"permission": word, "role_name": word, "user": user}))
    })??;
    ok(answer)
}

async fn pull(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, number)): Path<(String, String, i64)>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    ok(inner.state.with(|s| inner.pull_shape(s, &name, number)).ok_or_else(not_found)?)
}

#[derive(Deserialize)]
struct NewStatus {
    state: String,
    #[serde(default)]
    target_url: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    context: Option<String>,
}

async fn create_status(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, sha)): Path<(String, String, String)>,
    body: Bytes,
) -> Answer {
    let (name, git) = Repository { owner, name }.open(&inner, &caller)?;
    may_write(&inner, &name, &caller)?;
    let known = match Sha::parse(&sha) {
        Ok(sha) => git.commit(sha.as_str()).await.is_some(),
        Err(_) => false,
    };
    if !known {
        return Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, &format!("No commit found for SHA: {sha}")));
    }
    let posted = take_status(&inner, &name, &caller, sha, &body, MAX_DESCRIPTION)?;
    let shape = inner.with_repo(&name, |at, repo, _| shapes::status(at, repo, &posted, &caller))?;
    Ok((StatusCode::CREATED, axum::Json(shape)))
}

/// Reads a status as GitHub and Gitea take it and keeps it. `limit`: of the description, in characters.
pub(super) fn take_status(
    inner: &Inner,
    name: &RepoName,
    caller: &Account,
    sha: String,
    body: &[u8],
    limit: usize,
) -> Result<PostedStatus, Refusal> {
    let new: NewStatus =
        serde_json::from_slice(body).map_err(|_| refuse(StatusCode::BAD_REQUEST, "Problems parsing JSON"))?;
    let context = new.context.unwrap_or_else(|| "default".into());
    let chars = |text: &Option<String>| text.as_deref().unwrap_or_default().chars().count();
    if !["pending", "success", "failure", "error"].contains(&new.state.as_str()) {
        return Err(invalid("Status", "state", "invalid", "state is not included in the list"));
    }
    if chars(&new.description) > limit {
        return Err(invalid(
            "Status",
            "description",
            "custom",
            &format!("description is too long (maximum is {limit} characters)"),
        ));
    }
    if context.chars().count() > MAX_CONTEXT {
        return Err(invalid(
            "Status",
            "context",
            "custom",
            "context is too long (maximum is 255 characters)",
        ));
    }
    let at_ms = inner.clock.now_ms();
    inner.state.with(|s| {
        let id = s.next_id();
        let repo = s.repos.get_mut(name).ok_or_else(not_found)?;
        if repo.statuses.iter().filter(|p| p.sha == sha && p.context == context).count() >= MAX_STATUSES {
            let message = "This SHA and context has reached the maximum number of statuses.";
            return Err(invalid("Status", "context", "custom", message));
        }
        let posted = PostedStatus {
            id,
            sha,
            context,
            state: new.state,
            description: new.description,
            target_url: new.target_url,
            by: caller.login.clone(),
            at_ms,
        };
        repo.statuses.push(posted.clone());
        Ok(posted)
    })
}

pub(super) fn may_write(inner: &Inner, name: &RepoName, caller: &Account) -> Result<(), Refusal> {
    let may = inner.with_repo(name, |_, repo, _| repo.permission(&caller.login))?;
    if may < Permission::Write { Err(not_found()) } else { Ok(()) }
}

async fn list_comments(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, number)): Path<(String, String, i64)>,
    Query(page): Query<Page>,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let (skip, size) = page.window();
    ok(inner.with_repo(&name, |at, repo, state| {
        repo.pulls.get(&number).ok_or_else(not_found)?;
        let here = repo.comments.values().filter(|c| c.number == number).skip(skip).take(size);
        Ok::<_, Refusal>(
            here.map(|c| shapes::comment(at, repo, c, &state.account_or_ghost(&c.author))).collect(),
        )
    })??)
}

#[derive(Deserialize)]
struct CommentBody {
    body: String,
}

pub(super) fn comment_body(body: &[u8]) -> Result<String, Refusal> {
    let text: CommentBody = serde_json::from_slice(body).map_err(|_| {
        refuse(StatusCode::UNPROCESSABLE_ENTITY, "Invalid request. \"body\" wasn't supplied.")
    })?;
    if text.body.trim().is_empty() {
        return Err(invalid("IssueComment", "data", "unprocessable", "Body cannot be blank"));
    }
    if text.body.chars().count() > MAX_COMMENT {
        return Err(invalid(
            "IssueComment",
            "data",
            "unprocessable",
            "Body is too long (maximum is 65536 characters)",
        ));
    }
    Ok(text.body)
}

async fn create_comment(
    Extract(inner): Extract<Arc<Inner>>,
    caller: Caller,
    Path((owner, name, number)): Path<(String, String, i64)>,
    body: Bytes,
) -> Answer {
    let (name, _) = Repository { owner, name }.open(&inner, &caller)?;
    let text = comment_body(&body)?;
    // Not awaited by the caller: a webhook about a comment comes when it comes.
    let posted = inner.add_comment(&name, number, &caller.login, text).ok_or_else(not_found)?;
    let shape = inner.with_repo(&name, |at, repo, _| shapes::comment(at, repo, &posted, &caller))?;
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
    let text = comment_body(&body)?;
    let posted = inner.edit_comment(&name, id, &caller, text)?;
    ok(inner.with_repo(&name, |at, repo, state| {
        shapes::comment(at, repo, &posted, &state.account_or_ghost(&posted.author))
    })?)
}
