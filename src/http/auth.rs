//! Who asks, and may they: bearer tokens, the dashboard's sessions, and the guards against other sites' requests.
//!
//! Tokens are `ty_api_<40 hex digits>_<crc>`: found by secret scanners, checked for typing errors without a look-up, kept as
//! SHA-256 only. A token in a URL is refused, since URLs end in logs. A session is a random cookie that stands for
//! a token; revoking the token ends it.

use std::fmt::Write as _;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::api::openapi::query_keys;
use super::app::{Face, Need, Web};
use super::extract::Form;
use super::problem::Problem;
use crate::clock::Millis;
use crate::model::RepoId;
use crate::store::tokens::{Scope, TokenRow};
use crate::store::{Store, StoreError};

const PREFIX: &str = "ty_api_";
/// How long a login lasts.
const SESSION_MS: Millis = 7 * 24 * 3_600_000;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The token's row id; None for someone without a login.
    pub token: Option<String>,
    pub name: String,
    pub scope: Option<Scope>,
    /// None: every repository.
    pub repo: Option<RepoId>,
    /// Came by cookie: a page of another site may have sent it.
    pub by_cookie: bool,
}

impl Who {
    fn anonymous(public_read: bool) -> Self {
        let scope = public_read.then_some(Scope::Read);
        Self { token: None, name: "anonymous".into(), scope, repo: None, by_cookie: false }
    }
    fn token(row: TokenRow, by_cookie: bool) -> Self {
        let repo = row.repo.map(RepoId::from_text);
        Self { token: Some(row.id), name: row.name, scope: Some(row.scope), repo, by_cookie }
    }
    pub fn sees(&self, repo: &RepoId) -> bool {
        self.repo.as_ref().is_none_or(|own| own == repo)
    }
    pub fn may(&self, scope: Scope) -> bool {
        self.scope.is_some_and(|own| own >= scope)
    }
    pub fn signed_in(&self) -> bool {
        self.token.is_some()
    }
    /// For the record of who did what.
    pub fn actor(&self) -> String {
        format!("token {}", self.name)
    }
}

/// A fresh token's text.
pub fn new_token() -> String {
    let body = format!("{PREFIX}{}", hex::encode(rand::random::<[u8; 20]>()));
    let crc = crc32(body.as_bytes());
    format!("{body}_{crc:08x}")
}

/// Is this text a token, typed without error? Says nothing of whether it is valid.
pub fn is_token(text: &str) -> bool {
    let Some((body, crc)) = text.rsplit_once('_') else { return false };
    body.starts_with(PREFIX)
        && body.len() == PREFIX.len() + 40
        && format!("{:08x}", crc32(body.as_bytes())) == crc
}

/// What is kept of a token or a session: the SHA-256 of its text. They are random, so no salt is needed.
pub fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// CRC-32 as in zlib.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

/// Makes and stores a token; its text is returned once and kept nowhere.
pub async fn create_token(
    store: &Store,
    name: &str,
    scope: Scope,
    repo: Option<RepoId>,
    now: Millis,
) -> Result<(TokenRow, String), StoreError> {
    let text = new_token();
    let row = TokenRow {
        id: RepoId::generate(now).to_string(),
        name: name.to_owned(),
        scope,
        repo: repo.map(|r| r.to_string()),
        created_ms: now,
        revoked_ms: None,
    };
    store.insert_token(row.clone(), &hash(&text)).await?;
    Ok((row, text))
}

