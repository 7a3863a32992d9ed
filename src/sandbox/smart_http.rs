//! Git over HTTP, and a plain page of a pull request for people.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State as Extract};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hyper::{HeaderMap, StatusCode, header};

use super::git::CgiRequest;
use super::state::Account;
use super::webhooks::moved;
use super::{Inner, Lock};
use crate::forge::Permission;
use crate::model::RepoName;

/// Largest pack that may be pushed.
const MAX_PUSH: usize = 512 << 20;

pub(super) async fn serve(
    Extract(inner): Extract<Arc<Inner>>,
    Path((owner, repo, rest)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let Some(name) = repo.strip_suffix(".git") else { return page(&inner, &owner, &repo, &rest) };
    let Ok(name) = RepoName::parse(&format!("{owner}/{name}")) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let pushes =
        rest == "git-receive-pack" || (rest == "info/refs" && query.contains("service=git-receive-pack"));
    let fetches =
        rest == "git-upload-pack" || (rest == "info/refs" && query.contains("service=git-upload-pack"));
    if !pushes && !fetches {
        return StatusCode::NOT_FOUND.into_response();
    }
    let account = basic_account(&inner, &parts.headers);
    let login = account.as_ref().map_or("", |a| a.login.as_str());
    let may = match inner.with_repo(&name, |_, repo, _| repo.permission(login)) {
        Ok(may) if may >= if pushes { Permission::Write } else { Permission::Read } => may,
        // GitHub does not say whether a repository is there.
        _ if account.is_none() => {
            let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"sandbox\"")];
            return (StatusCode::UNAUTHORIZED, ask).into_response();
        }
        Ok(Permission::None) | Err(_) => return StatusCode::NOT_FOUND.into_response(),
        Ok(_) => return StatusCode::FORBIDDEN.into_response(),
    };
    let Ok(body) = axum::body::to_bytes(body, MAX_PUSH).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let login = login.to_owned();
    // A task of its own: a client that leaves must not stop the events of what it pushed.
    let done = tokio::spawn(async move {
        let call = Call { name, method: parts.method.to_string(), rest, query, headers: parts.headers, body };
        call.run(&inner, &login, pushes && may >= Permission::Write).await
    });
    match done.await {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => {
            tracing::error!(error = format!("{e:#}"), "the sandbox cannot serve git");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{e:#}")).into_response()
        }
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

struct Call {
    name: RepoName,
    method: String,
    rest: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    async fn run(self, inner: &Inner, login: &str, may_push: bool) -> anyhow::Result<Response> {
        let git = inner.git(&self.name)?;
        let pushing = inner.with_repo(&self.name, |_, repo, _| repo.pushing.clone())?;
        let moves = may_push && self.rest == "git-receive-pack";
        let _alone = if moves { Some(pushing.lock().await) } else { None };
        let before = if moves { git.refs().await? } else { Vec::new() };
        let answer = git
            .cgi(CgiRequest {
                method: &self.method,
                path: &self.rest,
                query: &self.query,
                headers: &self.headers,
                user: may_push.then_some(login),
                body: self.body,
            })
            .await?;
        if moves {
            let after = git.refs().await?;
            inner.pushed(&self.name, login, &moved(&before, &after)).await?;
        }
        let mut response = Response::new(Body::from(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        Ok(response)
    }
}

/// The account of a Basic header: its password is the account's token, whatever the name (GitHub takes any beside a token).
fn basic_account(inner: &Inner, headers: &HeaderMap) -> Option<Account> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(BASE64_STANDARD.decode(given).ok()?).ok()?;
    let (_, password) = text.split_once(':')?;
    inner.state.with(|s| s.accounts.values().find(|a| !a.token.is_empty() && a.token == password).cloned())
}

/// The page of a pull request as plain text: title, statuses, comments.
fn page(inner: &Inner, owner: &str, repo: &str, rest: &str) -> Response {
    let name = RepoName::parse(&format!("{owner}/{repo}"));
    let number = ["pull/", "pulls/", "-/merge_requests/"].iter().find_map(|page| rest.strip_prefix(page));
    let number = number.and_then(|n| n.parse::<i64>().ok());
    let (Ok(name), Some(number)) = (name, number) else { return StatusCode::NOT_FOUND.into_response() };
    let text = inner.with_repo(&name, |_, repo, _| {
        let pull = repo.pulls.get(&number)?;
        let mut text = format!(
            "{} #{number}: {}\n{} into {}\n",
            repo.name, pull.title, pull.head_branch, pull.base_branch
        );
        for status in repo.statuses.iter().filter(|s| s.sha == pull.head_sha) {
            let description = status.description.as_deref().unwrap_or_default();
            let _ = writeln!(text, "\n[{}] {}: {description}", status.state, status.context);
        }
        for comment in repo.comments.values().filter(|c| c.number == number) {
            let _ = write!(text, "\n--- {} wrote:\n\n{}\n", comment.author, comment.body());
        }
        Some(text)
    });
    match text {
        Ok(Some(text)) => {
            let plain = [
                (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            (plain, text).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
