//! What every connection passes through: a seat, the wait for its first request, hyper with its deadlines, the guard,
//! and on the way out compression and the budget of memory.

use std::{convert::Infallible, future::Future, mem, net::Ipv4Addr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    serve::Listener,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    select,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::{ServiceExt, util::Oneshot};

use super::{
    App, Problem,
    audit::Audit,
    budget::{Budget, Taken},
    clients::{Clients, Held},
    consul,
    crowd::{Crowd, CutOff},
    doorstep::{self, Head, MAX_HEAD, Socket},
    guard::{self, Via},
    gzip::Coding,
    pace::Paced,
    patience::{Ear, Patience},
    rate::Rate,
    requests::Classes,
    seats::{Seat, Seats},
    tls::{HANDSHAKE, Tls},
};
use crate::model::Host;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) router: Router,
    /// Whose kept answers are sent again, and where they are counted; `None` where each request is held to a policy.
    pub(super) kept: Option<(Arc<App>, Arc<Classes>)>,
    pub(super) hosts: Vec<Host>,
    pub(super) clients: Arc<Clients>,
    pub(super) rate: Rate,
    pub(super) audit: Arc<Audit>,
    /// What the TCP port speaks, if not plain text.
    pub(super) tls: Option<Arc<Tls>>,
    /// Counts what never reached a route.
    pub(super) refused: Arc<Classes>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) budget: Arc<Budget>,
    pub(super) stop: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// What a connection takes up: a seat, and one of those that its client may have.
type Place = (Seat, Option<Held>);

impl Door {
    /// Takes in connections while there are seats. [`Listener::accept`] pauses when file descriptors run out.
    pub(super) async fn accept<L>(self: Arc<Self>, mut listener: L, seats: Seats, via: fn(&L::Io) -> Via)
    where
        L: Listener,
        L::Io: Socket,
    {
        let next = async |listener: &mut L| {
            let seat = seats.take().await?;
            Some((listener.accept().await.0, seat))
        };
        loop {
            let next = select! {
                next = next(&mut listener) => next,
                () = self.stop.cancelled() => None,
            };
            let Some((io, seat)) = next else { return };
            let via = via(&io);
            let door = Arc::clone(&self);
            match seats.admit(via).and_then(|()| self.clients.admit(via)) {
                Ok(held) => drop(self.tasks.spawn(door.visit(io, via, seats.clone(), (seat, held)))),
                Err(problem) if seats.has_room_for_words() => drop(self.tasks.spawn(door.refuse(io, problem, seat))),
                Err(_) => self.crowd.cut_off(CutOff::Client),
            }
        }
    }

