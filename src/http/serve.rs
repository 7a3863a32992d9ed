//! One accept loop for all four listeners: HTTP/1 only, with the timers and bounds that `axum::serve` does not set (it installs
//! no timer, so hyper's header timeout never fires there).
//!
//! - A request head must be complete within `header_timeout`; the same time bounds an idle kept-alive connection.
//! - At most `connections` at once. When all are taken, a new one pushes out the connection that has waited longest without
//!   a request, else the one that has been waited for longest in the middle of a body, so that thousands of silent or slow
//!   connections do not keep a real sender out. A request that has arrived whole is never pushed out.
//! - A body that stands still for `body_idle` is an error to its reader, whatever other deadlines the reader has.
//! - A request with both `Content-Length` and `Transfer-Encoding` is refused, whatever their order (hyper hides the length when
//!   it comes second), and a connection ends after a chunked request: nothing can be smuggled past a proxy.
//! - After an early refusal the socket is read on for a moment, so that the sender sees the answer rather than a reset.
//!
//! Must not: know any route.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use futures_util::FutureExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};

use super::telemetry::{ListenerLabels, Telemetry};

/// Bounds of one listener.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For logs and metrics: `hooks`, `app`, `agent`, `ops`.
    pub name: &'static str,
    pub connections: usize,
    pub header_timeout: Duration,
    pub header_bytes: usize,
    pub headers: usize,
    /// The most that is read at once, or waits to be written: each connection keeps a buffer of that size once its bodies fill it.
    /// At least `header_bytes`, and 8 KiB.
    pub read_bytes: usize,
    /// How long a body may stand still.
    pub body_idle: Duration,
    /// How long requests in progress may take to end after a shutdown began.
    pub drain: Duration,
}

/// One side of a connection, with or without TLS.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Limits {
    pub fn of(name: &'static str) -> Self {
        Self {
            name,
            connections: 1024,
            header_timeout: Duration::from_secs(10),
            header_bytes: 32 << 10,
            headers: 64,
            read_bytes: 400 << 10,
            body_idle: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}

/// What answers the requests of a listener: a router, or less where that is enough.
pub trait Answers:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
    + Clone
    + Send
    + Sync
    + Unpin
    + 'static
{
}
impl<S> Answers for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static
{
}

/// Serves until `shutdown` is cancelled, then lets requests in progress end. A request whose answer panics is answered with 500.
pub async fn serve(
    listener: TcpListener,
    service: impl Answers,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    shutdown: CancellationToken,
) {
    serve_tls(listener, None, service, limits, telemetry, shutdown).await;
}

/// As [`serve`], with TLS when a configuration is given. A handshake must be done within `header_timeout`.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    service: impl Answers,
    limits: Limits,
    telemetry: Arc<Telemetry>,
    shutdown: CancellationToken,
) {
    let tls = tls.map(TlsAcceptor::from);
    let room = Arc::new(Semaphore::new(limits.connections));
    let idle = Arc::new(Mutex::new(Idle::default()));
    let tasks = TaskTracker::new();
    let force = CancellationToken::new();
    let mut pause = Duration::from_millis(20);
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                // Out of file descriptors or memory: accepting again at once would spin, and one less idle may help.
                tracing::warn!(listener = limits.name, %error, "cannot accept a connection");
                lock(&idle).push_out_oldest();
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
                continue;
            }
        };
        pause = Duration::from_millis(20);
        if room.available_permits() == 0 {
            lock(&idle).push_out_oldest();
        }
        let permit = tokio::select! {
            () = shutdown.cancelled() => break,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let gauge = telemetry.connections.get_or_create(&ListenerLabels { listener: limits.name }).clone();
        let connection = Connection {
            service: service.clone(),
            limits,
            tls: tls.clone(),
            idle: Arc::clone(&idle),
            shutdown: shutdown.clone(),
            force: force.clone(),
        };
        tasks.spawn(async move {
            gauge.inc();
            connection.run(stream, peer).await;
            gauge.dec();
            drop(permit);
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(limits.drain, tasks.wait()).await.is_err() {
        tracing::warn!(
            listener = limits.name,
            open = tasks.len(),
            "closing connections that did not end in time"
        );
        force.cancel();
        tasks.wait().await;
    }
}

/// Errors of `accept` that concern the connection just lost, not the listener.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Raises the soft limit of open files to the hard one: each connection, database handle and log segment is a file.
pub fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(soft, hard, %error, "cannot raise the limit of open files");
    }
}

