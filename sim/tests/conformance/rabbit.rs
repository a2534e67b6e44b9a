//! The stand-in and RabbitMQ 3.10 answer the same methods with the same frames. `rabbit.txt` holds both.
//!
//! A line `1.2> basic.ack 3` is a method on channel 2 of connection 1, which open when they are first named; the lines
//! `1.2< …` below it are what each channel got of it. `1> cut` drops a connection. Frames of one channel keep their order;
//! the time in a death is written as `now`, which it must be.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, ProtocolVersion, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, confirm, connection, exchange, queue};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
use bytes::{Buf, BytesMut};
use lychgate_sim::standins::observation::untapped;
use lychgate_sim::standins::rabbit::{Rabbit, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

const SAID: &str = include_str!("rabbit.txt");
/// What RabbitMQ has not sent within this it does not send. A quorum queue writes to disk before it answers.
#[cfg(not(madsim))]
const REAL_MOMENT: Duration = Duration::from_millis(120);
/// The stand-in writes nothing; in the simulation a packet takes its time, which costs none.
const MOMENT: Duration = Duration::from_millis(if cfg!(madsim) { 50 } else { 8 });
/// What the transcript has, or an answer that is owed, comes within this.
const PATIENCE: Duration = Duration::from_secs(5);

struct Client {
    stream: TcpStream,
    inbox: BytesMut,
    open: BTreeSet<u16>,
    /// A delivery or a return whose header and body are still coming.
    coming: BTreeMap<u16, (String, u64, Vec<u8>)>,
}

impl Client {
    async fn new(addr: SocketAddr) -> Client {
        let stream = TcpStream::connect(addr).await.expect("it listens");
        let mut client = Client { stream, inbox: BytesMut::new(), open: BTreeSet::new(), coming: BTreeMap::new() };
        client.send(&[AMQPFrame::ProtocolHeader(ProtocolVersion::amqp_0_9_1())]).await;
        client.owed().await;
        let mut capabilities = FieldTable::default();
        for name in ["basic.nack", "consumer_cancel_notify", "publisher_confirms"] {
            capabilities.insert(name.into(), AMQPValue::Boolean(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("capabilities".into(), AMQPValue::FieldTable(capabilities));
        let (mechanism, response) = ("PLAIN".into(), LongString::from("\0guest\0guest"));
        let start_ok =
            connection::StartOk { client_properties: properties, mechanism, response, locale: "en_US".into() };
        client.tell(0, AMQPClass::Connection(connection::AMQPMethod::StartOk(start_ok))).await;
        client.owed().await;
        let tune_ok = connection::TuneOk { channel_max: 100, frame_max: 131_072, heartbeat: 0 };
        client.tell(0, AMQPClass::Connection(connection::AMQPMethod::TuneOk(tune_ok))).await;
        let open = connection::Open { virtual_host: "/".into() };
        client.tell(0, AMQPClass::Connection(connection::AMQPMethod::Open(open))).await;
        client.owed().await;
        client
    }

    async fn send(&mut self, frames: &[AMQPFrame]) {
        let mut bytes = Vec::new();
        for frame in frames {
            bytes = gen_frame(frame)(WriteContext::from(bytes)).expect("a frame").into_inner().0;
        }
        // A server that has hung up is heard of in its answers.
        let _ = self.stream.write_all(&bytes).await;
        let _ = self.stream.flush().await;
    }

    async fn tell(&mut self, channel: u16, method: AMQPClass) {
        self.send(&[AMQPFrame::Method(channel, method)]).await;
    }

    /// The next frame; `None` if there is none within `time`. The end of the stream counts as a frame.
    async fn frame(&mut self, time: Duration) -> Option<Result<AMQPFrame, ()>> {
        loop {
            if let Ok((rest, frame)) = parse_frame(&self.inbox[..]) {
                let whole = self.inbox.len() - rest.len();
                self.inbox.advance(whole);
                return Some(Ok(frame));
            }
            match timeout(time, self.stream.read_buf(&mut self.inbox)).await {
                Err(_) => return None,
                Ok(Ok(1..)) => {}
                Ok(_) => return Some(Err(())),
            }
        }
    }

    async fn owed(&mut self) -> AMQPFrame {
        self.frame(PATIENCE).await.expect("an answer in time").expect("the server hangs up on nobody")
    }

    /// Reads until nothing has come for a moment. Returns whether the connection goes on; `heard` is by channel.
    async fn hear(&mut self, moment: Duration, heard: &mut BTreeMap<u16, Vec<String>>) -> bool {
        while let Some(frame) = self.frame(moment).await {
            let Ok(frame) = frame else {
                heard.entry(0).or_default().push("closed".into());
                return false;
            };
            let id = frame.channel_id();
            match &frame {
                AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::Close(_))) => {
                    self.open.remove(&id);
                    let ok = channel::AMQPMethod::CloseOk(channel::CloseOk {});
                    self.tell(id, AMQPClass::Channel(ok)).await;
                }
                AMQPFrame::Method(_, AMQPClass::Channel(channel::AMQPMethod::CloseOk(_))) => {
                    self.open.remove(&id);
                }
                AMQPFrame::Method(_, AMQPClass::Connection(connection::AMQPMethod::Close(_))) => {
                    let ok = connection::AMQPMethod::CloseOk(connection::CloseOk {});
                    self.tell(0, AMQPClass::Connection(ok)).await;
                }
                _ => {}
            }
            if let Some(line) = self.written(frame) {
                heard.entry(id).or_default().push(line);
            }
        }
        true
    }

    /// A frame as it is written down; a message once it is whole.
    fn written(&mut self, frame: AMQPFrame) -> Option<String> {
        let id = frame.channel_id();
        let (line, left) = match frame {
            AMQPFrame::Method(_, method) => {
                let (line, carries) = method_line(&method);
                if carries {
                    self.coming.insert(id, (line, 0, Vec::new()));
                    return None;
                }
                return Some(line);
            }
            AMQPFrame::Header(_, header) => {
                let (line, left, _) = self.coming.get_mut(&id).expect("a header of something");
                *left = header.body_size;
                line.push_str(&properties_line(&header.properties));
                (line.clone(), *left)
            }
            AMQPFrame::Body(_, piece) => {
                let (line, left, body) = self.coming.get_mut(&id).expect("a body of something");
                body.extend_from_slice(&piece);
                (format!("{line} {:?}", String::from_utf8_lossy(body)), *left - body.len() as u64)
            }
            AMQPFrame::Heartbeat => return None,
            other => panic!("what is {other:?}?"),
        };
        if left > 0 {
            return None;
        }
        self.coming.remove(&id);
        Some(line)
    }
}

/// A method of the server, and whether a message follows.
fn method_line(method: &AMQPClass) -> (String, bool) {
    let again = |redelivered: bool| if redelivered { " again" } else { "" };
    match method {
        AMQPClass::Basic(basic::AMQPMethod::Deliver(deliver)) => {
            let basic::Deliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } = deliver;
            let again = again(*redelivered);
            (
                format!(
                    "basic.deliver {consumer_tag} {delivery_tag}{again} {:?} {:?}",
                    exchange.as_str(),
                    routing_key.as_str()
                ),
                true,
            )
        }
        AMQPClass::Basic(basic::AMQPMethod::Return(returned)) => (format!("{returned:?}"), true),
        AMQPClass::Basic(basic::AMQPMethod::Ack(ack)) => (format!("basic.ack {}", ack.delivery_tag), false),
        AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel)) => (format!("basic.cancel {}", cancel.consumer_tag), false),
        AMQPClass::Queue(queue::AMQPMethod::DeclareOk(ok)) => {
            let (messages, consumers) = (ok.message_count, ok.consumer_count);
            (format!("queue.declare-ok {messages} messages {consumers} consumers"), false)
        }
        AMQPClass::Queue(queue::AMQPMethod::PurgeOk(ok)) => (format!("queue.purge-ok {}", ok.message_count), false),
        AMQPClass::Queue(queue::AMQPMethod::DeleteOk(ok)) => (format!("queue.delete-ok {}", ok.message_count), false),
        AMQPClass::Channel(channel::AMQPMethod::Close(close)) => {
            let (class, method) = (close.class_id, close.method_id);
            (format!("channel.close {} ({class}.{method}) {}", close.reply_code, close.reply_text), false)
        }
        AMQPClass::Connection(connection::AMQPMethod::Close(close)) => {
            let (class, method) = (close.class_id, close.method_id);
            (format!("connection.close {} ({class}.{method}) {}", close.reply_code, close.reply_text), false)
        }
        AMQPClass::Basic(basic::AMQPMethod::QosOk(_)) => ("basic.qos-ok".into(), false),
        AMQPClass::Basic(basic::AMQPMethod::ConsumeOk(ok)) => (format!("basic.consume-ok {}", ok.consumer_tag), false),
        AMQPClass::Basic(basic::AMQPMethod::CancelOk(ok)) => (format!("basic.cancel-ok {}", ok.consumer_tag), false),
        AMQPClass::Channel(channel::AMQPMethod::CloseOk(_)) => ("channel.close-ok".into(), false),
        AMQPClass::Confirm(confirm::AMQPMethod::SelectOk(_)) => ("confirm.select-ok".into(), false),
        AMQPClass::Exchange(exchange::AMQPMethod::DeclareOk(_)) => ("exchange.declare-ok".into(), false),
        AMQPClass::Queue(queue::AMQPMethod::BindOk(_)) => ("queue.bind-ok".into(), false),
        other => panic!("what is {other:?}?"),
    }
}

