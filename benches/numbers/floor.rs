//! The limit of a durable intake on this machine: hyper, HMAC on the raw bytes, the body packed, one SQLite writer that commits
//! what is waiting (WAL, `synchronous = FULL`), the answer after the commit. It parses nothing and decides nothing. The same on
//! Postgres: one connection, one statement for all that is waiting.

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use sqlx::Connection as _;
use std::convert::Infallible;
use tokio::sync::{mpsc, oneshot};

use crate::daemon::SECRET;

struct Row {
    id: String,
    body: Vec<u8>,
    done: oneshot::Sender<()>,
}

/// Serves on 127.0.0.1 until it is killed.
pub fn serve(port: u16, db: &str) -> ! {
    let (rows, waiting) = mpsc::channel::<Row>(1024);
    let db = db.to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        if db.starts_with("postgres:") {
            let mut server = sqlx::PgConnection::connect(&db).await.expect("a server");
            sqlx::query("CREATE TABLE deliveries (id TEXT PRIMARY KEY, body BYTEA NOT NULL)")
                .execute(&mut server)
                .await
                .expect("a table");
            tokio::spawn(write_postgres(server, waiting));
        } else {
            std::thread::spawn(move || write(&db, waiting));
        }
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("a free port");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let _ = stream.set_nodelay(true);
            let rows = rows.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| accept(request, rows.clone()));
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    })
}

async fn accept(
    request: Request<Incoming>,
    rows: mpsc::Sender<Row>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let text =
        |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (id, signature) = (text("x-github-delivery"), text("x-hub-signature-256"));
    let body =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("any key will do");
    mac.update(&body);
    let given = hex::decode(signature.trim_start_matches("sha256=")).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    if mac.verify_slice(&given).is_err() {
        *response.status_mut() = hyper::StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    let body = zstd::bulk::compress(&body, 1).expect("memory");
    let (done, wait) = oneshot::channel();
    rows.send(Row { id, body, done }).await.expect("the writer lives");
    wait.await.expect("the writer lives");
    *response.status_mut() = hyper::StatusCode::ACCEPTED;
    Ok(response)
}

/// How many share a commit at most.
const GROUP: usize = 64;

async fn write_postgres(mut server: sqlx::PgConnection, mut waiting: mpsc::Receiver<Row>) {
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let (ids, bodies): (Vec<String>, Vec<Vec<u8>>) =
            group.iter_mut().map(|row| (row.id.clone(), std::mem::take(&mut row.body))).unzip();
        sqlx::query("INSERT INTO deliveries SELECT * FROM UNNEST($1::text[], $2::bytea[])")
            .bind(ids)
            .bind(bodies)
            .execute(&mut server)
            .await
            .expect("insert");
        for row in group.drain(..) {
            let _ = row.done.send(());
        }
    }
}

fn write(file: &str, mut waiting: mpsc::Receiver<Row>) {
    let db = rusqlite::Connection::open(file).expect("a database");
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE deliveries (id TEXT PRIMARY KEY, body BLOB NOT NULL)",
    )
    .expect("a table");
    let mut insert = db.prepare("INSERT INTO deliveries VALUES (?1, ?2)").expect("a statement");
    let mut group = Vec::new();
    while waiting.blocking_recv_many(&mut group, GROUP) > 0 {
        db.execute_batch("BEGIN IMMEDIATE").expect("begin");
        for row in &group {
            insert.execute((&row.id, &row.body)).expect("insert");
        }
        db.execute_batch("COMMIT").expect("commit");
        for row in group.drain(..) {
            let _ = row.done.send(());
        }
    }
}
