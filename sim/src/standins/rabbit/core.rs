//! The broker without I/O: frames in, effects out. Connections here, channels in `channel`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use amq_protocol::frame::AMQPFrame;
use amq_protocol::protocol::{AMQPClass, BasicProperties, basic, channel, connection};
use amq_protocol::types::{AMQPValue, FieldTable, LongString, ShortString};
use bytes::Bytes;
use tokio::time::Instant;

use super::Settings;
use super::channel::Channel;
use super::faults::{FULL, PURGE};
use super::observation::Broker;
use super::queue::Subscriber;
use super::settle::Unacked;
use super::store::{Message, Store};
use super::wire::content;
use crate::plan::FaultRow;
use crate::standins::observation::{FaultObserved, NOBODY};

/// What the core wants done, in order.
#[derive(Debug)]
pub(super) enum Effect {
    /// Show this.
    Saw(Broker),
    /// Show that this was answered otherwise than by a healthy broker.
    FaultObserved(FaultObserved),
    /// Send a frame to a connection.
    Send(u64, AMQPFrame),
    /// Heartbeats of a connection begin.
    Heartbeat(u64, Duration),
    /// Let go of a connection after what was sent.
    Hangup(u64),
}

/// What the core wants done, and what time it is.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) now: Instant,
    /// Seconds since 1970.
    pub(super) epoch: u64,
    pub(super) list: Vec<Effect>,
}

impl Effects {
    pub(super) fn new(now: Instant) -> Self {
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Effects { now, epoch, list: Vec::new() }
    }

    pub(super) fn saw(&mut self, broker: Broker) {
        self.list.push(Effect::Saw(broker));
    }

    pub(super) fn suffer(&mut self, peer: SocketAddr, fault: &FaultRow, body: &[u8]) {
        let suffered = FaultObserved { peer, service: "rabbitmq", ailment: fault.word(), request: body.to_vec() };
        self.list.push(Effect::FaultObserved(suffered));
    }

    pub(super) fn send(&mut self, connection: u64, channel: u16, method: AMQPClass) {
        self.list.push(Effect::Send(connection, AMQPFrame::Method(channel, method)));
    }
}

/// Why a request is refused, in AMQP's reply codes.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) text: String,
}

impl Refusal {
    pub(super) fn new(code: u16, text: String) -> Self {
        Refusal { code, text }
    }

    /// Whether the error costs the connection, not only the channel: AMQP's own classes of reply codes.
    pub(super) fn is_hard(&self) -> bool {
        matches!(self.code, 320 | 402 | 501..=505 | 530 | 540 | 541)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Header,
    StartOk,
    TuneOk,
    Open,
    Running,
    /// We closed: only close-ok counts.
    Closing,
}

/// A connection. None of it outlives a restart.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    stage: Stage,
    /// The client understands that a consumer is cancelled.
    pub(super) cancel_notify: bool,
    blocked_notify: bool,
    pub(super) frame_max: u32,
    pub(super) channels: BTreeMap<u16, Channel>,
    /// The frames that came after a publish while the broker was blocked.
    held: Option<VecDeque<AMQPFrame>>,
}

/// What somebody else publishes.
pub(super) const FOREIGN_BODY: &[u8] = b"{\"order\": 17}";