fn properties_line(properties: &BasicProperties) -> String {
    let mut line = String::new();
    if *properties.delivery_mode() == Some(2) {
        line.push_str(" persistent");
    }
    if let Some(headers) = properties.headers() {
        write!(line, " {}", value_line(&AMQPValue::FieldTable(headers.clone()))).expect("a string takes everything");
    }
    line
}

fn value_line(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => format!("{:?}", String::from_utf8_lossy(text.as_bytes())),
        AMQPValue::LongLongInt(number) => format!("{number}l"),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::Timestamp(at) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
            if now.abs_diff(*at) < 600 { "now".into() } else { format!("at {at}") }
        }
        AMQPValue::FieldArray(array) => {
            format!("[{}]", array.as_slice().iter().map(value_line).collect::<Vec<_>>().join(", "))
        }
        AMQPValue::FieldTable(table) => {
            let fields = table.inner().iter().map(|(name, value)| format!("{name}={}", value_line(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(" "))
        }
        other => format!("{other:?}"),
    }
}

/// What the words after a method say: flags and fields.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Words<'a> {
        Words(line.split(' ').map(|word| if word == "\"\"" { "" } else { word }).collect())
    }

    /// The next one.
    fn word(&mut self) -> &'a str {
        self.0.remove(0)
    }

    fn number(&mut self) -> u64 {
        self.word().parse().expect("a number")
    }

    fn flag(&self, name: &str) -> bool {
        self.0.contains(&name)
    }

    /// `name=value` each: `2` is a 32-bit number, `2l` one of 64 bits, the rest is text.
    fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in self.0.iter().filter_map(|word| word.split_once('=')) {
            let long = value.strip_suffix('l').and_then(|number| number.parse().ok()).map(AMQPValue::LongLongInt);
            let value = long
                .or_else(|| value.parse().ok().map(AMQPValue::LongInt))
                .unwrap_or_else(|| AMQPValue::LongString(value.into()));
            table.insert(name.into(), value);
        }
        table
    }
}

