//! The tracking calls. Requests are read leniently, answers have the fields that the client reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use super::state::{Metric, Model, NewRun, Run};
use super::{Shared, artifacts};
use crate::agent::collect::json;
use crate::model::metric::{from_nonfinite_word, nonfinite_word};

/// Of one call; MLflow's own limit is 1 MB.
const BODY: usize = 4 << 20;
/// Calls whose body is in memory at once.
const BODIES: usize = 4;
const BODY_DEADLINE: Duration = Duration::from_mins(1);
/// Longest key of a metric, parameter or tag in bytes; MLflow's own limit is 250 characters.
const KEY: usize = 1_000;
/// Items of one batch; MLflow's own limit is 1,000.
const ITEMS: usize = 10_000;
/// Points of a history.
const HISTORY: usize = 25_000;

pub(super) type Answer<T> = Result<T, Fault>;

/// An answer that the client raises as an `MlflowException`.
#[derive(Debug)]
pub(super) struct Fault {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Fault {
    pub fn new(status: StatusCode, code: &'static str, message: String) -> Self {
        Self { status, code, message }
    }
    pub fn invalid(message: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_PARAMETER_VALUE", message)
    }
    pub fn missing(message: String) -> Self {
        Self::new(StatusCode::NOT_FOUND, "RESOURCE_DOES_NOT_EXIST", message)
    }
    fn no_run(id: &str) -> Self {
        Self::missing(format!("there is no run {id:?} of this attempt"))
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        (self.status, Json(json!({"error_code": self.code, "message": self.message}))).into_response()
    }
}

type S = State<Arc<Shared>>;
type Q = Query<BTreeMap<String, String>>;

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let bodies = Arc::new(Semaphore::new(BODIES));
    let tracking = Router::new()
        .route("/experiments/get-by-name", get(experiment_by_name))
        .route("/experiments/get", get(experiment))
        .route("/experiments/create", post(create_experiment))
        .route("/experiments/search", get(experiments).post(experiments))
        .route("/experiments/list", get(experiments))
        .route("/experiments/set-experiment-tag", post(nothing))
        .route("/runs/create", post(create_run))
        .route("/runs/get", get(run))
        .route("/runs/update", post(update_run))
        .route("/runs/delete", post(nothing))
        .route("/runs/restore", post(nothing))
        .route("/runs/search", post(search_runs))
        .route("/runs/log-metric", post(log_metric))
        .route("/runs/log-parameter", post(log_parameter))
        .route("/runs/set-tag", post(set_tag))
        .route("/runs/delete-tag", post(delete_tag))
        .route("/runs/log-batch", post(log_batch))
        .route("/runs/log-inputs", post(log_inputs))
        .route("/runs/log-model", post(nothing))
        .route("/runs/outputs", post(nothing))
        .route("/metrics/get-history", get(history))
        .route("/artifacts/list", get(list_artifacts))
        .route("/logged-models", post(create_model))
        .route("/logged-models/search", post(search_models))
        .route("/logged-models/{id}", get(model).patch(finish_model).delete(nothing))
        .route("/logged-models/{id}/params", post(model_params))
        .route("/logged-models/{id}/tags", axum::routing::patch(model_tags))
        .route("/logged-models/{id}/artifacts/directories", get(model_artifacts))
        .layer(axum::middleware::from_fn(move |request: Request, next: Next| {
            let bodies = Arc::clone(&bodies);
            async move { bounded(&bodies, request, next).await }
        }));
    let files = Router::new()
        .route("/artifacts", get(artifacts::list))
        .route("/artifacts/{*path}", put(artifacts::put).get(artifacts::get).delete(artifacts::delete))
        .route("/mpu/{*path}", post(no_parts))
        .route("/presigned/{*path}", get(no_parts));
    Router::new()
        .nest("/api/2.0/mlflow", tracking)
        .nest("/api/2.0/mlflow-artifacts", files)
        .fallback(unknown)
        .method_not_allowed_fallback(unknown)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&shared), authorised))
        .route("/health", get(|| async { "OK" }))
        .with_state(shared)
}