    /// One connection from its first byte to its end.
    async fn visit<I>(self: Arc<Self>, io: I, via: Via, seats: Seats, _place: Place)
    where
        I: Socket + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _here = Visit::new(&self.crowd);
        let mut begun = false;
        let head = select! {
            head = timeout(seats.patience(), doorstep::head(&io, &mut begun)) => head,
            () = self.stop.cancelled() => return,
        };
        match head {
            // Boxed, so that who waits outside does not pay for the room inside.
            Ok(Ok(Head::There)) => match self.tls.clone().filter(|_| via != Via::Unix) {
                None if !doorstep::names_method(&io) => {
                    let why = "the request does not begin with a method, such as GET";
                    self.turn_away(io, Problem::new(StatusCode::BAD_REQUEST, why)).await;
                }
                None => Box::pin(self.serve(io, via, seats)).await,
                Some(tls) => Box::pin(self.secure(io, via, &tls, seats)).await,
            },
            Ok(Ok(Head::TooLarge)) => {
                self.crowd.cut_off(CutOff::LargeHead);
                let why = "the head of the request is larger than 16 KiB";
                self.turn_away(io, Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, why)).await;
            }
            Ok(Ok(Head::Gone) | Err(_)) => {}
            Err(_) => {
                self.crowd.cut_off(CutOff::SlowHead);
                if begun {
                    let why = "the head of the request did not arrive in time";
                    self.turn_away(io, Problem::new(StatusCode::REQUEST_TIMEOUT, why)).await;
                }
            }
        }
    }

    /// A connection over TLS. Its first byte is there.
    async fn secure<I>(self: Arc<Self>, io: I, via: Via, tls: &Tls, seats: Seats)
    where
        I: Socket + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if doorstep::first(&io) != Some(HANDSHAKE) {
            let why = "this port speaks HTTPS; ask again at https://";
            return self.turn_away(io, Problem::new(StatusCode::BAD_REQUEST, why)).await;
        }
        let handshake = select! {
            handshake = timeout(seats.patience(), tls.acceptor().accept(io)) => handshake,
            () = self.stop.cancelled() => return,
        };
        match handshake {
            Ok(Ok(stream)) => self.serve(stream, via, seats).await,
            Ok(Err(why)) => {
                self.crowd.cut_off(CutOff::Handshake);
                tracing::debug!(event = "http_handshake_failed", %why);
            }
            Err(_) => self.crowd.cut_off(CutOff::SlowHead),
        }
    }

    /// A connection too many, of its client's or of all from elsewhere: over TLS it could not hear why.
    async fn refuse(self: Arc<Self>, io: impl AsyncRead + AsyncWrite + Unpin, problem: Problem, _seat: Seat) {
        let _here = Visit::new(&self.crowd);
        self.crowd.cut_off(CutOff::Client);
        if self.tls.is_none() {
            self.turn_away(io, problem).await;
        }
    }

    /// Ends a connection that never reached hyper with a word on why.
    async fn turn_away(&self, io: impl AsyncRead + AsyncWrite + Unpin, problem: Problem) {
        let word = problem.as_last_word();
        self.refused.add(&problem.into_response());
        // Who does not even listen is left. Boxed, as few come to this.
        let _ = Box::pin(timeout(LAST_WORD, doorstep::turn_away(io, &word))).await;
    }

    /// Serves requests on one connection until it ends.
    async fn serve<I>(self: Arc<Self>, io: I, via: Via, seats: Seats)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(|request: Request<Incoming>| self.answer(via, request.map(Body::new)));
        let ear = Arc::<Ear>::default();
        let paced = Paced::new(io, Arc::clone(&self.crowd), Arc::clone(&ear));
        let connection = http1::Builder::new()
            .timer(Patience::new(seats, ear))
            .header_read_timeout(HEAD_DEADLINE)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(paced), answer);
        let mut connection = std::pin::pin!(connection);
        // How a connection broke is the client's affair: there is nobody to tell.
        select! {
            _ = connection.as_mut() => {}
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(GRACE, connection).await;
            }
        }
    }

    /// Answers one request. Who waits for the answer keeps nothing of the request but what its handler does.
    pub(super) fn answer(
        &self,
        via: Via,
        request: Request<Body>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send {
        let coding = Coding::of(request.headers());
        let mut begun = self.begin(via, request, coding);
        async move {
            let response = match &mut begun {
                Begun::Known(response) => mem::take(response),
                Begun::Asked(asked, _) => {
                    let Ok(response) = asked.await;
                    response
                }
            };
            let held = self.budget.hold(coding.encode(response).await).await;
            Ok(held.unwrap_or_else(|spent| self.refusal(spent.into())))
        }
    }

    /// Refuses, repeats, or has a handler asked.
    fn begin(&self, via: Via, mut request: Request<Body>, coding: Coding) -> Begun {
        let passed = self.rate.check(via).inspect_err(|_| self.crowd.cut_off(CutOff::Rate));
        if let Err(problem) = passed.and_then(|()| guard::check(via, &self.hosts, &request)) {
            self.audit.refused(via, None, request.method(), request.uri().path(), problem.kind());
            return Begun::Known(self.refusal(problem));
        }
        request.extensions_mut().insert(via);
        let kept = self.kept.as_ref();
        let again =
            kept.and_then(|(app, count)| consul::again(app, &request, coding).inspect(|again| count.add(again)));
        again.map_or_else(
            || {
                let (request, taken) = self.budget.meter(request);
                Begun::Asked(self.router.clone().oneshot(request), taken)
            },
            Begun::Known,
        )
    }

    fn refusal(&self, problem: Problem) -> Response {
        let response = problem.into_response();
        self.refused.add(&response);
        response
    }
}

