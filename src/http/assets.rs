//! Style sheet, script and icon, compiled in. Their names carry a digest of their bytes, so browsers may keep them for ever.

use std::sync::OnceLock;

use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::problem::Problem;

struct Asset {
    /// `app.0123456789ab.css`
    name: String,
    etag: String,
    kind: &'static str,
    bytes: &'static [u8],
}

/// URLs for templates.
#[derive(Debug, Clone, Copy)]
pub struct Urls {
    pub style: &'static str,
    pub script: &'static str,
    /// Script of the log page.
    pub log: &'static str,
    pub icon: &'static str,
}

fn all() -> &'static [Asset; 4] {
    static ALL: OnceLock<[Asset; 4]> = OnceLock::new();
    ALL.get_or_init(|| {
        let make = |stem: &str, extension: &str, kind, bytes: &'static [u8]| {
            let digest = hex::encode(Sha256::digest(bytes));
            let name = format!("{stem}.{}.{extension}", &digest[..12]);
            Asset { name, etag: format!("\"{}\"", &digest[..32]), kind, bytes }
        };
        [
            make("app", "css", "text/css; charset=utf-8", include_bytes!("../../assets/app.css")),
            make("app", "js", "text/javascript; charset=utf-8", include_bytes!("../../assets/app.js")),
            make("log", "js", "text/javascript; charset=utf-8", include_bytes!("../../assets/log.js")),
            make("icon", "svg", "image/svg+xml", include_bytes!("../../assets/icon.svg")),
        ]
    })
}

pub fn urls() -> Urls {
    static URLS: OnceLock<[String; 4]> = OnceLock::new();
    let [style, script, log, icon] =
        URLS.get_or_init(|| std::array::from_fn(|i| format!("/assets/{}", all()[i].name)));
    Urls { style, script, log, icon }
}

/// `GET /assets/{name}`
pub async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = all().iter().find(|a| a.name == name) else {
        return Problem::not_found("asset").into_response();
    };
    let cache = [(header::CACHE_CONTROL, "public, max-age=31536000, immutable"), (header::ETAG, &asset.etag)];
    let same = headers.get(header::IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == asset.etag.as_bytes());
    if same {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (cache, [(header::CONTENT_TYPE, asset.kind)], asset.bytes).into_response()
}