fn short(text: &str) -> ShortString {
    ShortString::from(text)
}

/// The frames of a line, and whether an answer is owed.
fn frames(id: u16, line: &str) -> (Vec<AMQPFrame>, bool) {
    let mut words = Words::of(line);
    let method = match words.word() {
        "queue.declare" => AMQPClass::Queue(queue::AMQPMethod::Declare(queue::Declare {
            queue: short(words.word()),
            passive: words.flag("passive"),
            durable: words.flag("durable"),
            exclusive: words.flag("exclusive"),
            auto_delete: words.flag("auto-delete"),
            nowait: false,
            arguments: words.table(),
        })),
        "queue.bind" => {
            let (queue, exchange, routing_key) = (words.word(), words.word(), words.word());
            let (queue, exchange, routing_key) = (short(queue), short(exchange), short(routing_key));
            let bind = queue::Bind { queue, exchange, routing_key, nowait: false, arguments: FieldTable::default() };
            AMQPClass::Queue(queue::AMQPMethod::Bind(bind))
        }
        "queue.purge" => {
            AMQPClass::Queue(queue::AMQPMethod::Purge(queue::Purge { queue: short(words.word()), nowait: false }))
        }
        "queue.delete" => AMQPClass::Queue(queue::AMQPMethod::Delete(queue::Delete {
            queue: short(words.word()),
            if_unused: words.flag("if-unused"),
            if_empty: words.flag("if-empty"),
            nowait: false,
        })),
        "exchange.declare" => AMQPClass::Exchange(exchange::AMQPMethod::Declare(exchange::Declare {
            exchange: short(words.word()),
            kind: short(words.word()),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
            arguments: FieldTable::default(),
        })),
        "confirm.select" => AMQPClass::Confirm(confirm::AMQPMethod::Select(confirm::Select { nowait: false })),
        "basic.qos" => {
            let qos = basic::Qos { prefetch_count: words.number() as u16, global: words.flag("global") };
            AMQPClass::Basic(basic::AMQPMethod::Qos(qos))
        }
        "basic.consume" => {
            let (queue, consumer_tag) = (short(words.word()), short(words.word()));
            AMQPClass::Basic(basic::AMQPMethod::Consume(basic::Consume {
                queue,
                consumer_tag,
                no_local: false,
                no_ack: false,
                exclusive: false,
                nowait: false,
                arguments: FieldTable::default(),
            }))
        }
        "basic.cancel" => {
            let cancel = basic::Cancel { consumer_tag: short(words.word()), nowait: false };
            AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))
        }
        "channel.close" => {
            let close = channel::Close { reply_code: 200, reply_text: short("bye"), class_id: 0, method_id: 0 };
            AMQPClass::Channel(channel::AMQPMethod::Close(close))
        }
        settling => return (said(id, settling, words), false),
    };
    (vec![AMQPFrame::Method(id, method)], true)
}