/// Makes sure that `<data_dir>/admin.token` (mode 0600) holds a live admin token: the first way in. To be called at start;
/// returns the file's path.
///
/// # Errors
/// The file cannot be read or written, or the store failed.
pub async fn ensure_admin_token(
    store: &Store,
    data_dir: &std::path::Path,
    now: Millis,
) -> anyhow::Result<std::path::PathBuf> {
    use anyhow::Context;
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = data_dir.join("admin.token");
    match std::fs::read_to_string(&path) {
        Ok(text) if store.token_by_hash(&hash(text.trim())).await?.is_some() => return Ok(path),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
    let (_, text) = create_token(store, "admin (made at start)", Scope::Admin, None, now).await?;
    let write = || {
        let fresh = path.with_extension("token.new");
        let _ = std::fs::remove_file(&fresh);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        writeln!(file, "{text}")?;
        file.sync_all()?;
        std::fs::rename(&fresh, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// `__Host-` demands https; a plain loopback dashboard cannot have it.
fn cookie_name(web: &Web) -> &'static str {
    if web.secure { "__Host-trainyard" } else { "trainyard" }
}

fn session_text(web: &Web, headers: &HeaderMap) -> Option<String> {
    let name = cookie_name(web);
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.to_owned())
}

/// What follows the scheme, whose letter case means nothing (RFC 9110, 11.1).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

async fn identify(web: &Web, headers: &HeaderMap) -> Result<Who, Problem> {
    let wrong = || {
        let detail = "the token is not valid, or was revoked; `trainyard token list` shows those that live, `trainyard token create` makes one";
        Problem::new(StatusCode::UNAUTHORIZED, detail)
    };
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().ok().and_then(bearer).ok_or_else(wrong)?;
        if !is_token(text) {
            return Err(wrong());
        }
        let row = web.app.store.token_by_hash(&hash(text)).await?.ok_or_else(wrong)?;
        return Ok(Who::token(row, false));
    }
    if let Some(text) = session_text(web, headers)
        && let Some(row) = web.app.store.session(&hash(&text), web.app.clock.now_ms()).await?
    {
        return Ok(Who::token(row, true));
    }
    Ok(Who::anonymous(web.app.config.dashboard.public_read))
}

/// Is `origin` this dashboard's own?
fn own_origin(web: &Web, headers: &HeaderMap, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if origin == web.public_origin {
        return true;
    }
    // The host was checked against what we answer to, so it is ours; the scheme is what the daemon itself speaks.
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    !host.is_empty() && origin.strip_prefix("http://") == Some(host)
}

fn check_origin(web: &Web, request: &Request, who: &Who, face: Face) -> Result<(), Problem> {
    let refuse = |why: &str| Problem::new(StatusCode::FORBIDDEN, format!("refused: {why}"));
    let headers = request.headers();
    match headers.get(header::ORIGIN) {
        Some(origin) if own_origin(web, headers, origin) => {}
        Some(_) => return Err(refuse("the request comes from another site's page")),
        None if who.by_cookie || face == Face::Page => {
            return Err(refuse("a request with a session needs an Origin header, as browsers send it"));
        }
        None => {}
    }
    if headers.get("sec-fetch-site").is_some_and(|v| v == "cross-site") {
        return Err(refuse("the request comes from another site's page"));
    }
    Ok(())
}

/// What one route demands; the guard in front of its handler.
#[derive(Clone)]
pub struct Guard {
    pub web: Web,
    pub need: Need,
    pub face: Face,
    /// Shows more than one repository's things: not for tokens that are bound to one.
    pub whole: bool,
    /// Its method and path, as the description has them.
    pub call: (&'static str, &'static str),
}

/// The one place where a request is let in or turned away.
pub async fn guard(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let method = request.method().clone();
    let outcome = admit(&guard, &mut request).await;
    let response = match outcome {
        Ok(()) => next.run(request).await,
        Err(problem) if wants_login(&guard, &method, &problem) => {
            return Redirect::to(&format!("/login?next={}", escape_query(&local_path(&uri)))).into_response();
        }
        Err(problem) => problem.into_response(),
    };
    if guard.face == Face::Page
        && let Some(problem) = response.extensions().get::<Problem>().cloned()
    {
        return super::pages::problem(&problem);
    }
    response
}

fn wants_login(guard: &Guard, method: &Method, problem: &Problem) -> bool {
    guard.face == Face::Page && method == Method::GET && problem.code() == StatusCode::UNAUTHORIZED
}

async fn admit(guard: &Guard, request: &mut Request) -> Result<(), Problem> {
    if request.uri().query().is_some_and(|q| q.contains(PREFIX)) {
        return Err(Problem::bad_request(
            "a token must not stand in a URL, where logs keep it; revoke it and send the new one as `Authorization: Bearer`",
        ));
    }
    let who = match guard.need {
        // A stale or foreign Authorization header does not keep anyone from a public route.
        Need::Public => identify(&guard.web, request.headers())
            .await
            .unwrap_or_else(|_| Who::anonymous(guard.web.app.config.dashboard.public_read)),
        _ => identify(&guard.web, request.headers()).await?,
    };
    if let Some(scope) = guard.need.scope() {
        if who.scope.is_none() || (!who.signed_in() && !who.may(scope)) {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "send a token as `Authorization: Bearer ty_api_…`; `trainyard token create` makes one",
            ));
        }
        if !who.may(scope) {
            let own = who.scope.map_or_else(|| "none".to_owned(), |own| own.to_string());
            let detail = format!(
                "this needs a token of scope {scope}, yours has {own}; an administrator makes one with `trainyard token create NAME --scope {scope}`"
            );
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        if guard.whole && who.repo.is_some() {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "this shows things of every repository; the token is bound to one",
            ));
        }
    }
    if guard.face == Face::Api && request.uri().query().is_some_and(|query| !query.is_empty()) {
        let (method, path) = guard.call;
        check_keys(query_keys(method, path), request.uri())?;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        check_origin(&guard.web, request, &who, guard.face)?;
    }
    request.extensions_mut().insert(who);
    Ok(())
}

