//! The serving endpoint of the user's own: started, waited for, asked for the features of raw rows as JSON, and ended.
//!
//! The protocol is version 1 of `KServe` and TensorFlow Serving: `{"instances": [row, …]}` is posted, and answered by an array of objects, or
//! by an object that holds one, `{"predictions": [features, …]}`. It runs inside of the step, so whatever outlives it is ended with
//! the step's process tree.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use trainyard_data::cells::{self, Cells};
use trainyard_data::schema::Kind;
use trainyard_data::{Source, source};

use super::{Row, Sample};
use crate::model::plan::Endpoint;

/// Between asking a server to end and ending it.
const GRACE: Duration = Duration::from_secs(5);
/// Of one request.
const ANSWER: Duration = Duration::from_mins(1);
/// Of one answer.
const MAX_ANSWER: usize = 16 << 20;

/// The rows of the sample as JSON objects, as a client would send them.
pub(super) fn rows(sample: &Sample, dir: &Path) -> anyhow::Result<Vec<Value>> {
    let Some(header) = &sample.header else {
        let line = |row: &Row| match row {
            Row::Line(line) => serde_json::from_str(line).context("a line of the sample is no JSON"),
            Row::Csv(_) => bail!("a row of CSV among JSON lines"),
        };
        return sample.rows.iter().map(line).collect();
    };
    // Types are found as for any table: `7` is a number, `x` a word, an empty cell null.
    let place = dir.join("typed.csv");
    let all: Vec<usize> = (0..sample.rows.len()).collect();
    sample.write(&place, &all)?;
    let table = Source::open(&place.to_string_lossy(), &source::Options::default())?;
    let names: Vec<&str> = header.iter().collect();
    let kinds: Vec<Kind> = names
        .iter()
        .map(|name| Ok(table.fields.iter().find(|f| f.name == **name).context("a column is missing")?.kind))
        .collect::<anyhow::Result<_>>()?;
    let columns = cells::read(&table, &names, super::MAX_ROWS as u64)?;
    let row = |at: usize, row: &Row| {
        let mut object = Map::new();
        for (i, name) in names.iter().enumerate() {
            let written = || match row {
                Row::Csv(record) => record.get(i).unwrap_or_default().to_owned(),
                Row::Line(line) => line.clone(),
            };
            let value = match (&columns[i], kinds[i]) {
                (Cells::Numbers(x), kind) => match (x.get(at).copied().flatten(), kind) {
                    (None, _) => Value::Null,
                    (Some(x), Kind::Bool) => json!(x != 0.0),
                    (Some(x), Kind::Int) => written().trim().parse::<i64>().map_or(json!(x), |n| json!(n)),
                    (Some(x), Kind::Float) => json!(x),
                    (Some(_), _) => json!(written()), // times, as they are written
                },
                (Cells::Texts(x), _) => json!(x.get(at).cloned().flatten()),
            };
            object.insert((*name).to_owned(), value);
        }
        Value::Object(object)
    };
    Ok(sample.rows.iter().enumerate().map(|(at, r)| row(at, r)).collect())
}

/// What the endpoint makes of the rows: one line of JSON for each, written to `output`.
pub(super) fn ask(endpoint: &Endpoint, rows: &[Value], output: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a thread for requests")?.block_on(asked(endpoint, rows, output))
}

async fn asked(endpoint: &Endpoint, rows: &[Value], output: &Path) -> anyhow::Result<()> {
    let url = reqwest::Url::parse(&endpoint.url).context("its url is not one")?;
    let place =
        format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    // What answers already is another program, and nothing that it says is of this commit.
    if timeout(Duration::from_secs(2), TcpStream::connect(&place)).await.is_ok_and(|c| c.is_ok()) {
        bail!("something listens on {place} before its command was started: use another port");
    }
    let http = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(10))
        .timeout(ANSWER)
        .build()
        .context("cannot set up the HTTP client")?;
    let mut server = Server::start(&endpoint.command)?;
    ready(endpoint, &url, &http, &mut server).await?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(output).context("cannot write answers")?);
    for batch in rows.chunks(endpoint.batch.max(1) as usize) {
        let answer = http
            .post(url.clone())
            .json(&json!({ "instances": batch }))
            .send()
            .await
            .with_context(|| format!("{url} did not answer{}", server.fate()))?;
        for features in features(answer, batch.len()).await? {
            serde_json::to_writer(&mut out, &features)?;
            out.write_all(b"\n")?;
        }
    }
    out.flush().context("cannot write answers")?;
    server.end().await;
    Ok(())
}

