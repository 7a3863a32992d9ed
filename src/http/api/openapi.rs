//! The description of this API as OpenAPI 3.1, made from the handlers. `docs/openapi.json` is its committed form.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::response::Response;
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

/// This description
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "description", security(()),
    responses((status = 200, description = "OpenAPI 3.1", body = Object), Refusals))]
pub async fn description(headers: HeaderMap) -> Response {
    super::tagged(&headers, &openapi())
}