fn check_keys(keys: &[String], uri: &Uri) -> Result<(), Problem> {
    type Pairs = axum::extract::Query<Vec<(String, String)>>;
    // What cannot be read as pairs the call itself refuses.
    let Ok(axum::extract::Query(pairs)) = Pairs::try_from_uri(uri) else { return Ok(()) };
    let Some((odd, _)) = pairs.iter().find(|(key, _)| !keys.contains(key)) else { return Ok(()) };
    let odd: String = odd.chars().take(60).collect();
    Err(Problem::bad_request(if keys.is_empty() {
        format!("this call takes no query, and {odd:?} is one")
    } else {
        format!("there is no parameter {odd:?} here; there are {}", keys.join(", "))
    }))
}

fn local_path(uri: &Uri) -> String {
    uri.path_and_query().map_or("/", |p| p.as_str()).to_owned()
}

/// Percent-encodes for a query value.
pub fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Where a login leads: a path of ours, never another site.
pub fn safe_next(next: &str) -> &str {
    let good = next.starts_with('/')
        && !next.starts_with("//")
        && next.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'\\');
    if good { next } else { "/" }
}

#[derive(Debug, Deserialize)]
pub struct LoginForm {
    token: String,
    #[serde(default)]
    next: String,
}

fn set_cookie(web: &Web, value: &str, max_age_s: i64) -> String {
    let secure = if web.secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age_s}{secure}", cookie_name(web))
}

/// `POST /login`: a token for a session. The session's id is always new, and one that the browser had is ended.
pub async fn login(
    State(web): State<Web>,
    headers: HeaderMap,
    Form(form): Form<LoginForm>,
) -> Result<Response, Problem> {
    let text = form.token.trim();
    let now = web.app.clock.now_ms();
    let row = if is_token(text) { web.app.store.token_by_hash(&hash(text)).await? } else { None };
    let Some(row) = row else {
        return Ok(super::pages::login_failed(safe_next(&form.next)));
    };
    if let Some(old) = session_text(&web, &headers) {
        web.app.store.end_session(&hash(&old)).await?;
    }
    let session = hex::encode(rand::random::<[u8; 32]>());
    web.app.store.start_session(&hash(&session), &row.id, now, now + SESSION_MS).await?;
    let cookie = set_cookie(&web, &session, SESSION_MS / 1000);
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to(safe_next(&form.next))).into_response())
}

/// `POST /logout`: ends the session on the server, too.
pub async fn logout(State(web): State<Web>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(text) = session_text(&web, &headers) {
        web.app.store.end_session(&hash(&text)).await?;
    }
    Ok(([(header::SET_COOKIE, set_cookie(&web, "", 0))], Redirect::to("/")).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_their_check() {
        let token = new_token();
        assert!(is_token(&token), "{token}");
        assert_ne!(token, new_token());
        assert_eq!(token.len(), 7 + 40 + 1 + 8);
        let mut typo = token.clone().into_bytes();
        typo[10] = if typo[10] == b'0' { b'1' } else { b'0' };
        assert!(!is_token(std::str::from_utf8(&typo).unwrap()));
        for bad in ["", "_", "ty_api_", "ty_api__00000000", "ghp_0123456789"] {
            assert!(!is_token(bad), "{bad}");
        }
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_login_never_leads_away() {
        for bad in
            ["", "//evil", "/\\evil", "https://evil", "javascript:alert(1)", "/a\nb", "evil", "/\u{202e}"]
        {
            assert_eq!(safe_next(bad), "/", "{bad:?}");
        }
        assert_eq!(safe_next("/runs/0192?step=3"), "/runs/0192?step=3");
    }
}
