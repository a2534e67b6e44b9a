//! What users do; the clumsy and the hostile among them have a file of their own, [`clumsy`]. A user says things one after the other, insists until each is accepted, watches its answer to the end
//! over however many connections it takes, and tells the judge what it saw.

pub mod clumsy;
mod watcher;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use lychgate::socket::Socket;
use lychgate_sim::plan::Plan;
use lychgate_sim::standins::provider::dialect::Dialect;
use lychgate_sim::standins::provider::{Reply, Script};
use lychgate_sim::world::product::{User, UserContext, Workload};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use self::clumsy::Clumsy;
use self::watcher::Watcher;
use crate::answers::{
    AGENT, Answer, BEGIN, CANCEL, Endpoint, MESSAGES, REASSIGN, SAY, SESSION, SUSPEND, Said, UNSUSPEND, Unexpected,
};
use crate::events::{AgentEvent, Did, Stopped, UserEvent};
use crate::names::session_of;
use crate::roles::{OPERATOR_TOKEN, TOKEN};
use crate::told::{self, Labels, Oddity, Shown, Shows, Told};

/// A request that is not answered within this is sent again.
const PATIENCE: Duration = Duration::from_secs(20);
/// So many new keys a message gets at most; then the last one stays.
const NEW_KEYS: u32 = 3;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(1);

/// LychgateWorkload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LychgateWorkload(pub Vec<UserSpec>);

/// One user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// As `ann`. Her sessions are `ann/1`, `ann/2`, ….
    pub name: String,
    /// The agent that she talks to; the gateway's choice without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What she says, one after the other: the next once the last is over.
    pub says: Vec<MessageSpec>,
}

/// One message, and how its run goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageSpec {
    /// In which of her sessions, from 1.
    #[serde(default = "one")]
    pub session: u32,
    /// Not before this moment of the world.
    #[serde(default, with = "lychgate_sim::plan::duration", skip_serializing_if = "Duration::is_zero")]
    pub at: Duration,
    /// How many turns the model takes.
    #[serde(default = "one")]
    pub turns: u32,
    /// How long it takes over each.
    #[serde(with = "lychgate_sim::plan::duration")]
    pub takes: Duration,
    /// How many tokens a turn has.
    #[serde(default = "ten")]
    pub tokens: u32,
    /// The dialect of OpenAI's stream that the answer comes in. In two of them a model without a word shows that it lives.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub dialect: Dialect,
    /// Stops the run so long after it was accepted.
    #[serde(default, with = "lychgate_sim::plan::duration::option", skip_serializing_if = "Option::is_none")]
    pub cancel_after: Option<Duration>,
    /// Says it so often, each time in the same session and once the last is over.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub times: u32,
    /// From one time to the next, unless the run before takes longer.
    #[serde(default, with = "lychgate_sim::plan::duration", skip_serializing_if = "Duration::is_zero")]
    pub every: Duration,
    /// An operator suspends the session so long after it was accepted.
    #[serde(default, with = "lychgate_sim::plan::duration::option", skip_serializing_if = "Option::is_none")]
    pub suspend_after: Option<Duration>,
    /// An operator lifts the suspension so long after it was accepted. Until then the user insists.
    #[serde(default, with = "lychgate_sim::plan::duration::option", skip_serializing_if = "Option::is_none")]
    pub unsuspend_after: Option<Duration>,
    /// Leaves the stream so often in the middle and comes back.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reconnects: u32,
    /// Goes away so long after it was accepted, and comes back for it only when she has said everything.
    #[serde(default, with = "lychgate_sim::plan::duration::option", skip_serializing_if = "Option::is_none")]
    pub leaves_after: Option<Duration>,
    /// Says it under a new key whenever it came to nothing, as a client that has lost the old one: what was accepted unheard
    /// is a message of its own. The first message of a session keeps its key, which alone tells the sessions apart.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub new_key: bool,
    /// Reads the stream slowly: an event only so often.
    #[serde(default, with = "lychgate_sim::plan::duration", skip_serializing_if = "Duration::is_zero")]
    pub reads_every: Duration,
    /// An operator gives her agent another subscription.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reassign: Option<Reassign>,
    /// Somebody clumsy or hostile meddles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clumsy: Option<Clumsy>,
}