/// Waits until it answers anything at all: 404 and 405 are words of a server that is there.
async fn ready(
    endpoint: &Endpoint,
    url: &reqwest::Url,
    http: &reqwest::Client,
    server: &mut Server,
) -> anyhow::Result<()> {
    let limit = Duration::from_millis(endpoint.timeout_ms.max(1) as u64);
    let begun = Instant::now();
    loop {
        if let Some(ended) = server.ended() {
            bail!("its command ended before it answered: {ended}");
        }
        // 503 is how servers say that they still load.
        let tried = timeout(Duration::from_secs(5), http.get(url.clone()).send()).await;
        if tried.is_ok_and(|t| t.is_ok_and(|a| a.status() != reqwest::StatusCode::SERVICE_UNAVAILABLE)) {
            return Ok(());
        }
        if begun.elapsed() > limit {
            bail!("{url} did not answer within {} s", limit.as_secs());
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// The objects of an answer, one for each row that was sent. Nothing of an answer is told: it may hold values of the data.
async fn features(mut answer: reqwest::Response, wanted: usize) -> anyhow::Result<Vec<Map<String, Value>>> {
    let status = answer.status();
    if !status.is_success() {
        bail!("answered {status}");
    }
    let mut bytes = Vec::new();
    while let Some(part) = answer.chunk().await.context("an answer was cut")? {
        if bytes.len() + part.len() > MAX_ANSWER {
            bail!("an answer is longer than {} MiB", MAX_ANSWER >> 20);
        }
        bytes.extend_from_slice(&part);
    }
    let value: Value = serde_json::from_slice(&bytes).context("an answer is no JSON")?;
    let list = match value {
        Value::Array(list) => list,
        Value::Object(fields) => {
            let mut lists = fields.into_iter().filter_map(|(_, value)| match value {
                Value::Array(list) => Some(list),
                _ => None,
            });
            match (lists.next(), lists.next()) {
                (Some(list), None) => list,
                (None, _) => bail!("an answer holds no array"),
                (Some(_), Some(_)) => {
                    bail!("an answer holds several arrays, and it does not say which is of the rows")
                }
            }
        }
        _ => bail!("an answer is neither an array nor an object that holds one"),
    };
    if list.len() != wanted {
        bail!("an answer holds {} rows for {wanted}", list.len());
    }
    let object = |value| match value {
        Value::Object(fields) => Ok(fields),
        _ => bail!("a row of an answer is no object of features by name"),
    };
    list.into_iter().map(object).collect()
}

/// The command and all that it starts in its process group.
struct Server(Child);

impl Server {
    fn start(command: &str) -> anyhow::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        let child = shell.args(["-c", command]).process_group(0).stdin(std::process::Stdio::null()).spawn();
        Ok(Self(child.context("cannot start /bin/sh")?))
    }

    fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.0.try_wait().ok().flatten()
    }

    fn fate(&mut self) -> String {
        self.ended().map_or_else(String::new, |status| format!(", and its command ended: {status}"))
    }

    fn group(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    async fn end(mut self) {
        let _ = killpg(self.group(), Signal::SIGTERM);
        let begun = Instant::now();
        while self.ended().is_none() && begun.elapsed() < GRACE {
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A group outlives its leader while a member does; without members this finds none.
        let _ = killpg(self.group(), Signal::SIGKILL);
        let _ = self.0.wait();
    }
}
