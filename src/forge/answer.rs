//! What a forge answered and what that means for the caller, for all forges alike.
//!
//! Must not: put a body or a credential into an error.

use hyper::{Method, StatusCode, header::HeaderMap};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::ForgeError;

/// Largest answer that is read. A folder of 100,000 entries takes 15 MB.
pub(super) const MAX_ANSWER: usize = 32 << 20;
/// GitHub asks for at least a minute when it names no time.
const DEFAULT_WAIT_MS: i64 = 60_000;
/// A limit is never longer than an hour; whatever a header says, look again by then.
const MAX_WAIT_MS: i64 = 3_600_000;
/// A renamed repository answers with one redirect.
pub(super) const MAX_REDIRECTS: usize = 3;

/// What came back, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// The path below `base` that a redirect leads to, if it stays there: the credential goes nowhere else.
pub(super) fn same_host(
    base: &str,
    what: &str,
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<String, ForgeError> {
    let location = headers.get("location").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let keeps_method = matches!(status.as_u16(), 307 | 308);
    match location.strip_prefix(base) {
        Some(path) if path.starts_with('/') && (keeps_method || *method == Method::GET) => {
            Ok(path.to_owned())
        }
        _ => Err(refused(
            what,
            status.as_u16(),
            "it redirects to another place, where the token is not sent".into(),
        )),
    }
}

#[derive(Deserialize)]
struct Complaint {
    /// Text; at GitLab also an object of lists of texts.
    #[serde(default)]
    message: Value,
    #[serde(default)]
    error: Value,
    #[serde(default)]
    errors: Value,
}

impl Answer {
    pub fn read<T: DeserializeOwned>(self, what: &str, method: &Method) -> Result<T, ForgeError> {
        let body = self.success(what, method)?;
        serde_json::from_slice(&body).map_err(|e| ForgeError::Transient {
            what: what.to_owned(),
            message: format!("the answer cannot be read: {e}"),
        })
    }

    /// What the forge says about its refusal, short.
    pub fn complaint(&self) -> String {
        let Ok(said) = serde_json::from_slice::<Complaint>(&self.body) else {
            return "no reason given".into();
        };
        let plain = |value: Value| match value {
            Value::Null => String::new(),
            Value::String(text) => text,
            other => other.to_string(),
        };
        let parts = [said.message, said.error, said.errors].map(plain);
        let mut text = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
        text.truncate(text.floor_char_boundary(300));
        text
    }

    /// The body of a 2xx; anything else as the error it means.
    pub fn success(self, what: &str, method: &Method) -> Result<Vec<u8>, ForgeError> {
        if self.status.is_success() {
            return Ok(self.body);
        }
        let (status, message, what) = (self.status.as_u16(), self.complaint(), what.to_owned());
        let read = *method == Method::GET;
        Err(match status {
            403 | 429 => match self.limit(&message) {
                Some(wait_ms) => ForgeError::Limited { what, wait_ms },
                None => ForgeError::Refused { what, status, message },
            },
            // 409 on a read: the repository is empty.
            404 | 409 | 410 if read => ForgeError::NotFound { what },
            408 | 425 | 500.. => ForgeError::Transient { what, message: format!("{status}: {message}") },
            _ => ForgeError::Refused { what, status, message },
        })
    }

    /// How long to wait, when a 403 or 429 is a rate limit and not a missing right (GitHub documents both limits at
    /// docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api; GitLab's headers lack the `x-`).
    fn limit(&self, message: &str) -> Option<i64> {
        let number = |name: &str| self.headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
        let wait = if let Some(seconds) = number("retry-after") {
            seconds.saturating_mul(1000)
        } else if number("x-ratelimit-remaining").or_else(|| number("ratelimit-remaining")) == Some(0) {
            // Both times are the server's, so that our clock does not matter.
            let date = self.headers.get("date").and_then(|v| v.to_str().ok());
            let now = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok()).map(|d| d.timestamp().as_second());
            match (number("x-ratelimit-reset").or_else(|| number("ratelimit-reset")), now) {
                (Some(reset), Some(now)) => reset.saturating_sub(now).saturating_add(1).saturating_mul(1000),
                _ => DEFAULT_WAIT_MS,
            }
        } else {
            let said = message.to_lowercase();
            let named = said.contains("rate limit") || said.contains("abuse detection");
            if !named && self.status != StatusCode::TOO_MANY_REQUESTS {
                return None;
            }
            DEFAULT_WAIT_MS
        };
        Some(wait.clamp(1_000, MAX_WAIT_MS))
    }
}