/// What an operator does to an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reassign {
    /// So long after the message was accepted.
    #[serde(with = "lychgate_sim::plan::duration")]
    pub after: Duration,
    /// The subscription that it gets.
    pub to: String,
}

fn is_plain(dialect: &Dialect) -> bool {
    *dialect == Dialect::Plain
}

fn one() -> u32 {
    1
}

/// The label of a message that is said again under a new key, for the `nth` time.
fn under_new_key(label: &str, nth: u32) -> String {
    format!("{label}.{nth}")
}

fn ten() -> u32 {
    10
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn is_one(n: &u32) -> bool {
    *n == 1
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks for a reference
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl UserSpec {
    /// How long everything that she says takes: until the last moment before which she says nothing, and what the model
    /// takes over it all.
    pub fn busy(&self) -> Duration {
        let last = self.labelled().iter().map(|(_, at, _)| *at).max().unwrap_or_default();
        last + self.says.iter().map(|saying| saying.takes * saying.turns * saying.times).sum::<Duration>()
    }

    /// Each time that she says something, with the label of its run (the second in `ann/1` is `ann/1#2`) and the moment
    /// before which she does not.
    fn labelled(&self) -> Vec<(String, Duration, &MessageSpec)> {
        let mut counts = BTreeMap::new();
        let times = self.says.iter().flat_map(|saying| (0..saying.times).map(move |nth| (nth, saying)));
        let label = |(_, saying): (u32, &MessageSpec)| {
            let count = counts.entry(saying.session).or_insert(0);
            *count += 1;
            format!("{}/{}#{count}", self.name, saying.session)
        };
        times
            .clone()
            .map(label)
            .zip(times)
            .map(|(label, (nth, saying))| (label, saying.at + saying.every * nth, saying))
            .collect()
    }
}

impl Workload for LychgateWorkload {
    fn sessions(&self) -> Vec<String> {
        let mut sessions: Vec<String> =
            self.0.iter().flat_map(UserSpec::labelled).map(|(label, ..)| session_of(&label)).collect();
        sessions.sort();
        sessions.dedup();
        sessions
    }

    fn busy(&self) -> Duration {
        self.0.iter().map(UserSpec::busy).max().unwrap_or_default()
    }

    fn users(&self) -> Vec<String> {
        self.0.iter().map(|person| person.name.clone()).collect()
    }

    fn smaller(&self) -> Vec<Self> {
        let without_person = (0..self.0.len()).filter(|_| self.0.len() > 1).map(|i| {
            let mut people = self.0.clone();
            people.remove(i);
            LychgateWorkload(people)
        });
        let without_saying = self.0.iter().enumerate().filter(|(_, person)| person.says.len() > 1).map(|(i, _)| {
            let mut people = self.0.clone();
            people[i].says.pop();
            LychgateWorkload(people)
        });
        without_person.chain(without_saying).collect()
    }
}

/// What the model answers to each message: its text is its label.
pub fn script(everybody: &LychgateWorkload) -> Script {
    let replies = everybody.0.iter().flat_map(UserSpec::labelled).flat_map(|(label, _, saying)| {
        let MessageSpec { turns, takes, tokens, dialect, new_key, .. } = *saying;
        let again = (1..=NEW_KEYS).filter(move |_| new_key).map(|nth| under_new_key(&label, nth)).collect::<Vec<_>>();
        let all = again.into_iter().chain([label]);
        all.map(move |label| (label, Reply { turns, takes, tokens, first_token_after: None, dialect }))
    });
    Script { replies: replies.collect(), default_reply: None }
}

/// The users of a plan.
pub fn users(plan: &Plan<LychgateWorkload>) -> Vec<User<Did>> {
    let user = |person: &UserSpec| {
        let (name, person) = (person.name.clone(), person.clone());
        User { name, act: Box::new(move |seat| live(person, seat).boxed()) }
    };
    plan.users.0.iter().map(user).collect()
}

async fn live(person: UserSpec, seat: UserContext<Did>) {
    let gateways = seat.links.into_iter().collect();
    let mut client = Client { agent: person.agent.clone(), ..Client::new(gateways, seat.tell) };
    let (mut operators, mut left) = (Vec::new(), Vec::new());
    let began = Instant::now();
    for (label, at, saying) in person.labelled() {
        tokio::time::sleep(at.saturating_sub(began.elapsed())).await;
        let Some((label, run)) = client.say(label, saying).await else { continue };
        operators.extend(client.operators(&label, saying).map(tokio::spawn));
        operators.extend(client.reassigner(&label, saying).map(tokio::spawn));
        operators.extend(client.meddler(&label, saying, &run).map(tokio::spawn));
        let mut watcher = Watcher { reads_every: saying.reads_every, ..client.watcher(&label, &run) };
        let watch = async {
            let Some(after) = saying.leaves_after else { return watcher.watch(saying.reconnects).await };
            if tokio::time::timeout(after, watcher.watch(saying.reconnects)).await.is_err() {
                watcher.leave(true);
            }
        };
        if let Some(after) = saying.cancel_after {
            // She does not wait for the answer: it may come when she has said the next thing.
            operators.push(tokio::spawn(client.stopper(&label, saying.session, &run, after)));
        }
        watch.await;
        if saying.leaves_after.is_some() {
            left.push((label, saying.session, run, watcher));
        } else {
            client.look(&label, saying.session, &run).await;
            client.stop_nothing(&label, saying).await;
        }
    }
    for (label, session, run, mut watcher) in left {
        watcher.watch(0).await;
        client.look(&label, session, &run).await;
    }
    for operator in operators {
        // None of them panics, and nobody ends one early.
        let _ = operator.await;
    }
}

/// A gateway by its name, and the near end of the link to it.
type Gateway = (String, SocketAddr);

struct Client {
    gateways: Vec<Gateway>,
    next: usize,
    tell: Arc<dyn Fn(Did) + Send + Sync>,
    /// Session ids by number.
    sessions: BTreeMap<u32, String>,
    /// Sessions whose suspension will be lifted, for as long as it has not been.
    lifted: BTreeMap<u32, Arc<AtomicBool>>,
    token: &'static str,
    /// The agent of new sessions, if they name one.
    agent: Option<String>,
    /// The runs that she knows.
    labels: Labels,
}

impl Client {
    fn new(gateways: Vec<Gateway>, tell: Arc<dyn Fn(Did) + Send + Sync>) -> Self {
        Client {
            gateways,
            next: 0,
            tell,
            sessions: BTreeMap::new(),
            lifted: BTreeMap::new(),
            token: TOKEN,
            agent: None,
            labels: Labels::default(),
        }
    }

    /// Another one who acts for her, and knows what she knows.
    fn another(&self, token: &'static str) -> Self {
        let (gateways, tell, labels) = (self.gateways.clone(), self.tell.clone(), self.labels.clone());
        Client { token, labels, ..Client::new(gateways, tell) }
    }

    /// Says `label` until it is accepted; returns what it is called then, and the run's id. `None`: the session is suspended.
    async fn say(&mut self, mut label: String, saying: &MessageSpec) -> Option<(String, String)> {
        let (first, session, mut keys) = (label.clone(), saying.session, 0);
        let (endpoint, path) = match self.sessions.get(&session) {
            None => (BEGIN, "/sessions".to_string()),
            Some(id) => (SAY, format!("/sessions/{id}/messages")),
        };
        let name = |label: &str| (session_of(label), label.to_string());
        loop {
            let (session_label, run) = name(&label);
            let agent = self.agent().to_owned();
            (self.tell)(Did::User(UserEvent::Said { session: session_label, run, agent }));
            let mut body = serde_json::json!({ "text": label });
            if let (Some(agent), None) = (&self.agent, self.sessions.get(&session)) {
                body["agent"] = agent.as_str().into();
            }
            match self.ask(&endpoint, &path, &label, body.to_string()).await {
                Some(Said::Accepted(accepted)) => {
                    let (session_label, run) = name(&label);
                    (self.tell)(Did::User(UserEvent::Heard { session: session_label, run }));
                    self.sessions.insert(session, accepted.session);
                    return Some((label, accepted.run));
                }
                Some(Said::Suspended) if self.awaits_lifting(session) => {}
                Some(Said::Suspended) => {
                    let (session, run) = name(&label);
                    (self.tell)(Did::User(UserEvent::TurnedAway { session, run }));
                    return None;
                }
                Some(Said::Busy) => {}
                None if saying.new_key && self.sessions.contains_key(&session) && keys < NEW_KEYS => {
                    keys += 1;
                    label = under_new_key(&first, keys);
                }
                None => {}
            }
            self.pause().await;
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(PAUSE).await;
        self.next += 1;
    }

    /// A watcher of a run, over as many connections as it takes.
    fn watcher(&self, label: &str, run: &str) -> Watcher {
        Watcher {
            gateways: self.gateways.clone(),
            next: self.next,
            tell: self.tell.clone(),
            session: session_of(label),
            label: label.to_string(),
            path: format!("/runs/{run}/events"),
            opened: 0,
            since: Instant::now(),
            reads_every: Duration::ZERO,
            last_id: None,
            ended: false,
        }
    }

    /// Stops the run with this label and id after a while, insisting until it is heard.
    fn stopper(&self, label: &str, session: u32, id: &str, after: Duration) -> impl Future<Output = ()> + Send + use<> {
        let path = format!("/sessions/{}/cancel", self.sessions.get(&session).cloned().unwrap_or_default());
        let mut client = self.another(TOKEN);
        let (session, run, id) = (session_of(label), label.to_string(), id.to_string());
        let body = serde_json::json!({ "run": id }).to_string();
        async move {
            tokio::time::sleep(after).await;
            let stopped = loop {
                let (session, run, named) = (session.clone(), run.clone(), true);
                (client.tell)(Did::User(UserEvent::StopAsked { session, run: run.clone(), named }));
                match client.ask(&CANCEL, &path, &run, body.clone()).await {
                    Some(stopped) => break stopped,
                    None => client.pause().await,
                }
            };
            let told = match stopped {
                None => Stopped::Nothing,
                Some(stopped) if stopped == id => Stopped::This,
                Some(_) => Stopped::Another,
            };
            (client.tell)(Did::User(UserEvent::Cancelled { session, run, told }));
        }
    }

    fn awaits_lifting(&self, session: u32) -> bool {
        self.lifted.get(&session).is_some_and(|to_come| to_come.load(Ordering::SeqCst))
    }

    /// What operators do to the session of a saying that was accepted: each insists until it is heard.
    fn operators(
        &mut self,
        label: &str,
        saying: &MessageSpec,
    ) -> impl Iterator<Item = impl Future<Output = ()> + Send + use<>> + use<> {
        let to_come = Arc::new(AtomicBool::new(saying.unsuspend_after.is_some()));
        if saying.unsuspend_after.is_some() {
            self.lifted.insert(saying.session, to_come.clone());
        }
        let id = self.sessions.get(&saying.session).cloned().unwrap_or_default();
        let verbs = [("suspend", saying.suspend_after), ("unsuspend", saying.unsuspend_after)];
        let (operator, label) = (self.another(OPERATOR_TOKEN), label.to_string());
        verbs.into_iter().filter_map(|(verb, after)| Some((verb, after?))).map(move |(verb, after)| {
            let path = format!("/sessions/{id}/{verb}");
            let mut client = operator.another(OPERATOR_TOKEN);
            let (label, to_come) = (label.clone(), to_come.clone());
            async move {
                tokio::time::sleep(after).await;
                let body = serde_json::json!({ "reason": format!("an operator looks into {label}") }).to_string();
                let endpoint = if verb == "suspend" { &SUSPEND } else { &UNSUSPEND };
                client.insist(endpoint, &path, &label, body).await;
                if verb == "unsuspend" {
                    to_come.store(false, Ordering::SeqCst);
                }
            }
        })
    }

    /// What an operator does to the agent of a saying that was accepted: looks where it is, and insists on the move until
    /// it is heard, or came too late.
    fn reassigner(&self, label: &str, saying: &MessageSpec) -> Option<impl Future<Output = ()> + Send + use<>> {
        let Reassign { after, to } = saying.reassign.clone()?;
        let agent = self.agent().to_string();
        let mut client = self.another(OPERATOR_TOKEN);
        let (label, path) = (label.to_string(), format!("/agents/{agent}"));
        Some(async move {
            tokio::time::sleep(after).await;
            let epoch = loop {
                match client.ask(&AGENT, &path, &label, String::new()).await.flatten() {
                    Some(assignment) => break assignment.epoch,
                    None => client.pause().await,
                }
            };
            let (path, body) = (format!("{path}/reassign"), serde_json::json!({ "subscription": to, "epoch": epoch }));
            let told = loop {
                (client.tell)(Did::Agent(AgentEvent::ReassignAsked { agent: agent.clone(), to: to.clone(), epoch }));
                match client.ask(&REASSIGN, &path, &label, body.to_string()).await {
                    Some(Some(assignment)) => {
                        break Did::Agent(AgentEvent::Reassigned { agent, to, epoch: assignment.epoch });
                    }
                    Some(None) => break Did::Agent(AgentEvent::ReassignRefused { agent, to }),
                    None => client.pause().await,
                }
            };
            (client.tell)(told);
        })
    }

    /// Looks what became of the message, and how it was answered.
    async fn look(&mut self, label: &str, session: u32, run: &str) {
        let id = self.sessions[&session].clone();
        let (ours, answers) = loop {
            let path = format!("/sessions/{id}/messages");
            let conversation = self.insist(&MESSAGES, &path, label, String::new()).await;
            match conversation.messages.into_iter().find(|message| message.text == label) {
                Some(ours) => break (ours, conversation.answers),
                None => self.is_puzzled(label, MESSAGES.without(label)),
            }
            self.pause().await;
        };
        let answers = answers.into_iter().filter(|answer| answer.run == run);
        let answers = answers.map(|answer| (answer.turn, answer.text)).collect();
        let notices = self.insist(&SESSION, &format!("/sessions/{id}"), label, String::new()).await.notices;
        let of_agent = notices.iter().filter(|notice| notice.run.is_none()).count();
        let notices = notices.iter().filter(|notice| notice.run.as_deref() == Some(run)).count();
        let (session, run) = (session_of(label), label.to_string());
        (self.tell)(Did::User(UserEvent::Found { session, run, state: ours.state, answers, notices, of_agent }));
    }

    /// The agent of her sessions.
    fn agent(&self) -> &str {
        self.agent.as_deref().unwrap_or("agent-1")
    }

    /// Asks until it is answered.
    async fn insist<A: Shown>(&mut self, endpoint: &Endpoint<A>, path: &str, key: &str, body: String) -> A {
        loop {
            match self.ask(endpoint, path, key, body.clone()).await {
                Some(answer) => return answer,
                None => self.pause().await,
            }
        }
    }

    /// One request on a connection of its own; `None` if it came to nothing, for now or because of an answer that nobody
    /// expected.
    async fn ask<A: Shown>(&self, endpoint: &Endpoint<A>, path: &str, key: &str, body: String) -> Option<A> {
        self.ask_oddly(endpoint, None, path, key, body).await
    }

    /// The same, with something odd about the request: what is due then, the judge knows.
    async fn ask_oddly<A: Shown>(
        &self,
        endpoint: &Endpoint<A>,
        odd: Option<Oddity>,
        path: &str,
        key: &str,
        body: String,
    ) -> Option<A> {
        let (gateway, address) = self.gateway();
        let asking = async {
            let request = request(endpoint.method(), path, clumsy::token(odd, self.token));
            let request = request.header("idempotency-key", key).body(Full::new(Bytes::from(body))).ok()?;
            let (response, _connection) = send(*address, request).await?;
            let status = response.status();
            // A stream has no end to wait for.
            let streams = response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
            let body = if streams { Bytes::new() } else { response.into_body().collect().await.ok()?.to_bytes() };
            Some((status.as_u16(), body))
        };
        let asked = Instant::now();
        let Some((status, body)) = tokio::time::timeout(PATIENCE, asking).await.ok().flatten() else {
            let (session, run, gateway) = (session_of(key), key.to_string(), gateway.clone());
            let (request, took) = (endpoint.name, asked.elapsed());
            (self.tell)(Did::User(UserEvent::Unheeded { session, run, gateway, request, took }));
            return None;
        };
        let answer = endpoint.read(status, &body);
        let shows = match &answer {
            Ok(Answer::This(answer)) => answer.shows(key, &self.labels),
            Ok(Answer::Unavailable) | Err(_) => Shows::Nothing,
        };
        let agent = path.strip_prefix("/agents/").and_then(|path| path.split('/').next()).map(str::to_owned);
        let told = Told { request: endpoint.name, odd, agent, status, problem: told::problem(&body), shows };
        (self.tell)(was_told(key, gateway, asked.elapsed(), told));
        match answer {
            Ok(Answer::This(answer)) => Some(answer),
            Ok(Answer::Unavailable) => None,
            Err(unexpected) => {
                if odd.is_none() {
                    self.is_puzzled(key, unexpected);
                }
                None
            }
        }
    }

    fn gateway(&self) -> &Gateway {
        &self.gateways[self.next % self.gateways.len()]
    }

    /// Tells of an answer that nobody expected.
    fn is_puzzled(&self, label: &str, unexpected: Unexpected) {
        (self.tell)(puzzled(label, self.gateway(), unexpected));
    }
}

fn puzzled(label: &str, (gateway, _): &Gateway, unexpected: Unexpected) -> Did {
    let Unexpected { request, answer, legal } = unexpected;
    let (session, run, gateway) = (session_of(label), label.to_string(), gateway.clone());
    Did::User(UserEvent::Puzzled { session, run, gateway, request, answer, legal })
}

fn was_told(label: &str, gateway: &str, took: Duration, told: Told) -> Did {
    let (session, run, gateway) = (session_of(label), label.to_string(), gateway.to_string());
    Did::User(UserEvent::Told { session, run, gateway, took, told })
}

fn request(method: Method, path: &str, token: Option<&str>) -> hyper::http::request::Builder {
    let request = Request::builder().method(method).uri(path).header("host", "lychgate");
    let request = request.header("content-type", "application/json");
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// Hangs up when it is dropped.
struct Connection(tokio::task::JoinHandle<()>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(gateway: SocketAddr, request: Request<Full<Bytes>>) -> Option<(Response<Incoming>, Connection)> {
    let stream = Socket::connect(&gateway.to_string()).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let connection = Connection(tokio::spawn(connection.map(drop)));
    let response = sender.send_request(request).await.ok()?;
    Some((response, connection))
}
