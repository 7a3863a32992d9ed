//! The source of an attempt: read-only smart HTTP of its own repository at the forge, with the daemon's credential, which never
//! leaves the daemon.
//!
//! Only `git-upload-pack`, and only fetches whose every `want` names a commit of the attempt's spec: the lines are read, whatever the
//! protocol version. Redirects are not followed, since the credential belongs to one host.
//!
//! Must not: store or interpret a pack.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use secrecy::ExposeSecret;

use crate::forge::GitAccess;
use crate::model::Sha;

/// A fetch request lists wants and haves: large histories make some hundred KiB.
pub const REQUEST_BYTES: usize = 4 << 20;

/// Why a request of git is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the request is not git's: {0}")]
    Malformed(&'static str),
    #[error("this attempt may fetch its own commit alone, not {0}")]
    NotAllowed(String),
}

#[derive(Debug, Clone, Copy)]
pub struct GitProxy;

impl GitProxy {
    /// The list of capabilities (and in the old protocol of refs).
    pub async fn info_refs(&self, access: &GitAccess, headers: &HeaderMap) -> Response {
        let request = access.http.get(format!("{}/info/refs?service=git-upload-pack", access.url));
        self.forward(request, access, headers, "application/x-git-upload-pack-advertisement").await
    }

    /// Passes a request on if all it wants is allowed. `body` as received, at most [`REQUEST_BYTES`].
    pub async fn upload_pack(
        &self,
        access: &GitAccess,
        headers: &HeaderMap,
        body: Bytes,
        allowed: &[Sha],
    ) -> Response {
        let body = match plain(headers, body) {
            Ok(body) => body,
            Err(refused) => return (StatusCode::BAD_REQUEST, refused.to_string()).into_response(),
        };
        let version_2 =
            protocol_header(headers).is_some_and(|value| value.split(':').any(|part| part == "version=2"));
        if let Err(refused) = check(&body, version_2, allowed) {
            tracing::warn!(%refused, "git request refused");
            return (StatusCode::FORBIDDEN, refused.to_string()).into_response();
        }
        let request = access
            .http
            .post(format!("{}/git-upload-pack", access.url))
            .header(header::CONTENT_TYPE, "application/x-git-upload-pack-request")
            .header(header::ACCEPT, "application/x-git-upload-pack-result")
            .body(body);
        self.forward(request, access, headers, "application/x-git-upload-pack-result").await
    }

    async fn forward(
        &self,
        mut request: reqwest::RequestBuilder,
        access: &GitAccess,
        headers: &HeaderMap,
        expected: &'static str,
    ) -> Response {
        if let Some(version) = protocol_header(headers) {
            request = request.header("git-protocol", version);
        }
        if let Some(authorization) = &access.authorization {
            let Ok(mut value) = HeaderValue::from_str(authorization.expose_secret()) else {
                return bad_gateway("the credential of this forge cannot be sent in a header");
            };
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                // Without its URL: that one may hold a user name.
                tracing::warn!(error = %error.without_url(), "cannot reach the forge for git");
                return bad_gateway("the forge could not be reached for the source; trying again helps");
            }
        };
        let status = answer.status();
        if status != reqwest::StatusCode::OK {
            tracing::warn!(%status, "the forge refused a git request");
            return bad_gateway(match status.as_u16() {
                300..=399 => {
                    "the forge redirects this repository; it was renamed or its configured URL is not the final one"
                }
                401 | 403 => "the forge refused the daemon's credential for this repository",
                404 => "the forge has no such repository for the daemon's credential",
                429 => "the forge asks to slow down; trying again later helps",
                _ => "the forge failed to serve the source; trying again helps",
            });
        }
        let kind = answer.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        if kind != Some(expected) {
            return bad_gateway(
                "the forge answered something that is not git; its URL in the configuration may be wrong",
            );
        }
        let headers = [(header::CONTENT_TYPE, expected), (header::CACHE_CONTROL, "no-cache")];
        (headers, Body::from_stream(answer.bytes_stream())).into_response()
    }
}

fn bad_gateway(message: &'static str) -> Response {
    (StatusCode::BAD_GATEWAY, message).into_response()
}

/// `Git-Protocol` as it may be passed on.
fn protocol_header(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get("git-protocol")?.to_str().ok()?;
    let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'=' | b':' | b'.' | b'-' | b'_');
    (value.len() <= 200 && value.bytes().all(fine)).then_some(value)
}