/// The broker.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) settings: Settings,
    /// Outlives a restart as far as [`Store::restart`] says.
    pub(super) store: Store,
    /// Gone with a restart.
    pub(super) peers: BTreeMap<u64, Peer>,
    /// Gone with a restart.
    blocked: Option<String>,
    /// The broker was shut down in order.
    stopped: bool,
    connected: u64,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        Core { settings, store: Store::default(), peers: BTreeMap::new(), blocked: None, stopped: false, connected: 0 }
    }

    /// A new life: what was unacknowledged is back, what was not durable is gone. After a crash RabbitMQ does not know
    /// what it had delivered, and marks everything.
    pub(super) fn boot(&mut self, out: &mut Effects) {
        let mut dead = Vec::new();
        for connection in self.peers.keys().copied().collect::<Vec<_>>() {
            let left = self.take_unacked(connection);
            dead.extend(self.take_back(left, out).1);
        }
        self.peers.clear();
        self.blocked = None;
        self.store.restart(std::mem::take(&mut self.stopped));
        self.reap(dead, out);
    }

    /// A client connected.
    pub(super) fn connect(&mut self, addr: SocketAddr) -> u64 {
        self.connected += 1;
        let peer = Peer {
            addr,
            stage: Stage::Header,
            cancel_notify: false,
            blocked_notify: false,
            frame_max: self.settings.frame_max,
            channels: BTreeMap::new(),
            held: None,
        };
        self.peers.insert(self.connected, peer);
        self.connected
    }

    /// A frame of a client. Those of connections that are gone do not count.
    pub(super) fn frame(&mut self, connection: u64, frame: AMQPFrame, out: &mut Effects) {
        let Some(peer) = self.peers.get_mut(&connection) else { return };
        let publish = matches!(frame, AMQPFrame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Publish(_))));
        if publish
            && peer.held.is_none()
            && let Some(reason) = &self.blocked
        {
            // RabbitMQ tells only those who publish, and reads nothing more from them.
            peer.held = Some(VecDeque::new());
            if peer.blocked_notify {
                let blocked = connection::Blocked { reason: short(reason) };
                out.send(connection, 0, AMQPClass::Connection(connection::AMQPMethod::Blocked(blocked)));
            }
        }
        if let Some(held) = &mut peer.held {
            if let AMQPFrame::Body(_, body) = &frame {
                out.suffer(peer.addr, &FULL, body);
            }
            held.push_back(frame);
            return;
        }
        match (peer.stage, frame) {
            (Stage::Closing, AMQPFrame::Method(0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(_)))) => {
                self.gone(connection, out);
                out.list.push(Effect::Hangup(connection));
            }
            (Stage::Closing, _) | (_, AMQPFrame::Heartbeat) => {}
            (Stage::Header, AMQPFrame::ProtocolHeader(_)) => self.start(connection, out),
            (_, AMQPFrame::Method(0, AMQPClass::Connection(method))) => self.connection(connection, method, out),
            (Stage::Running, AMQPFrame::Method(id, method)) if id != 0 => self.method(connection, id, method, out),
            (Stage::Running, AMQPFrame::Header(id, header)) => self.content_header(connection, id, header, out),
            (Stage::Running, AMQPFrame::Body(id, piece)) => self.content_body(connection, id, &piece, out),
            (stage, other) => panic!("RabbitMQ stand-in: {} sent {other:?} in stage {stage:?}", peer.addr),
        }
    }

    /// The connection of a client broke.
    pub(super) fn lost(&mut self, connection: u64, out: &mut Effects) {
        self.gone(connection, out);
    }

    pub(super) fn block(&mut self, reason: &str) {
        self.blocked = Some(reason.to_owned());
    }

    pub(super) fn unblock(&mut self, out: &mut Effects) {
        self.blocked = None;
        for connection in self.peers.keys().copied().collect::<Vec<_>>() {
            let Some(peer) = self.peers.get_mut(&connection) else { continue };
            let Some(held) = peer.held.take() else { continue };
            if peer.blocked_notify {
                let unblocked = connection::AMQPMethod::Unblocked(connection::Unblocked {});
                out.send(connection, 0, AMQPClass::Connection(unblocked));
            }
            for frame in held {
                self.frame(connection, frame, out);
            }
        }
    }

    pub(super) fn delete_queue(&mut self, name: &str, out: &mut Effects) {
        assert!(self.store.queues.contains_key(name), "RabbitMQ stand-in: there is no queue {name} to delete");
        self.drop_queue(name, out);
    }

    pub(super) fn purge_queue(&mut self, name: &str) {
        match self.store.queues.get_mut(name) {
            Some(queue) => queue.ready.clear(),
            None => panic!("RabbitMQ stand-in: there is no queue {name} to purge"),
        }
    }

    /// What is ready in any queue is gone.
    pub(super) fn purge_all(&mut self, out: &mut Effects) {
        for queue in self.store.queues.values_mut() {
            for entry in std::mem::take(&mut queue.ready).into_values() {
                out.suffer(NOBODY, &PURGE, &entry.message.body);
            }
        }
    }

    /// Each queue gets a message that another program has published.
    pub(super) fn put_foreign(&mut self, out: &mut Effects) {
        for queue in self.store.queues.keys().cloned().collect::<Vec<_>>() {
            let (exchange, properties) = (String::new(), BasicProperties::default());
            let body = Bytes::from_static(FOREIGN_BODY);
            self.store.push(&queue, Arc::new(Message { exchange, routing_key: queue.clone(), properties, body }));
            self.deliver(&queue, out);
        }
    }

    pub(super) fn shut_down(&mut self, out: &mut Effects) {
        self.stopped = true;
        for connection in self.peers.keys().copied().collect::<Vec<_>>() {
            let text = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'".to_owned();
            self.close_connection(connection, Refusal::new(320, text), (0, 0), out);
        }
    }

    pub(super) fn ready(&self, queue: &str) -> Option<usize> {
        self.store.queues.get(queue).map(|queue| queue.ready.len())
    }

    pub(super) fn unacked(&self) -> usize {
        self.peers.values().flat_map(|peer| peer.channels.values()).map(|channel| channel.unacked.len()).sum()
    }

    pub(super) fn connections(&self) -> usize {
        self.peers.len()
    }

    /// A message for a client.
    pub(super) fn send_content(
        &self,
        connection: u64,
        id: u16,
        method: basic::AMQPMethod,
        properties: &BasicProperties,
        body: &[u8],
        out: &mut Effects,
    ) {
        let frame_max = self.peers[&connection].frame_max;
        out.send(connection, id, AMQPClass::Basic(method));
        for frame in content(id, properties, body, frame_max) {
            out.list.push(Effect::Send(connection, frame));
        }
    }

    /// A connection is over: what it had goes back, what was its own is deleted.
    fn gone(&mut self, connection: u64, out: &mut Effects) {
        let unacked = self.take_unacked(connection);
        let Some(peer) = self.peers.remove(&connection) else { return };
        let mut touched = self.depart(|subscriber| subscriber.connection == connection, out);
        let (from, dead) = self.take_back(unacked, out);
        touched.extend(from);
        drop(peer);
        let own = |exclusive: Option<u64>| exclusive == Some(connection);
        let owned: Vec<String> =
            self.store.queues.iter().filter(|(_, queue)| own(queue.exclusive)).map(|(name, _)| name.clone()).collect();
        for name in owned {
            self.drop_queue(&name, out);
        }
        for queue in touched {
            self.deliver(&queue, out);
        }
        self.reap(dead, out);
    }

    /// Takes consumers off their queues because their channels end, as [`Core::leave`] does.
    pub(super) fn depart(&mut self, who: impl Fn(&Subscriber) -> bool, out: &mut Effects) -> BTreeSet<String> {
        for queue in self.store.queues.values_mut() {
            queue.waiting.retain(|subscriber| !who(subscriber));
        }
        self.leave(who, out)
    }

    /// Takes consumers off their queues; queues that go with their last consumer go. Returns the queues touched.
    pub(super) fn leave(&mut self, who: impl Fn(&Subscriber) -> bool, out: &mut Effects) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let mut abandoned = Vec::new();
        for (name, queue) in &mut self.store.queues {
            let before = queue.consumers.len();
            queue.consumers.retain(|subscriber| !who(subscriber));
            if queue.consumers.len() < before {
                touched.insert(name.clone());
                if queue.consumers.is_empty() && queue.auto_delete {
                    abandoned.push(name.clone());
                }
            }
        }
        for name in abandoned {
            self.drop_queue(&name, out);
        }
        touched
    }

    fn take_unacked(&mut self, connection: u64) -> Vec<(SocketAddr, Unacked)> {
        let Some(peer) = self.peers.get_mut(&connection) else { return Vec::new() };
        let addr = peer.addr;
        let taken = peer.channels.values_mut().flat_map(|channel| std::mem::take(&mut channel.unacked).into_values());
        taken.map(|unacked| (addr, unacked)).collect()
    }

    fn start(&mut self, connection: u64, out: &mut Effects) {
        let mut capabilities = FieldTable::default();
        for name in [
            "authentication_failure_close",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
            "per_consumer_qos",
            "publisher_confirms",
        ] {
            capabilities.insert(short(name), AMQPValue::Boolean(true));
        }
        let mut properties = FieldTable::default();
        properties.insert(short("capabilities"), AMQPValue::FieldTable(capabilities));
        properties.insert(short("product"), AMQPValue::LongString(LongString::from("RabbitMQ")));
        properties.insert(short("version"), AMQPValue::LongString(LongString::from(self.settings.version.number())));
        let start = connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: properties,
            mechanisms: LongString::from("AMQPLAIN PLAIN"),
            locales: LongString::from("en_US"),
        };
        out.send(connection, 0, AMQPClass::Connection(connection::AMQPMethod::Start(start)));
        self.at(connection, Stage::StartOk);
    }

    fn connection(&mut self, id: u64, method: connection::AMQPMethod, out: &mut Effects) {
        let peer = &self.peers[&id];
        match (peer.stage, method) {
            (Stage::StartOk, connection::AMQPMethod::StartOk(start_ok)) => self.start_ok(id, &start_ok, out),
            (Stage::TuneOk, connection::AMQPMethod::TuneOk(tune_ok)) => self.tune_ok(id, &tune_ok, out),
            (Stage::Open, connection::AMQPMethod::Open(open)) => self.open(id, open.virtual_host.as_str(), out),
            (_, connection::AMQPMethod::Close(_)) => {
                self.gone(id, out);
                out.send(id, 0, AMQPClass::Connection(connection::AMQPMethod::CloseOk(connection::CloseOk {})));
                out.list.push(Effect::Hangup(id));
            }
            (stage, other) => panic!("RabbitMQ stand-in: {} sent {other:?} in stage {stage:?}", peer.addr),
        }
    }

    fn start_ok(&mut self, id: u64, start_ok: &connection::StartOk, out: &mut Effects) {
        assert_eq!(start_ok.mechanism.as_str(), "PLAIN", "RabbitMQ stand-in: only PLAIN is known here");
        let capable = |name: &str| match start_ok.client_properties.inner().get("capabilities") {
            Some(AMQPValue::FieldTable(table)) => table.inner().get(name) == Some(&AMQPValue::Boolean(true)),
            _ => false,
        };
        let expected = format!("\0{}\0{}", self.settings.user, self.settings.password);
        if start_ok.response.as_bytes() != expected.as_bytes() {
            if capable("authentication_failure_close") {
                let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. For details see \
                            the broker logfile.";
                self.close_connection(id, Refusal::new(403, text.to_owned()), (0, 0), out);
            } else {
                self.gone(id, out);
                out.list.push(Effect::Hangup(id));
            }
            return;
        }
        let tune = connection::Tune {
            channel_max: self.settings.channel_max,
            frame_max: self.settings.frame_max,
            heartbeat: self.settings.heartbeat.as_secs() as u16,
        };
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.cancel_notify = capable("consumer_cancel_notify");
            peer.blocked_notify = capable("connection.blocked");
        }
        out.send(id, 0, AMQPClass::Connection(connection::AMQPMethod::Tune(tune)));
        self.at(id, Stage::TuneOk);
    }

    fn tune_ok(&mut self, id: u64, tune_ok: &connection::TuneOk, out: &mut Effects) {
        let smaller = |theirs: u32, ours: u32| theirs != 0 && theirs <= ours;
        assert!(
            smaller(tune_ok.frame_max, self.settings.frame_max)
                && smaller(tune_ok.channel_max.into(), self.settings.channel_max.into()),
            "RabbitMQ stand-in: a client wants more than was offered: {tune_ok:?}"
        );
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.frame_max = tune_ok.frame_max;
        }
        out.list.push(Effect::Heartbeat(id, Duration::from_secs(tune_ok.heartbeat.into())));
        self.at(id, Stage::Open);
    }

    fn open(&mut self, id: u64, vhost: &str, out: &mut Effects) {
        if vhost != self.settings.vhost {
            let text = format!("NOT_ALLOWED - vhost {vhost} not found");
            self.close_connection(id, Refusal::new(530, text), (0, 0), out);
            return;
        }
        out.send(id, 0, AMQPClass::Connection(connection::AMQPMethod::OpenOk(connection::OpenOk {})));
        self.at(id, Stage::Running);
    }

    /// Closes a connection; what it had goes back at once.
    pub(super) fn close_connection(&mut self, id: u64, refusal: Refusal, blamed: (u16, u16), out: &mut Effects) {
        let mut touched = self.depart(|subscriber| subscriber.connection == id, out);
        let unacked = self.take_unacked(id);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.channels.clear();
        peer.held = None;
        peer.stage = Stage::Closing;
        let (class_id, method_id) = blamed;
        let close =
            connection::Close { reply_code: refusal.code, reply_text: short(&refusal.text), class_id, method_id };
        out.send(id, 0, AMQPClass::Connection(connection::AMQPMethod::Close(close)));
        let (from, dead) = self.take_back(unacked, out);
        touched.extend(from);
        for queue in touched {
            self.deliver(&queue, out);
        }
        self.reap(dead, out);
    }

    /// Closes a channel; what it had goes back at once.
    pub(super) fn close_channel(
        &mut self,
        connection: u64,
        id: u16,
        refusal: Refusal,
        blamed: (u16, u16),
        out: &mut Effects,
    ) {
        let close = channel::Close {
            reply_code: refusal.code,
            reply_text: short(&refusal.text),
            class_id: blamed.0,
            method_id: blamed.1,
        };
        out.send(connection, id, AMQPClass::Channel(channel::AMQPMethod::Close(close)));
        self.empty_channel(connection, id, out);
        if let Some(channel) = self.peers.get_mut(&connection).and_then(|peer| peer.channels.get_mut(&id)) {
            channel.closing = true;
        }
    }

    fn at(&mut self, connection: u64, stage: Stage) {
        if let Some(peer) = self.peers.get_mut(&connection) {
            peer.stage = stage;
        }
    }
}

/// A short string, cut where AMQP cuts it.
pub(super) fn short(text: &str) -> ShortString {
    let mut end = text.len().min(255);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    ShortString::from(&text[..end])
}
