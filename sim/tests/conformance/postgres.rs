//! The same exchange with the stand-in and with PostgreSQL 15: the transcripts must be equal.
//!
//! `postgres.sql` is the body, `postgres.txt` what the real server said.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgwire::messages::extendedquery::{Bind, Describe, Execute, Parse, Sync};
use pgwire::messages::simplequery::Query;
use pgwire::messages::startup::Startup;
use pgwire::messages::{DecodeContext, PgWireBackendMessage as In, PgWireFrontendMessage as Out, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use lychgate_sim::real::servers;

const SAID: &str = include_str!("postgres.txt");
const BODY: &str = include_str!("postgres.sql");

/// A line of the body: who does what.
#[derive(Debug)]
enum Step {
    /// `1: SELECT 1`: the simple protocol.
    Simple(u8, String),
    /// `1> SELECT $1 | int 5`: the extended protocol, with typed parameters.
    Typed(u8, String, Vec<Param>),
    /// `1! UPDATE …`: the same without the `Sync`; the answer is not waited for.
    Unsynced(u8, String, Vec<Param>),
    /// `wait 500`: milliseconds.
    Wait(u64),
    /// `1 leaves`.
    Leave(u8),
}

#[derive(Debug)]
struct Param {
    oid: u32,
    bytes: Option<Bytes>,
}

fn steps() -> Vec<Step> {
    let lines = BODY.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| step(line).unwrap_or_else(|| panic!("not a step: {line}"))).collect()
}

fn step(line: &str) -> Option<Step> {
    if let Some(millis) = line.strip_prefix("wait ") {
        return Some(Step::Wait(millis.parse().ok()?));
    }
    let who = line.get(..1)?.parse().ok()?;
    if &line[1..] == " leaves" {
        return Some(Step::Leave(who));
    }
    let text = line.get(2..)?.trim();
    if &line[1..2] == ":" {
        return Some(Step::Simple(who, text.to_owned()));
    }
    let mut parts = text.split(" | ");
    let sql = parts.next()?.to_owned();
    let params = parts.map(param).collect::<Option<_>>()?;
    Some(if &line[1..2] == "!" { Step::Unsynced(who, sql, params) } else { Step::Typed(who, sql, params) })
}

fn param(text: &str) -> Option<Param> {
    let (kind, value) = text.split_once(' ')?;
    let (oid, bytes) = match kind {
        "int" => (20, value.parse::<i64>().ok()?.to_be_bytes().to_vec()),
        "text" => (25, value.replace("\\0", "\0").into_bytes()),
        "bytea" => (17, value.as_bytes().to_vec()),
        "bool" => (16, vec![u8::from(value == "true")]),
        "null" => return Some(Param { oid: value.parse().ok()?, bytes: None }),
        "raw" => (20, value.as_bytes().to_vec()),
        _ => return None,
    };
    Some(Param { oid, bytes: Some(bytes.into()) })
}

/// A client that understands nothing and writes everything down.
struct Client<S> {
    stream: S,
    received: BytesMut,
    context: DecodeContext,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    async fn start(stream: S) -> Client<S> {
        let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        let mut client = Client { stream, received: BytesMut::new(), context };
        let mut startup = Startup::new();
        startup.parameters =
            BTreeMap::from([("user".into(), "postgres".into()), ("database".into(), "postgres".into())]);
        client.send(&[Out::Startup(startup)]).await;
        client.answers(&mut String::new()).await;
        client
    }

    async fn send(&mut self, messages: &[Out]) {
        let mut bytes = BytesMut::new();
        for message in messages {
            message.encode(&mut bytes).unwrap();
        }
        // A server that has hung up is heard of in its answers.
        let _ = self.stream.write_all(&bytes).await;
        let _ = self.stream.flush().await;
    }

    /// Writes down what comes until the server is ready or gone.
    async fn answers(&mut self, transcript: &mut String) {
        loop {
            match In::decode(&mut self.received, &self.context).unwrap() {
                Some(message) => {
                    note(&message, transcript);
                    if matches!(message, In::ReadyForQuery(_)) {
                        return;
                    }
                }
                None => {
                    if matches!(self.stream.read_buf(&mut self.received).await, Ok(0) | Err(_)) {
                        transcript.push_str("  closed\n");
                        return;
                    }
                }
            }
        }
    }

    async fn typed(&mut self, sql: &str, params: &[Param], sync: bool) {
        let oids = params.iter().map(|param| param.oid).collect();
        let values = params.iter().map(|param| param.bytes.clone()).collect();
        let mut messages = vec![
            Out::Parse(Parse::new(None, sql.to_owned(), oids)),
            Out::Bind(Bind::new(None, None, vec![1; params.len()], values, vec![1])),
            Out::Describe(Describe::new(b'S', None)),
            Out::Execute(Execute::new(None, 0)),
        ];
        if sync {
            messages.push(Out::Sync(Sync::new()));
        }
        self.send(&messages).await;
    }
}