async fn unknown(request: Request) -> Fault {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    Fault::new(
        StatusCode::NOT_FOUND,
        "ENDPOINT_NOT_FOUND",
        format!(
            "{method} {path} is not served here: trainyard takes runs, metrics, parameters, tags, artifacts and logged models"
        ),
    )
}

async fn no_parts() -> Fault {
    // The client goes on with a plain upload or download when it reads these words.
    let message = "Multipart upload is not supported for the current artifact repository";
    Fault::new(StatusCode::NOT_IMPLEMENTED, "NOT_IMPLEMENTED", message.into())
}

async fn authorised(State(shared): S, request: Request, next: Next) -> Response {
    let shown = request.headers().get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("");
    let wanted = format!("Bearer {}", shared.token);
    if bool::from(shown.as_bytes().ct_eq(wanted.as_bytes())) {
        next.run(request).await
    } else {
        let message = "this endpoint takes the token in MLFLOW_TRACKING_TOKEN of its own step alone";
        Fault::new(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", message.into()).into_response()
    }
}

/// Reads the body within its bounds and puts it back whole.
async fn bounded(bodies: &Semaphore, request: Request, next: Next) -> Response {
    let _place = bodies.acquire().await;
    let (head, body) = request.into_parts();
    let read = http_body_util::Limited::new(body, BODY).collect();
    match tokio::time::timeout(BODY_DEADLINE, read).await {
        Ok(Ok(whole)) => next.run(Request::from_parts(head, Body::from(whole.to_bytes()))).await,
        Ok(Err(_)) => {
            let message = format!("a call's body is at most {BODY} bytes");
            Fault::new(StatusCode::PAYLOAD_TOO_LARGE, "REQUEST_LIMIT_EXCEEDED", message).into_response()
        }
        Err(_) => {
            let message = "the body did not arrive in time".to_owned();
            Fault::new(StatusCode::REQUEST_TIMEOUT, "TEMPORARILY_UNAVAILABLE", message).into_response()
        }
    }
}

/// A JSON object; Python's bare `NaN` is taken, an empty body is an empty object.
struct Call(Map<String, Value>);

impl<T: Send + Sync> axum::extract::FromRequest<T> for Call {
    type Rejection = Fault;

    async fn from_request(request: Request, _: &T) -> Result<Self, Fault> {
        let bytes =
            request.into_body().collect().await.map_err(|e| Fault::invalid(e.to_string()))?.to_bytes();
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(Map::new()));
        }
        match json::parse(&bytes) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(Fault::invalid("the body is not a JSON object".into())),
            Err(error) => Err(Fault::new(
                StatusCode::BAD_REQUEST,
                "MALFORMED_REQUEST",
                format!("the body is not JSON: {error}"),
            )),
        }
    }
}