/// What is not answered.
fn said(id: u16, method: &str, mut words: Words<'_>) -> Vec<AMQPFrame> {
    let (multiple, requeue) = (words.flag("multiple"), !words.flag("drop"));
    let method = match method {
        "basic.ack" => basic::AMQPMethod::Ack(basic::Ack { delivery_tag: words.number(), multiple }),
        "basic.nack" => basic::AMQPMethod::Nack(basic::Nack { delivery_tag: words.number(), multiple, requeue }),
        "basic.reject" => basic::AMQPMethod::Reject(basic::Reject { delivery_tag: words.number(), requeue }),
        "basic.publish" => {
            let (exchange, routing_key, body) = (words.word(), words.word(), words.word());
            let (exchange, routing_key) = (short(exchange), short(routing_key));
            let publish = basic::Publish { exchange, routing_key, mandatory: false, immediate: false };
            let mut properties = BasicProperties::default();
            if !words.flag("transient") {
                properties = properties.with_delivery_mode(2);
            }
            let headers = words.table();
            if !headers.inner().is_empty() {
                properties = properties.with_headers(headers);
            }
            let header = AMQPContentHeader { class_id: 60, body_size: body.len() as u64, properties };
            let method = AMQPClass::Basic(basic::AMQPMethod::Publish(publish));
            let body = AMQPFrame::Body(id, body.as_bytes().to_vec());
            return vec![AMQPFrame::Method(id, method), AMQPFrame::Header(id, header), body];
        }
        other => panic!("no method: {other}"),
    };
    vec![AMQPFrame::Method(id, AMQPClass::Basic(method))]
}

