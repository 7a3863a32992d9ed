//! The description of this API as OpenAPI 3.1, made from the handlers. `docs/openapi.json` is its committed form.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::response::Response;
use utoipa::openapi::path::ParameterIn;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, Modify, OpenApi};

use super::{deliveries, diff, log_lines, pools, repos, results, runs, tokens, why};
use crate::http::follow;
use crate::http::problem::Problem;

/// Whatever is not the answer asked for: a problem document.
pub struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new()
            .description("Not served; `detail` says what to do")
            .content("application/problem+json", content)
            .build();
        BTreeMap::from([("default".to_owned(), response.into())])
    }
}

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        api.components.get_or_insert_default().add_security_scheme("token", scheme);
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "trainyard",
        description = "Times are milliseconds since 1970, sizes bytes. Lists are keyset pages: `next` is the `cursor` of the page \
                       behind it. Refusals are problem documents (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    paths(
        description,
        runs::runs,
        runs::run,
        runs::steps,
        runs::cancel,
        runs::release,
        why::why,
        why::reuse,
        why::rerun,
        diff::plan,
        diff::diff,
        results::metrics,
        results::metric_sources,
        results::data,
        results::params,
        results::artifacts,
        results::comparisons,
        results::artifact,
        follow::download,
        follow::stream,
        log_lines::log_index,
        log_lines::log_lines,
        log_lines::log_search,
        repos::repos,
        repos::trend,
        deliveries::deliveries,
        deliveries::delivery,
        deliveries::replay,
        pools::pools,
        tokens::whoami,
        tokens::tokens,
        tokens::create_token,
        tokens::revoke_token,
    ),
    components(schemas(Problem)),
    modifiers(&Bearer),
    security(("token" = []))
)]
struct Api;

/// The whole description.
pub fn openapi() -> utoipa::openapi::OpenApi {
    Api::openapi()
}

/// The query's keys of a call. They are read from the description when the first call comes: a daemon that nobody asks is spared it.
pub(in crate::http) fn query_keys(method: &str, path: &str) -> &'static [String] {
    static KEYS: LazyLock<BTreeMap<(&str, String), Vec<String>>> = LazyLock::new(|| keys_of_calls(openapi()));
    // A route that is not described takes none.
    KEYS.iter().find(|((m, p), _)| *m == method && p == path).map_or(&[], |(_, keys)| keys)
}

fn keys_of_calls(api: utoipa::openapi::OpenApi) -> BTreeMap<(&'static str, String), Vec<String>> {
    let mut keys = BTreeMap::new();
    for (path, item) in api.paths.paths {
        for (method, call) in [("GET", &item.get), ("POST", &item.post), ("DELETE", &item.delete)] {
            let Some(call) = call else { continue };
            let query = call.parameters.iter().flatten().filter_map(|parameter| match parameter {
                RefOr::T(p) if p.parameter_in == ParameterIn::Query => Some(p.name.clone()),
                _ => None,
            });
            keys.insert((method, path.clone()), query.collect());
        }
    }
    keys
}

/// This description
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "description", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object), Refusals))]
pub async fn description(headers: HeaderMap) -> Response {
    super::tagged(&headers, &openapi())
}