/// Text, or a number as text.
fn text(of: &Map<String, Value>, key: &str) -> Option<String> {
    match of.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A whole number; protocol buffers write large ones as text.
fn whole(of: &Map<String, Value>, key: &str) -> Option<i64> {
    match of.get(key)? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|f| f as i64)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn key(of: &Map<String, Value>) -> Answer<String> {
    let key = text(of, "key").filter(|k| !k.trim().is_empty());
    let key = key.ok_or_else(|| Fault::invalid("Missing value for required parameter 'key'".into()))?;
    if key.len() > KEY || key.chars().any(char::is_control) {
        return Err(Fault::invalid(format!("a key is text of at most {KEY} bytes")));
    }
    Ok(key)
}

fn pair(of: &Map<String, Value>) -> Answer<(String, String)> {
    Ok((key(of)?, text(of, "value").unwrap_or_default()))
}

fn metric(of: &Map<String, Value>) -> Answer<Metric> {
    let value = of.get("value").and_then(|v| {
        json::number(v).filter(|_| !v.is_boolean()).or_else(|| {
            let text = v.as_str()?;
            text.parse().ok().or_else(|| from_nonfinite_word(text))
        })
    });
    let key = key(of)?;
    let value = value.ok_or_else(|| Fault::invalid(format!("the value of metric {key:?} is no number")))?;
    Ok(Metric {
        key,
        value,
        timestamp: whole(of, "timestamp").unwrap_or(0),
        step: whole(of, "step").unwrap_or(0),
    })
}

fn many<T>(
    of: &Map<String, Value>,
    list: &str,
    each: impl Fn(&Map<String, Value>) -> Answer<T>,
) -> Answer<Vec<T>> {
    let Some(Value::Array(items)) = of.get(list) else { return Ok(Vec::new()) };
    if items.len() > ITEMS {
        return Err(Fault::invalid(format!("a batch has at most {ITEMS} {list}")));
    }
    items
        .iter()
        .map(|item| {
            item.as_object().ok_or_else(|| Fault::invalid(format!("{list} is not a list of objects")))
        })
        .map(|item| item.and_then(&each))
        .collect()
}

fn run_id(of: &Map<String, Value>) -> Answer<String> {
    text(of, "run_id")
        .or_else(|| text(of, "run_uuid"))
        .ok_or_else(|| Fault::invalid("Missing value for required parameter 'run_id'".into()))
}

fn number_json(value: f64) -> Value {
    // As protocol buffers write what JSON has no number for.
    match nonfinite_word(value) {
        None => json!(value),
        Some("nan") => json!("NaN"),
        Some("inf") => json!("Infinity"),
        Some(_) => json!("-Infinity"),
    }
}

fn metric_json(metric: &Metric) -> Value {
    json!({"key": metric.key, "value": number_json(metric.value), "timestamp": metric.timestamp, "step": metric.step})
}

fn pairs_json(pairs: &BTreeMap<String, String>) -> Value {
    pairs.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

fn info_json(run: &Run) -> Value {
    let mut info = json!({
        "run_id": run.id, "run_uuid": run.id, "run_name": run.name, "experiment_id": run.experiment, "user_id": run.user,
        "status": run.status, "start_time": run.start_time, "lifecycle_stage": "active",
        "artifact_uri": format!("mlflow-artifacts:/{}/{}/artifacts", run.experiment, run.id),
    });
    if let (Some(end), Some(info)) = (run.end_time, info.as_object_mut()) {
        info.insert("end_time".into(), json!(end));
    }
    info
}

fn run_json(run: &Run) -> Value {
    json!({
        "info": info_json(run),
        "data": {
            "metrics": run.latest.values().map(metric_json).collect::<Value>(),
            "params": pairs_json(&run.params),
            "tags": pairs_json(&run.tags),
        },
        "inputs": {"dataset_inputs": []},
    })
}

fn experiment_json(id: &str, name: &str) -> Value {
    json!({
        "experiment_id": id, "name": name, "lifecycle_stage": "active",
        "artifact_location": format!("mlflow-artifacts:/{id}"), "tags": [],
    })
}

async fn nothing(_: Call) -> Json<Value> {
    Json(json!({}))
}

async fn experiment_by_name(State(shared): S, Query(q): Q) -> Answer<Json<Value>> {
    let name = q.get("experiment_name").cloned().unwrap_or_default();
    let state = shared.state();
    match state.experiments.iter().find(|(_, n)| *n == name) {
        Some((id, name)) => Ok(Json(json!({"experiment": experiment_json(id, name)}))),
        None => Err(Fault::missing(format!("Could not find experiment with name '{name}'"))),
    }
}

async fn experiment(State(shared): S, Query(q): Q) -> Answer<Json<Value>> {
    let id = q.get("experiment_id").cloned().unwrap_or_default();
    let state = shared.state();
    match state.experiments.iter().find(|(i, _)| *i == id) {
        Some((id, name)) => Ok(Json(json!({"experiment": experiment_json(id, name)}))),
        None => Err(Fault::missing(format!("No Experiment with id={id} exists"))),
    }
}

async fn create_experiment(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let name = text(&call, "name").filter(|n| !n.trim().is_empty() && n.len() <= KEY);
    let name = name.ok_or_else(|| Fault::invalid("an experiment needs a name".into()))?;
    let mut state = shared.state();
    if state.experiments.iter().any(|(_, n)| *n == name) {
        let message = format!("Experiment '{name}' already exists");
        return Err(Fault::new(StatusCode::BAD_REQUEST, "RESOURCE_ALREADY_EXISTS", message));
    }
    Ok(Json(json!({"experiment_id": state.experiment(&name)})))
}

async fn experiments(State(shared): S) -> Json<Value> {
    let state = shared.state();
    let all: Value = state.experiments.iter().map(|(id, name)| experiment_json(id, name)).collect();
    Json(json!({"experiments": all}))
}

async fn create_run(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let tags = many(&call, "tags", pair)?.into_iter().collect();
    let experiment = text(&call, "experiment_id").unwrap_or_else(|| "0".into());
    let mut state = shared.state();
    if !state.experiments.iter().any(|(id, _)| *id == experiment) {
        return Err(Fault::missing(format!("No Experiment with id={experiment} exists")));
    }
    let run = state.create(NewRun {
        experiment,
        name: text(&call, "run_name").map(|n| n.chars().take(250).collect()),
        start_time: whole(&call, "start_time").unwrap_or(0),
        user: text(&call, "user_id").unwrap_or_default(),
        tags,
    });
    Ok(Json(json!({"run": run_json(&run)})))
}

async fn run(State(shared): S, Query(q): Q) -> Answer<Json<Value>> {
    let id = q.get("run_id").or_else(|| q.get("run_uuid")).cloned().unwrap_or_default();
    let state = shared.state();
    let run = state.run(&id).ok_or_else(|| Fault::no_run(&id))?;
    Ok(Json(json!({"run": run_json(run)})))
}

async fn update_run(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let id = run_id(&call)?;
    let mut state = shared.state();
    let run = state.run_mut(&id).ok_or_else(|| Fault::no_run(&id))?;
    match call.get("status") {
        // Names, or their numbers in the protocol buffer's enum.
        Some(Value::String(status)) if status.len() < 20 => run.status.clone_from(status),
        Some(Value::Number(number)) => {
            let names = ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"];
            let at = number.as_u64().unwrap_or(1).saturating_sub(1) as usize;
            (*names.get(at).unwrap_or(&"RUNNING")).clone_into(&mut run.status);
        }
        _ => {}
    }
    run.end_time = whole(&call, "end_time").or(run.end_time);
    if let Some(name) = text(&call, "run_name").filter(|n| !n.trim().is_empty()) {
        run.name = name.chars().take(250).collect();
        run.tags.insert("mlflow.runName".into(), run.name.clone());
    }
    Ok(Json(json!({"run_info": info_json(run)})))
}

/// All runs of the experiments asked for, newest first. Filters are not understood here, and saying so beats a wrong list.
async fn search_runs(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    if text(&call, "filter").is_some_and(|f| !f.trim().is_empty()) {
        return Err(Fault::invalid("runs are searched without a filter here: an attempt has few".into()));
    }
    let wanted: Vec<&str> = match call.get("experiment_ids") {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let most = whole(&call, "max_results").unwrap_or(1000).clamp(1, 1000) as usize;
    let state = shared.state();
    let runs =
        state.runs.iter().rev().filter(|r| wanted.is_empty() || wanted.contains(&r.experiment.as_str()));
    Ok(Json(json!({"runs": runs.take(most).map(run_json).collect::<Value>()})))
}

fn log(
    shared: &Shared,
    id: &str,
    metrics: Vec<Metric>,
    params: Vec<(String, String)>,
    tags: Vec<(String, String)>,
) -> Answer<Json<Value>> {
    match shared.state().log(id, metrics, params, tags) {
        Ok(true) => Ok(Json(json!({}))),
        Ok(false) => Err(Fault::no_run(id)),
        Err(error) => {
            // A full disk: the training's own trouble will say more than a failed call would.
            tracing::warn!(%error, "metric points cannot be kept");
            Ok(Json(json!({})))
        }
    }
}

async fn log_metric(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    log(&shared, &run_id(&call)?, vec![metric(&call)?], vec![], vec![])
}

async fn log_parameter(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    log(&shared, &run_id(&call)?, vec![], vec![pair(&call)?], vec![])
}

async fn set_tag(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    log(&shared, &run_id(&call)?, vec![], vec![], vec![pair(&call)?])
}

async fn log_batch(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let (metrics, params, tags) =
        (many(&call, "metrics", metric)?, many(&call, "params", pair)?, many(&call, "tags", pair)?);
    log(&shared, &run_id(&call)?, metrics, params, tags)
}

async fn delete_tag(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let (id, key) = (run_id(&call)?, key(&call)?);
    let mut state = shared.state();
    let run = state.run_mut(&id).ok_or_else(|| Fault::no_run(&id))?;
    run.tags.remove(&key);
    Ok(Json(json!({})))
}

/// Data sets, as autologging reports them: the name, with its context when there is one, and the digest.
async fn log_inputs(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let id = run_id(&call)?;
    let inputs = many(&call, "datasets", |input| Ok(input.clone()))?;
    let mut state = shared.state();
    let run = state.run_mut(&id).ok_or_else(|| Fault::no_run(&id))?;
    for input in inputs.into_iter().take(100) {
        let Some(Value::Object(dataset)) = input.get("dataset") else { continue };
        let tags = many(&input, "tags", pair).unwrap_or_default();
        let context = tags.into_iter().find(|(k, _)| k == "mlflow.data.context").map(|(_, v)| v);
        let name = text(dataset, "name").unwrap_or_default();
        let name = context.map_or(name.clone(), |c| format!("{c}/{name}"));
        let digest = text(dataset, "digest").unwrap_or_default();
        if run.datasets.len() < 100 {
            run.datasets.insert(name.chars().take(200).collect(), digest.chars().take(200).collect());
        }
    }
    Ok(Json(json!({})))
}

async fn history(State(shared): S, Query(q): Q) -> Answer<Json<Value>> {
    let id = q.get("run_id").or_else(|| q.get("run_uuid")).cloned().unwrap_or_default();
    let wanted = q.get("metric_key").cloned().unwrap_or_default();
    let (path, at) = {
        let state = shared.state();
        let at = state.runs.iter().position(|r| r.id == id).ok_or_else(|| Fault::no_run(&id))?;
        (state.points_file().to_owned(), at)
    };
    let read = tokio::task::spawn_blocking(move || -> std::io::Result<Vec<Value>> {
        use std::io::BufRead as _;
        let mut found = Vec::new();
        for line in std::io::BufReader::new(std::fs::File::open(path)?).lines() {
            let Ok((run, key, bits, step, timestamp)) = serde_json::from_str::<super::state::Line>(&line?)
            else {
                continue;
            };
            if run == at && key == wanted && found.len() < HISTORY {
                found.push(metric_json(&Metric { key, value: f64::from_bits(bits), timestamp, step }));
            }
        }
        Ok(found)
    });
    let metrics = read.await.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string()));
    let metrics = metrics.map_err(|e| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", e))?;
    Ok(Json(json!({"metrics": metrics})))
}

async fn list_artifacts(State(shared): S, Query(q): Q) -> Answer<Json<Value>> {
    let id = q.get("run_id").or_else(|| q.get("run_uuid")).cloned().unwrap_or_default();
    let (root, uri) = {
        let state = shared.state();
        let run = state.run(&id).ok_or_else(|| Fault::no_run(&id))?;
        let root = format!("{}/{}/artifacts", run.experiment, run.id);
        (root.clone(), format!("mlflow-artifacts:/{root}"))
    };
    let inside = q.get("path").map(String::as_str).filter(|p| !p.is_empty());
    let (path, prefix) = match inside {
        Some(inside) => {
            let inside = crate::agent::paths::relative(inside).map_err(|e| Fault::invalid(e.to_string()))?;
            (format!("{root}/{inside}"), inside)
        }
        None => (root, String::new()),
    };
    Ok(Json(json!({"root_uri": uri, "files": artifacts::entries(&shared, &path, &prefix)})))
}

/// What a model keeps of a pair.
fn short((key, value): (String, String)) -> (String, String) {
    (key.chars().take(250).collect(), value.chars().take(500).collect())
}

fn model_json(model: &Model) -> Value {
    json!({
        "info": {
            "model_id": model.id, "experiment_id": model.experiment, "name": model.name,
            "creation_timestamp_ms": model.created, "last_updated_timestamp_ms": model.created,
            "artifact_uri": format!("mlflow-artifacts:/{}/models/{}/artifacts", model.experiment, model.id),
            "status": model.status, "model_type": model.kind, "source_run_id": model.run,
            "tags": pairs_json(&model.tags),
        },
        "data": {"params": pairs_json(&model.params), "metrics": []},
    })
}

async fn create_model(State(shared): S, Call(call): Call) -> Answer<Json<Value>> {
    let name = text(&call, "name").filter(|n| !n.trim().is_empty()).unwrap_or_else(|| "model".into());
    let mut state = shared.state();
    let experiment = text(&call, "experiment_id").unwrap_or_else(|| "0".into());
    if !state.experiments.iter().any(|(id, _)| *id == experiment) {
        return Err(Fault::missing(format!("No Experiment with id={experiment} exists")));
    }
    let run = text(&call, "source_run_id").unwrap_or_default();
    let created = state.run(&run).map_or(0, |r| r.start_time);
    let model = state.add_model(Model {
        id: String::new(),
        experiment,
        name: name.chars().take(100).collect(),
        run,
        kind: text(&call, "model_type").unwrap_or_default().chars().take(100).collect(),
        status: "LOGGED_MODEL_PENDING".into(),
        created,
        params: many(&call, "params", pair)?.into_iter().take(200).map(short).collect(),
        tags: many(&call, "tags", pair)?.into_iter().take(200).map(short).collect(),
    });
    Ok(Json(json!({"model": model_json(&model)})))
}

fn with_model<T>(shared: &Shared, id: &str, act: impl FnOnce(&mut Model) -> T) -> Answer<T> {
    let mut state = shared.state();
    let model = state.models.get_mut(id);
    Ok(act(model.ok_or_else(|| Fault::missing(format!("there is no logged model {id:?} of this attempt")))?))
}

async fn model(State(shared): S, Path(id): Path<String>) -> Answer<Json<Value>> {
    with_model(&shared, &id, |m| Json(json!({"model": model_json(m)})))
}

async fn finish_model(State(shared): S, Path(id): Path<String>, Call(call): Call) -> Answer<Json<Value>> {
    let status = match call.get("status") {
        Some(Value::String(status)) if status.len() < 40 => status.clone(),
        Some(Value::Number(number)) if number.as_u64() == Some(3) => "LOGGED_MODEL_UPLOAD_FAILED".into(),
        _ => "LOGGED_MODEL_READY".into(),
    };
    with_model(&shared, &id, |m| {
        m.status = status;
        Json(json!({"model": model_json(m)}))
    })
}

async fn model_params(State(shared): S, Path(id): Path<String>, Call(call): Call) -> Answer<Json<Value>> {
    let params = many(&call, "params", pair)?;
    with_model(&shared, &id, |m| {
        let room = 200_usize.saturating_sub(m.params.len());
        m.params.extend(params.into_iter().take(room).map(short));
        Json(json!({"model": model_json(m)}))
    })
}

async fn model_tags(State(shared): S, Path(id): Path<String>, Call(call): Call) -> Answer<Json<Value>> {
    let tags = many(&call, "tags", pair)?;
    with_model(&shared, &id, |m| {
        let room = 200_usize.saturating_sub(m.tags.len());
        m.tags.extend(tags.into_iter().take(room).map(short));
        Json(json!({"model": model_json(m)}))
    })
}

async fn search_models(State(shared): S, Call(_): Call) -> Json<Value> {
    let state = shared.state();
    Json(json!({"models": state.models.values().take(1000).map(model_json).collect::<Value>()}))
}

async fn model_artifacts(State(shared): S, Path(id): Path<String>, Query(q): Q) -> Answer<Json<Value>> {
    let root = with_model(&shared, &id, |m| format!("{}/models/{}/artifacts", m.experiment, m.id))?;
    let uri = format!("mlflow-artifacts:/{root}");
    let inside = q.get("artifact_directory_path").map_or("", String::as_str);
    let (path, prefix) = if inside.is_empty() {
        (root, String::new())
    } else {
        let inside = crate::agent::paths::relative(inside).map_err(|e| Fault::invalid(e.to_string()))?;
        (format!("{root}/{inside}"), inside)
    };
    Ok(Json(json!({"root_uri": uri, "files": artifacts::entries(&shared, &path, &prefix)})))
}