struct Connection<S> {
    service: S,
    limits: Limits,
    tls: Option<TlsAcceptor>,
    idle: Arc<Mutex<Idle>>,
    shutdown: CancellationToken,
    force: CancellationToken,
}

impl<S: Answers> Connection<S> {
    async fn run(self, stream: TcpStream, peer: SocketAddr) {
        let _ = stream.set_nodelay(true);
        let ticket = Ticket::new(self.idle);
        let pushed_out = ticket.pushed_out.clone();
        let stream = match &self.tls {
            None => Socket::Plain(stream),
            Some(acceptor) => {
                let shaken = tokio::select! {
                    () = pushed_out.cancelled() => return,
                    () = self.shutdown.cancelled() => return,
                    shaken = tokio::time::timeout(self.limits.header_timeout, acceptor.accept(stream)) => shaken,
                };
                match shaken {
                    Ok(Ok(stream)) => Socket::Tls(Box::new(stream)),
                    Ok(Err(error)) => {
                        tracing::debug!(listener = self.limits.name, peer = %peer, %error, "no TLS connection came about");
                        return;
                    }
                    Err(_) => return,
                }
            }
        };
        let ambiguous = Arc::new(AtomicBool::new(false));
        let refused = Arc::new(AtomicBool::new(false));
        let io =
            TokioIo::new(Watched { stream, framing: Framing::default(), ambiguous: Arc::clone(&ambiguous) });
        let (answers, limits) = (self.service, self.limits);
        let refused_by_service = Arc::clone(&refused);
        let service = service_fn(move |request: Request<Incoming>| {
            ticket.busy();
            let ticket = Arc::clone(&ticket);
            let answers = answers.clone();
            let ambiguous = ambiguous.load(Ordering::Acquire);
            let refused = Arc::clone(&refused_by_service);
            let arriving = Arriving::of(&ticket, limits.body_idle);
            let answer = async move {
                let response =
                    if ambiguous { both_lengths() } else { answer(answers, request, arriving, peer).await };
                if response.status().is_client_error() || response.status().is_server_error() {
                    refused.store(true, Ordering::Release);
                }
                Ok::<_, Infallible>(response.map(|body| Resting { body, ticket }))
            };
            // Boxed, since polling a connection without shutting it down asks for an `Unpin` future.
            Box::pin(answer) as Pin<Box<dyn Future<Output = _> + Send>>
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_header_size(self.limits.header_bytes)
            .max_headers(self.limits.headers)
            .max_buf_size(self.limits.read_bytes)
            .half_close(false)
            .serve_connection(io, service);
        let mut draining = false;
        let ended = loop {
            tokio::select! {
                biased;
                () = pushed_out.cancelled() => return,
                () = self.force.cancelled() => return,
                () = self.shutdown.cancelled(), if !draining => {
                    Pin::new(&mut connection).graceful_shutdown();
                    draining = true;
                }
                ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break ended,
            }
        };
        if let Err(error) = &ended {
            tracing::debug!(listener = self.limits.name, peer = %peer, %error, "connection ended");
        }
        let mut stream = connection.into_parts().io.into_inner().stream;
        let _ = stream.shutdown().await;
        if refused.load(Ordering::Acquire) || ended.is_err() {
            linger(&mut stream).await;
        }
    }
}

async fn answer(
    service: impl Answers,
    mut request: Request<Incoming>,
    arriving: Arriving,
    peer: SocketAddr,
) -> Response<Body> {
    request.extensions_mut().insert(ConnectInfo(peer));
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let answer = service.oneshot(request.map(|body| Body::new(Arrives { body, arriving })));
    let mut response = match AssertUnwindSafe(answer).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        // What it said is on stderr, where panics go.
        Err(_) => internal_error(),
    };
    if chunked {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn internal_error() -> Response<Body> {
    let mut response = Response::new(Body::from(
        r#"{"error":"this request met a fault of trainyard; its log on stderr says where"}"#,
    ));
    *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn both_lengths() -> Response<Body> {
    let mut response =
        Response::new(Body::from(r#"{"error":"Content-Length and Transfer-Encoding exclude each other"}"#));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Reads and drops what the peer still sends, for a second at most: closing a socket with unread bytes makes the kernel
/// send a reset, which may overtake our answer.
async fn linger(stream: &mut Socket) {
    let mut waste = vec![0u8; 64 << 10];
    let _ = tokio::time::timeout(Duration::from_secs(1), async {
        while matches!(stream.read(&mut waste).await, Ok(read) if read > 0) {}
    })
    .await;
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connections that wait for their peer, the one that has waited longest first.
#[derive(Default)]
struct Idle {
    next: u64,
    /// For a request.
    waiting: BTreeMap<u64, CancellationToken>,
    /// For the rest of a request's body.
    arriving: BTreeMap<u64, CancellationToken>,
}

impl Idle {
    fn push_out_oldest(&mut self) {
        if let Some((_, token)) = self.waiting.pop_first().or_else(|| self.arriving.pop_first()) {
            token.cancel();
        }
    }
}

/// A request whose body is being waited for. Has a place among [`Idle::arriving`] from the first wait until the end of the body.
struct Arriving {
    ticket: Arc<Ticket>,
    place: Option<u64>,
    patience: Duration,
    /// Runs while nothing comes.
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Arriving {
    fn of(ticket: &Arc<Ticket>, patience: Duration) -> Self {
        Self { ticket: Arc::clone(ticket), place: None, patience, stalled: None }
    }
    /// Nothing is there. Ready when that has been so for too long.
    fn waits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.place.is_none() {
            let mut idle = lock(&self.ticket.idle);
            idle.next += 1;
            let place = idle.next;
            idle.arriving.insert(place, self.ticket.pushed_out.clone());
            self.place = Some(place);
        }
        let patience = self.patience;
        self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience))).as_mut().poll(cx)
    }
    fn ended(&mut self) {
        self.stalled = None;
        if let Some(place) = self.place.take() {
            lock(&self.ticket.idle).arriving.remove(&place);
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.ended();
    }
}

/// A request's body as its reader sees it.
struct Arrives {
    body: Incoming,
    arriving: Arriving,
}

impl HttpBody for Arrives {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.arriving.stalled = None;
                if self.body.is_end_stream() || !matches!(frame, Some(Ok(_))) {
                    self.arriving.ended();
                }
                Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)))
            }
            Poll::Pending => self.arriving.waits(cx).map(|()| {
                let error =
                    std::io::Error::new(std::io::ErrorKind::TimedOut, "the body stood still for too long");
                Some(Err(axum::Error::new(error)))
            }),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// One connection's place among the idle ones.
struct Ticket {
    idle: Arc<Mutex<Idle>>,
    place: Mutex<Option<u64>>,
    pushed_out: CancellationToken,
}

impl Ticket {
    fn new(idle: Arc<Mutex<Idle>>) -> Arc<Self> {
        let ticket = Self { idle, place: Mutex::new(None), pushed_out: CancellationToken::new() };
        ticket.rest();
        Arc::new(ticket)
    }
    fn busy(&self) {
        if let Some(place) = lock(&self.place).take() {
            lock(&self.idle).waiting.remove(&place);
        }
    }
    fn rest(&self) {
        let mut own = lock(&self.place);
        if own.is_none() {
            let mut idle = lock(&self.idle);
            idle.next += 1;
            let place = idle.next;
            idle.waiting.insert(place, self.pushed_out.clone());
            *own = Some(place);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.busy();
    }
}

/// A response body that puts its connection back among the idle ones when it has been sent.
struct Resting {
    body: Body,
    ticket: Arc<Ticket>,
}

impl HttpBody for Resting {
    type Data = Bytes;
    type Error = axum::Error;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Resting {
    fn drop(&mut self) {
        self.ticket.rest();
    }
}

macro_rules! both {
    ($socket:expr, $stream:ident => $call:expr) => {
        match $socket {
            Socket::Plain($stream) => $call,
            Socket::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        both!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        both!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        both!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        both!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        both!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }
    fn is_write_vectored(&self) -> bool {
        both!(self, stream => stream.is_write_vectored())
    }
}

/// A socket whose incoming bytes are watched for requests with two lengths.
struct Watched {
    stream: Socket,
    framing: Framing,
    ambiguous: Arc<AtomicBool>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if matches!(polled, Poll::Ready(Ok(()))) && self.framing.feed(&buf.filled()[before..]) {
            self.ambiguous.store(true, Ordering::Release);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Follows the framing of the requests on one connection as far as it takes to see every head: bodies of known length are
/// counted, and after a chunked request the connection ends anyway.
#[derive(Debug, Default)]
struct Framing {
    within: Within,
    /// What has been seen of a head.
    head: Vec<u8>,
}

#[derive(Debug, Default)]
enum Within {
    #[default]
    Head,
    Body(u64),
    /// Nothing more to see: a chunked request, or a head that hyper refuses.
    Nothing,
}

impl Framing {
    /// More than hyper takes (`header_bytes`), so that a head which outgrows this is refused there.
    const HEAD_BYTES: usize = 256 << 10;
    /// Kept for the next head.
    const KEPT_BYTES: usize = 4 << 10;

    /// True when these bytes complete a head with both lengths.
    fn feed(&mut self, mut bytes: &[u8]) -> bool {
        loop {
            match &mut self.within {
                Within::Nothing => return false,
                Within::Body(left) => {
                    let here = (*left).min(bytes.len() as u64);
                    bytes = &bytes[here as usize..];
                    *left -= here;
                    if *left > 0 {
                        return false;
                    }
                    self.within = Within::Head;
                }
                Within::Head => {
                    if self.head.is_empty() {
                        // Empty lines before a request line are skipped by hyper too.
                        let line = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
                        bytes = &bytes[line.unwrap_or(bytes.len())..];
                    }
                    if bytes.is_empty() {
                        return false;
                    }
                    let line = memchr::memchr(b'\n', bytes).map_or(bytes.len(), |at| at + 1);
                    self.head.extend_from_slice(&bytes[..line]);
                    bytes = &bytes[line..];
                    if self.head.ends_with(b"\n\n") || self.head.ends_with(b"\n\r\n") {
                        let (length, chunked) = lengths(&self.head);
                        let both = length.is_some() && chunked;
                        self.within = match length {
                            None if !chunked => Within::Head,
                            Some(Ok(length)) if !chunked => Within::Body(length),
                            _ => Within::Nothing,
                        };
                        self.head.clear();
                        self.head.shrink_to(Self::KEPT_BYTES);
                        if both {
                            return true;
                        }
                    } else if self.head.len() > Self::HEAD_BYTES {
                        *self = Self { within: Within::Nothing, head: Vec::new() };
                    }
                }
            }
        }
    }
}

/// Of a request head: the Content-Length (`Err` when it cannot be read) and whether there is a Transfer-Encoding.
fn lengths(head: &[u8]) -> (Option<Result<u64, ()>>, bool) {
    let mut length = None;
    let mut chunked = false;
    for line in head.split(|b| *b == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = Some(std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(()));
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = true;
        }
    }
    (length, chunked)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::{Request, Response};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;

    use super::{Framing, Limits, serve};
    use crate::http::telemetry::Telemetry;

    /// A fault of one handler is its request's alone: the connection goes on.
    #[tokio::test]
    async fn a_panic_is_answered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = tower::service_fn(async |request: Request<Body>| {
            assert_ne!(request.uri().path(), "/fault", "asked for by the test");
            Ok::<_, Infallible>(Response::new(Body::from("fine")))
        });
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(
            listener,
            service,
            Limits::of("test"),
            Arc::new(Telemetry::new()),
            stop.clone(),
        ));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let requests =
            b"GET /fault HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(requests).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        assert!(answers.starts_with("HTTP/1.1 500 "), "{answers}");
        assert!(answers.contains("HTTP/1.1 200 ") && answers.ends_with("fine"), "{answers}");
        stop.cancel();
        serving.await.unwrap();
    }

    const BOTH: &[u8] = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n";
    const PLAIN: &[u8] = b"POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello";
    /// A body that looks like a head with both lengths.
    const QUOTED: &[u8] =
        b"POST / HTTP/1.1\r\ncontent-length: 39\r\n\r\nA:\r\ncontent-length:1\r\ntransfer-encoding:x";

    fn fed_in_pieces(bytes: &[u8], size: usize) -> bool {
        let mut framing = Framing::default();
        bytes.chunks(size).any(|piece| framing.feed(piece))
    }

    #[test]
    fn two_lengths_are_seen_in_any_order_and_any_cut() {
        for size in 1..BOTH.len() {
            assert!(fed_in_pieces(BOTH, size), "{size}");
            assert!(fed_in_pieces(&[PLAIN, b"\r\n", BOTH].concat(), size), "{size}");
            assert!(fed_in_pieces(b"P / H\nContent-Length: 1\ntransfer-encoding: gzip\n\n", size), "{size}");
        }
    }

    #[test]
    fn bodies_are_not_taken_for_heads() {
        for size in 1..40 {
            assert!(!fed_in_pieces(&[PLAIN, QUOTED, PLAIN].concat(), size), "{size}");
            assert!(!fed_in_pieces(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", size), "{size}");
        }
    }
}