/// The body uncompressed: git compresses requests of more than 1,024 bytes. Inflated to [`REQUEST_BYTES`] at most.
fn plain(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refused> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None => Ok(body),
        Some(b"gzip" | b"x-gzip") => {
            let mut inflated = Vec::new();
            flate2::read::GzDecoder::new(&body[..])
                .take(REQUEST_BYTES as u64 + 1)
                .read_to_end(&mut inflated)
                .map_err(|_| Refused::Malformed("its gzip body is broken"))?;
            if inflated.len() > REQUEST_BYTES {
                return Err(Refused::Malformed("it is too large"));
            }
            Ok(inflated.into())
        }
        Some(_) => Err(Refused::Malformed("its content encoding is not gzip")),
    }
}

/// One pkt-line (gitprotocol-common(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packet<'a> {
    Flush,
    Delimiter,
    Data(&'a [u8]),
}

fn packets(mut rest: &[u8]) -> Result<Vec<Packet<'_>>, Refused> {
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let length = rest
            .get(..4)
            .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| usize::from_str_radix(digits, 16).ok())
            .ok_or(Refused::Malformed("a line has no length"))?;
        let (packet, used) = match length {
            0 => (Packet::Flush, 4),
            1 => (Packet::Delimiter, 4),
            2 | 3 => return Err(Refused::Malformed("a line has a length that clients do not send")),
            _ => {
                let data = rest.get(4..length).ok_or(Refused::Malformed("a line is cut"))?;
                (Packet::Data(data.strip_suffix(b"\n").unwrap_or(data)), length)
            }
        };
        packets.push(packet);
        rest = &rest[used..];
    }
    Ok(packets)
}

/// Is everything in this upload-pack request allowed? (gitprotocol-v2(5), gitprotocol-pack(5))
fn check(body: &[u8], version_2: bool, allowed: &[Sha]) -> Result<(), Refused> {
    let packets = packets(body)?;
    if version_2 { check_v2(&packets, allowed) } else { check_v0(&packets, allowed) }
}