fn note(message: &In, transcript: &mut String) {
    let line = match message {
        In::ParseComplete(_) => "parsed".to_owned(),
        In::BindComplete(_) => "bound".to_owned(),
        In::NoData(_) => "no data".to_owned(),
        In::EmptyQueryResponse(_) => "empty".to_owned(),
        In::ParameterDescription(params) => format!("params {:?}", params.types),
        In::RowDescription(rows) => {
            let field = |field: &pgwire::messages::data::FieldDescription| {
                format!("{}:{}:{}:{}", field.name, field.type_id, field.type_size, field.format_code)
            };
            format!("columns {}", rows.fields.iter().map(field).collect::<Vec<_>>().join(" "))
        }
        In::DataRow(row) => format!("row {}", row.data.escape_ascii()),
        In::CommandComplete(done) => format!("done {}", done.tag),
        In::ReadyForQuery(ready) => format!("ready {:?}", ready.status),
        In::ErrorResponse(error) => format!("error {}", fields(&error.fields)),
        In::NoticeResponse(notice) => format!("notice {}", fields(&notice.fields)),
        _ => return,
    };
    writeln!(transcript, "  {line}").unwrap();
}

/// What programs act on. Details, hints and places in the source are for people.
fn fields(fields: &[(u8, String)]) -> String {
    let told = fields.iter().filter(|(code, _)| b"VCMtcns".contains(code));
    told.map(|(code, value)| format!("{}={value}", *code as char)).collect::<Vec<_>>().join(" ")
}

/// Walks the body. `connect` opens a connection, `wait` lets time pass.
async fn walk<S, C, W>(connect: impl Fn() -> C, wait: impl Fn(Duration) -> W) -> String
where
    S: AsyncRead + AsyncWrite + Unpin,
    C: Future<Output = S>,
    W: Future<Output = ()>,
{
    let mut clients = BTreeMap::new();
    let mut transcript = String::new();
    for step in steps() {
        let who = match step {
            Step::Wait(millis) => {
                wait(Duration::from_millis(millis)).await;
                continue;
            }
            Step::Leave(who) => {
                clients.remove(&who);
                wait(Duration::from_millis(300)).await;
                continue;
            }
            Step::Simple(who, _) | Step::Typed(who, ..) | Step::Unsynced(who, ..) => who,
        };
        if let Entry::Vacant(entry) = clients.entry(who) {
            entry.insert(Client::start(connect().await).await);
        }
        let client = clients.get_mut(&who).unwrap();
        match step {
            Step::Simple(who, sql) => {
                writeln!(transcript, "{who}: {sql}").unwrap();
                client.send(&[Out::Query(Query::new(sql))]).await;
            }
            Step::Typed(who, sql, params) => {
                writeln!(transcript, "{who}> {sql}").unwrap();
                client.typed(&sql, &params, true).await;
            }
            Step::Unsynced(_, sql, params) => {
                client.typed(&sql, &params, false).await;
                wait(Duration::from_millis(300)).await;
                continue;
            }
            Step::Wait(_) | Step::Leave(_) => unreachable!(),
        }
        client.answers(&mut transcript).await;
    }
    transcript
}

/// Fails with the differences.
fn compare(real: &str, fake: &str) {
    assert!(real == fake, "PostgreSQL (-) and the stand-in (+) differ:\n{}", diffy::create_patch(real, fake));
}

#[cfg(madsim)]
#[test]
fn the_stand_in_says_what_postgres_said() {
    use lychgate_sim::standins::observation::untapped;
    use lychgate_sim::standins::postgres::Postgres;

    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    let node = runtime.create_node().ip("10.0.0.1".parse().unwrap()).build();
    let client = runtime.create_node().ip("10.0.0.2".parse().unwrap()).build();
    let said = runtime.block_on(async move {
        node.spawn(async {
            let listener = tokio::net::TcpListener::bind("10.0.0.1:5432").await.unwrap();
            Postgres::new().serve(listener, untapped()).await;
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        let connect = || async { tokio::net::TcpStream::connect("10.0.0.1:5432").await.unwrap() };
        client.spawn(walk(connect, tokio::time::sleep)).await.unwrap()
    });
    compare(SAID, &said);
}

/// A socket of the operating system as an asynchronous stream: it blocks, which one client at a time may.
struct Blocking(std::net::TcpStream);

impl AsyncRead for Blocking {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 4096];
        let room = buf.remaining().min(bytes.len());
        let count = self.0.read(&mut bytes[..room])?;
        buf.put_slice(&bytes[..count]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Blocking {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.write(bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[test]
#[ignore = "needs postgres; `cargo sim conformance` runs it"]
fn postgres_still_says_it() {
    let server = servers::postgres::start();
    let connect = || async { Blocking(std::net::TcpStream::connect(server.addr).unwrap()) };
    let wait = |time| async move { std::thread::sleep(time) };
    let mut walking = pin!(walk(connect, wait));
    let Poll::Ready(said) = walking.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("a blocking stream is always ready")
    };
    if crate::records() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/postgres.txt"), &said).unwrap();
    } else {
        compare(&said, SAID);
    }
}