pub(super) fn refused(what: &str, status: u16, message: String) -> ForgeError {
    ForgeError::Refused { what: what.to_owned(), status, message }
}

/// An error with its causes.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text.truncate(text.floor_char_boundary(300));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answer {
        let headers = headers
            .iter()
            .map(|(k, v)| (k.parse().expect("name"), v.parse().expect("value")))
            .collect::<HeaderMap>();
        Answer { status: StatusCode::from_u16(status).expect("status"), headers, body: body.into() }
    }

    /// Method, status, headers, body, meaning.
    type Row = (Method, u16, &'static [(&'static str, &'static str)], &'static str, &'static str);

    #[test]
    fn what_an_answer_means() {
        const DATE: (&str, &str) = ("date", "Mon, 23 Nov 2026 16:00:00 GMT");
        const SECONDARY: &str = r#"{"message":"You have exceeded a secondary rate limit. Please wait."}"#;
        const DENIED: &str = r#"{"message":"Resource not accessible by personal access token"}"#;
        const HTML: &str = "<html>502</html>";
        #[rustfmt::skip]
        let rows: &[Row] = &[
            (Method::GET, 200, &[], "{}", "ok"),
            (Method::POST, 201, &[], "{}", "ok"),
            (Method::GET, 404, &[], "{}", "not found"),
            (Method::GET, 410, &[], "{}", "not found"),
            (Method::GET, 409, &[], r#"{"message":"Git Repository is empty."}"#, "not found"),
            (Method::POST, 404, &[], "{}", "refused 404"),
            (Method::PATCH, 410, &[], "{}", "refused 410"),
            (Method::GET, 401, &[], r#"{"message":"Bad credentials"}"#, "refused 401"),
            (Method::POST, 422, &[], r#"{"message":"Validation Failed","errors":["x"]}"#, "refused 422"),
            (Method::GET, 451, &[], "", "refused 451"),
            (Method::GET, 400, &[], HTML, "refused 400"),
            (Method::POST, 403, &[], DENIED, "refused 403"),
            (Method::POST, 403, &[("x-ratelimit-remaining", "4999")], DENIED, "refused 403"),
            (Method::POST, 403, &[], SECONDARY, "limited 60000"),
            (Method::POST, 403, &[("x-ratelimit-remaining", "4999")], SECONDARY, "limited 60000"),
            (Method::POST, 403, &[], r#"{"message":"You have triggered an abuse detection mechanism"}"#, "limited 60000"),
            (Method::POST, 403, &[("retry-after", "7")], DENIED, "limited 7000"),
            (Method::POST, 429, &[("retry-after", "120")], "", "limited 120000"),
            (Method::GET, 429, &[], HTML, "limited 60000"),
            (Method::GET, 429, &[("retry-after", "0")], "", "limited 1000"),
            (Method::GET, 429, &[("retry-after", "-5")], "", "limited 1000"),
            (Method::GET, 429, &[("retry-after", "99999999999999999")], "", "limited 3600000"),
            (Method::GET, 429, &[("retry-after", "soon")], "", "limited 60000"),
            (Method::GET, 403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1795449900"), DATE], "{}", "limited 301000"),
            (Method::GET, 403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1"), DATE], "{}", "limited 1000"),
            (Method::GET, 403, &[("x-ratelimit-remaining", "0")], "{}", "limited 60000"),
            (Method::GET, 408, &[], "", "transient"),
            (Method::GET, 500, &[], HTML, "transient"),
            (Method::POST, 502, &[], HTML, "transient"),
            (Method::GET, 503, &[("retry-after", "7")], "", "transient"),
            (Method::GET, 304, &[], "", "refused 304"),
        ];
        for (method, status, headers, body, want) in rows {
            let got = match answer(*status, headers, body).success("x", method) {
                Ok(_) => "ok".to_owned(),
                Err(ForgeError::NotFound { .. }) => "not found".to_owned(),
                Err(ForgeError::Refused { status, .. }) => format!("refused {status}"),
                Err(ForgeError::Limited { wait_ms, .. }) => format!("limited {wait_ms}"),
                Err(ForgeError::Transient { .. }) => "transient".to_owned(),
            };
            assert_eq!(&got, want, "{method} {status} {headers:?} {body}");
        }
        println!("FIGURE forge_answers cases={} failed=0", rows.len());
    }
}