fn check_v2(packets: &[Packet<'_>], allowed: &[Sha]) -> Result<(), Refused> {
    let command = match packets.first() {
        Some(Packet::Data(b"command=ls-refs")) => "ls-refs",
        Some(Packet::Data(b"command=fetch")) => "fetch",
        _ => return Err(Refused::Malformed("it does not begin with `ls-refs` or `fetch`")),
    };
    let end = packets.iter().position(|p| *p == Packet::Flush).ok_or(Refused::Malformed("it has no end"))?;
    if end + 1 != packets.len() {
        return Err(Refused::Malformed("something follows its end"));
    }
    let mut arguments = false;
    for packet in &packets[1..end] {
        match packet {
            Packet::Delimiter if arguments => {
                return Err(Refused::Malformed("it has two lists of arguments"));
            }
            Packet::Delimiter => arguments = true,
            Packet::Flush => {}
            // Capabilities before the delimiter; a second command must not hide there.
            Packet::Data(line) if !arguments && line.starts_with(b"command=") => {
                return Err(Refused::Malformed("it has two commands"));
            }
            Packet::Data(_) if !arguments || command == "ls-refs" => {}
            Packet::Data(line) => check_argument(line, allowed)?,
        }
    }
    Ok(())
}

fn check_v0(packets: &[Packet<'_>], allowed: &[Sha]) -> Result<(), Refused> {
    let mut wants = 0;
    for packet in packets {
        match packet {
            Packet::Flush => {}
            Packet::Delimiter => {
                return Err(Refused::Malformed("it has a delimiter of another protocol version"));
            }
            Packet::Data(line) => {
                wants += usize::from(line.starts_with(b"want "));
                // The first `want` carries capabilities behind its id.
                let line = if line.starts_with(b"want ") {
                    let end = line[5..].iter().position(|b| *b == b' ').map_or(line.len(), |at| at + 5);
                    &line[..end]
                } else {
                    line
                };
                check_argument(line, allowed)?;
            }
        }
    }
    if wants == 0 { Err(Refused::Malformed("it wants nothing")) } else { Ok(()) }
}

/// One line of a fetch: what it wants must be allowed, and nothing may make the forge send the client elsewhere.
fn check_argument(line: &[u8], allowed: &[Sha]) -> Result<(), Refused> {
    let text = std::str::from_utf8(line).map_err(|_| Refused::Malformed("a line is not text"))?;
    let (word, value) = text.split_once(' ').unwrap_or((text, ""));
    match word {
        "want" if allowed.iter().any(|sha| sha.as_str() == value) => Ok(()),
        "want" | "want-ref" => Err(Refused::NotAllowed(value.chars().take(80).collect())),
        "have" | "shallow" | "deepen" | "deepen-since" | "deepen-not" | "deepen-relative" | "filter"
        | "done" | "thin-pack" | "no-progress" | "include-tag" | "ofs-delta" | "sideband-all"
        | "wait-for-done" => Ok(()),
        _ => Err(Refused::Malformed("it holds a line that a fetch of a commit does not need")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "1111111111111111111111111111111111111111";
    const OTHER: &str = "2222222222222222222222222222222222222222";

    fn line(text: &str) -> String {
        format!("{:04x}{text}", text.len() + 4)
    }
    fn lines(all: &[&str]) -> Vec<u8> {
        let all: String = all
            .iter()
            .map(
                |text| {
                    if matches!(*text, "0000" | "0001" | "0002") { (*text).to_owned() } else { line(text) }
                },
            )
            .collect();
        all.into_bytes()
    }
    fn allowed() -> Vec<Sha> {
        vec![Sha::parse(HEAD).unwrap()]
    }

    #[test]
    fn a_fetch_of_the_attempts_commit_passes() {
        let want = format!("want {HEAD}\n");
        let first = format!("want {HEAD} multi_ack_detailed side-band-64k agent=git/2.39\n");
        for (version_2, body) in [
            (
                true,
                lines(&[
                    "command=fetch",
                    "agent=git/2.39",
                    "0001",
                    "thin-pack",
                    &want,
                    "deepen 1",
                    "done\n",
                    "0000",
                ]),
            ),
            (
                true,
                lines(&["command=ls-refs\n", "agent=git/2.39", "0001", "peel\n", "ref-prefix HEAD", "0000"]),
            ),
            (false, lines(&[&first, &want, "deepen 1", "0000", "done\n"])),
        ] {
            assert_eq!(check(&body, version_2, &allowed()), Ok(()));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        let mine = format!("want {HEAD}");
        let other = format!("want {OTHER}");
        let upper = format!("want {}", "A".repeat(40));
        let longer = format!("want {HEAD}0");
        let two = format!("want {HEAD} {OTHER}");
        let hidden = format!("want {HEAD}\nwant {OTHER}");
        let bad: Vec<(bool, Vec<u8>)> = vec![
            (true, lines(&["command=fetch", "0001", &other, "done", "0000"])),
            (true, lines(&["command=fetch", "0001", &mine, &other, "done", "0000"])),
            (true, lines(&["command=fetch", "0001", &upper, "0000"])),
            (true, lines(&["command=fetch", "0001", &longer, "0000"])),
            (true, lines(&["command=fetch", "0001", &two, "0000"])),
            (true, lines(&["command=fetch", "0001", &hidden, "0000"])),
            (true, lines(&["command=fetch", "0001", "want-ref refs/heads/secret", "0000"])),
            (true, lines(&["command=fetch", "0001", "packfile-uris https", &mine, "0000"])),
            (true, lines(&["command=fetch", "command=object-info", "0001", &mine, "0000"])),
            (true, lines(&["command=object-info", "0001", "size", "0000"])),
            (true, lines(&["command=bundle-uri", "0000"])),
            (true, lines(&["agent=x", "command=fetch", "0001", &mine, "0000"])),
            (true, lines(&["command=fetch", "0001", &mine, "0001", &other, "0000"])),
            (true, lines(&["command=fetch", "0001", &mine, "0000", "command=fetch", "0001", &other, "0000"])),
            (true, lines(&["command=fetch", "0001", &mine])),
            (true, lines(&[&mine, "0000", "done"])),
            (false, lines(&["command=fetch", "0001", &mine, "0000"])),
            (false, lines(&[&mine, &other, "0000", "done"])),
            (false, lines(&["0000"])),
            (false, lines(&["have 1", "0000", "done"])),
            (false, vec![]),
            (true, vec![]),
            (true, b"0004".to_vec()),
            (true, b"zzzz".to_vec()),
            (true, b"ffffabc".to_vec()),
            (true, b"0002".to_vec()),
        ];
        for (version_2, body) in &bad {
            assert!(check(body, *version_2, &allowed()).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_compressed_request_is_inflated_up_to_the_cap() {
        use std::io::Write;
        let zip = |bytes: &[u8]| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            Bytes::from(encoder.finish().unwrap())
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(plain(&headers, zip(b"0000")).unwrap(), Bytes::from_static(b"0000"));
        assert!(plain(&headers, zip(&vec![0; REQUEST_BYTES + 1])).is_err());
        assert!(plain(&headers, Bytes::from_static(b"not gzip")).is_err());
    }
}