/// The transcript with this server's answers in it.
async fn walk(addr: SocketAddr, moment: Duration) -> String {
    let mut clients = BTreeMap::<u16, Client>::new();
    let mut out = String::new();
    let mut lines = SAID.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            writeln!(out, "{line}").expect("a string takes everything");
            continue;
        }
        let (who, what) = line.split_once("> ").expect("a method");
        writeln!(out, "{line}").expect("a string takes everything");
        let (number, id) = who.split_once('.').unwrap_or((who, "0"));
        let (number, id): (u16, u16) = (number.parse().expect("a connection"), id.parse().expect("a channel"));
        let mut owed = 0;
        while lines.next_if(|line| is_answer(line)).is_some() {
            owed += 1;
        }
        if what == "cut" {
            clients.remove(&number).expect("it is connected");
        } else {
            let client = match clients.entry(number) {
                Entry::Occupied(client) => client.into_mut(),
                Entry::Vacant(place) => place.insert(Client::new(addr).await),
            };
            if client.open.insert(id) {
                client.tell(id, AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))).await;
                client.owed().await;
            }
            let (frames, answered) = frames(id, what);
            client.send(&frames).await;
            owed = owed.max(answered.into());
        }
        listen(&mut clients, &mut out, owed, moment).await;
    }
    out
}

/// `1.2< …`
fn is_answer(line: &str) -> bool {
    line.split_once("< ").is_some_and(|(who, _)| who.split_once('.').is_some_and(|(who, _)| who.parse::<u16>().is_ok()))
}

/// Writes down what every connection gets until nothing comes for a moment, and at least so much if it comes at all.
async fn listen(clients: &mut BTreeMap<u16, Client>, out: &mut String, owed: usize, moment: Duration) {
    let until = Instant::now() + PATIENCE;
    let mut lines = BTreeMap::<_, BTreeMap<_, Vec<_>>>::new();
    loop {
        let mut ended = Vec::new();
        for (number, client) in &mut *clients {
            if !client.hear(moment, lines.entry(*number).or_default()).await {
                ended.push(*number);
            }
        }
        clients.retain(|number, _| !ended.contains(number));
        let count: usize = lines.values().flat_map(BTreeMap::values).map(Vec::len).sum();
        if count >= owed || Instant::now() > until {
            break;
        }
    }
    for (number, channels) in lines {
        for (id, said) in channels {
            for line in said {
                writeln!(out, "{number}.{id}< {line}").expect("a string takes everything");
            }
        }
    }
}

/// Fails with the differences.
fn compare(real: &str, fake: &str) {
    assert!(real == fake, "RabbitMQ (-) and the stand-in (+) differ:\n{}", diffy::create_patch(real, fake));
}

#[cfg(madsim)]
fn stand_in() -> String {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(1, madsim::Config::default());
    let node = |ip: &str| runtime.create_node().ip(ip.parse().expect("an address")).build();
    let (server, client) = (node("10.0.0.1"), node("10.0.0.2"));
    let addr: SocketAddr = "10.0.0.1:5672".parse().expect("a place");
    runtime.block_on(async move {
        server.spawn(async move {
            let listener = TcpListener::bind(addr).await.expect("it is free");
            Rabbit::new(Settings::default()).serve(listener, untapped()).await;
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.spawn(walk(addr, MOMENT)).await.expect("the walk ends")
    })
}

#[cfg(not(madsim))]
fn stand_in() -> String {
    on_loopback(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is free");
        let addr = listener.local_addr().expect("it is bound");
        tokio::spawn(Rabbit::new(Settings::default()).serve(listener, untapped()));
        walk(addr, MOMENT).await
    })
}

#[cfg(not(madsim))]
fn on_loopback<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(body)
}

#[test]
fn the_stand_in_says_what_rabbitmq_said() {
    compare(SAID, &stand_in());
}

#[cfg(not(madsim))]
#[test]
#[ignore = "needs rabbitmq-server; `cargo sim conformance` runs it"]
fn rabbitmq_still_says_it() {
    let server = lychgate_sim::real::servers::rabbit::start();
    let said = on_loopback(walk(server.addr, REAL_MOMENT));
    if crate::records() {
        std::fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/conformance/rabbit.txt"), &said)
            .expect("the transcript can be written");
    } else {
        compare(&said, SAID);
    }
}