/// A request on its way.
enum Begun {
    Known(Response),
    /// A handler is asked, and what its body took of the budget is held until the answer is made.
    Asked(Oneshot<Router, Request<Body>>, #[expect(dead_code, reason = "held, not read")] Taken),
}

/// A connection while it is counted.
struct Visit(Arc<Crowd>);

impl Visit {
    fn new(crowd: &Arc<Crowd>) -> Self {
        crowd.enter();
        Self(Arc::clone(crowd))
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Sets up a TCP connection: small answers leave at once, and a client that takes none is cut off.
pub(super) fn greet(stream: &TcpStream) -> Via {
    // A socket that refuses options is about to fail anyway.
    let _ = stream.set_nodelay(true);
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(SILENCE));
    // Who is gone already asks nothing.
    let [client, ours] = [stream.peer_addr(), stream.local_addr()]
        .map(|address| address.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip()));
    Via::Tcp { client, ours }
}

/// An answer that is given up when it does not begin in time. What waits on purpose goes without.
pub(super) async fn in_time<T: IntoResponse>(answer: impl Future<Output = T>) -> Response {
    match timeout(ANSWER_DEADLINE, answer).await {
        Ok(answer) => answer.into_response(),
        Err(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, LATE).into_response(),
    }
}

/// How long a request's head may take, and how long the first of a connection may be waited for.
pub(super) const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// How long a connection may idle between requests: clients that send heartbeats keep one for them, and some do not look
/// whether it is still there.
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// How long an answer may take until it begins.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// A write that waits for the disk is not taken back.
const LATE: &str = "no answer was ready within 30 s; what was to be written may still be: GET it to see";
/// How long a client may acknowledge nothing of what it was sent.
const SILENCE: Duration = Duration::from_secs(30);
/// How long requests under way may take to end once the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// How long who is turned away may take to hear why.
const LAST_WORD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{response::sse::Sse, routing::get};
    use futures_util::{FutureExt, StreamExt, stream};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        time::Instant,
    };

    /// A door to three small rooms: one answers, one never does, one streams until the stop.
    fn door() -> Arc<Door> {
        let stop = CancellationToken::new();
        let end = stop.clone();
        let endless = move || async move {
            Sse::new(
                stream::pending::<Result<axum::response::sse::Event, Infallible>>().take_until(end.cancelled_owned()),
            )
        };
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/never", get(async || in_time(std::future::pending::<()>()).await))
            .route("/endless", get(endless));
        let crowd = Arc::<Crowd>::default();
        Arc::new(Door {
            router,
            kept: None,
            hosts: Vec::new(),
            clients: Clients::new(0, 0),
            rate: Rate::new(0),
            audit: Arc::default(),
            tls: None,
            refused: Arc::default(),
            budget: Arc::new(Budget::new(Arc::clone(&crowd))),
            crowd,
            stop,
            tasks: TaskTracker::new(),
        })
    }

    /// A connection through the door.
    fn connect(door: &Arc<Door>) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let seats = Seats::new(4);
        let seat = seats.take().now_or_never().unwrap().unwrap();
        let via = Via::Tcp { client: Ipv4Addr::LOCALHOST.into(), ours: Ipv4Addr::LOCALHOST.into() };
        door.tasks.spawn(Arc::clone(door).visit(theirs, via, seats, (seat, None)));
        ours
    }

    /// All that is answered until the connection ends.
    async fn talk(door: &Arc<Door>, request: &str) -> String {
        let mut connection = connect(door);
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_and_an_idle_connection_are_cut_off() {
        let door = door();
        let start = Instant::now();
        assert_eq!(talk(&door, "").await, "");
        let answer = talk(&door, "GET / HTTP/1.1\r\nHost: local").await;
        assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
        let answer = talk(&door, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hello"), "{answer}");
        assert!(start.elapsed() < 2 * HEAD_DEADLINE + IDLE + Duration::from_secs(1), "{:?}", start.elapsed());
        door.tasks.close();
        door.tasks.wait().await;
        assert_eq!((door.crowd.accepted(), door.crowd.held()), (3, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn who_idles_is_waited_for_longer_than_who_has_begun() {
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let mut connection = connect(&door());
        let mut answer = Vec::new();
        for _ in 0..3 {
            tokio::time::sleep(if answer.is_empty() { Duration::ZERO } else { IDLE - HEAD_DEADLINE }).await;
            connection.write_all(REQUEST).await.unwrap();
            answer.clear();
            while !answer.ends_with(b"hello") {
                assert_ne!(connection.read_buf(&mut answer).await.unwrap(), 0, "cut off while it was idle");
            }
        }
        tokio::time::sleep(IDLE - HEAD_DEADLINE).await;
        let start = Instant::now();
        // A byte a second, which never makes a head.
        let trickle = async {
            for byte in REQUEST {
                connection.write_all(&[*byte]).await?;
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok::<_, std::io::Error>(())
        };
        assert!(trickle.await.is_err() && start.elapsed() <= HEAD_DEADLINE + Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_without_end_is_told_so() {
        let request = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(2 * MAX_HEAD));
        let answer = talk(&door(), &request).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        assert!(answer.contains("application/problem+json") && answer.contains("16 KiB"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_handler_is_given_up() {
        let answer = talk(&door(), "GET /never HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_is_refused_at_the_door() {
        let answer = talk(&door(), "GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden"), "{answer}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_streams_and_the_silent_at_once() {
        let door = door();
        let (mut connection, mut silent) = (connect(&door), connect(&door));
        connection.write_all(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 15];
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200 OK");
        let start = Instant::now();
        door.stop.cancel();
        connection.read_to_end(&mut answer).await.unwrap();
        assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        door.tasks.close();
        door.tasks.wait().await;
        assert!(start.elapsed() < GRACE, "{:?}", start.elapsed());
    }
}
