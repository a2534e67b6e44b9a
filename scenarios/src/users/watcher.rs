//! A user before the stream of a run: over as many connections as it takes, to its end.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::{Method, StatusCode};
use tokio::time::Instant;

use super::{Gateway, PATIENCE, PAUSE, puzzled, request, send, was_told};
use crate::answers::{EVENTS, Sent, read_event};
use crate::events::{Did, UserEvent};
use crate::roles::TOKEN;
use crate::told::{self, Shows, Told};

/// A stream that is silent for so long is opened anew: more than two heartbeats.
const SILENCE: Duration = Duration::from_secs(40);

/// See the module.
pub(super) struct Watcher {
    pub(super) gateways: Vec<Gateway>,
    pub(super) next: usize,
    pub(super) tell: Arc<dyn Fn(Did) + Send + Sync>,
    pub(super) session: String,
    pub(super) label: String,
    pub(super) path: String,
    /// How many connections it took so far.
    pub(super) opened: u32,
    /// When the last one was opened.
    pub(super) since: Instant,
    /// How long an event takes to read.
    pub(super) reads_every: Duration,
    pub(super) last_id: Option<String>,
    pub(super) ended: bool,
}

impl Watcher {
    /// To the end, unless that was seen before.
    pub(super) async fn watch(&mut self, mut reconnects: u32) {
        while !self.ended {
            let gateway = self.gateways[self.next % self.gateways.len()].clone();
            (self.opened, self.since) = (self.opened + 1, Instant::now());
            let before = reconnects;
            (self.tell)(Did::User(UserEvent::Opened {
                session: self.session.clone(),
                run: self.label.clone(),
                nth: self.opened,
                slowly: !self.reads_every.is_zero(),
            }));
            if self.read(&gateway, &mut reconnects).await.is_some() {
                self.ended = true;
                return;
            }
            self.leave(reconnects < before);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// The connection is over, because she looks away or of its own.
    pub(super) fn leave(&mut self, by_her: bool) {
        self.next += 1;
        let (session, run, lasted) = (self.session.clone(), self.label.clone(), self.since.elapsed());
        (self.tell)(Did::User(UserEvent::Broke { session, run, by_her, lasted }));
    }

    /// Reads one connection; `Some` once the end was seen.
    async fn read(&mut self, gateway: &Gateway, reconnects: &mut u32) -> Option<()> {
        let mut head = request(Method::GET, &self.path, Some(TOKEN));
        if let Some(id) = &self.last_id {
            head = head.header("last-event-id", id);
        }
        let opening = async { send(gateway.1, head.body(Full::default()).ok()?).await };
        let asked = Instant::now();
        let (response, _connection) = tokio::time::timeout(PATIENCE, opening).await.ok()??;
        let status = response.status();
        let was_told = |problem| {
            let (request, status, shows) = (EVENTS.name, status.as_u16(), Shows::Nothing);
            let told = Told { request, odd: None, agent: None, status, problem, shows };
            (self.tell)(was_told(&self.label, &gateway.0, asked.elapsed(), told));
        };
        if status == StatusCode::OK {
            was_told(None);
        } else {
            let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await.ok()?.ok()?.to_bytes();
            was_told(told::problem(&body));
            let unexpected = EVENTS.read(status.as_u16(), &body).err()?;
            (self.tell)(puzzled(&self.label, gateway, unexpected));
            return None;
        }
        let mut body = response.into_body();
        let mut unread = String::new();
        let mut seen = 0;
        loop {
            let part = tokio::time::timeout(SILENCE, body.frame()).await.ok()??.ok()?;
            unread.push_str(std::str::from_utf8(part.data_ref()?).ok()?);
            while let Some(end) = unread.find("\n\n") {
                tokio::time::sleep(self.reads_every).await;
                let event: String = unread.drain(..end + 2).collect();
                if self.event(gateway, &event)? {
                    return Some(());
                }
                seen += 1;
                if seen == 3 && *reconnects > 0 {
                    *reconnects -= 1;
                    return None;
                }
            }
        }
    }

    /// Tells of one event; `Some(true)` for the end, `None` if the gateway asks to come back, or sends what nobody expected.
    fn event(&mut self, gateway: &Gateway, event: &str) -> Option<bool> {
        let (session, run) = (self.session.clone(), self.label.clone());
        let (told, is_end) = match read_event(event) {
            Err(unexpected) => {
                (self.tell)(puzzled(&self.label, gateway, unexpected));
                return None;
            }
            Ok(Sent::Reconnect) => return None,
            Ok(Sent::Heartbeat) => (Did::User(UserEvent::Heartbeat { session, run }), false),
            Ok(Sent::End { id, status }) => {
                self.last_id = Some(id);
                (Did::User(UserEvent::SawEnd { session, run, status }), true)
            }
            Ok(Sent::Shown { kind, id, turn, text }) => {
                self.last_id = Some(id.clone());
                (Did::User(UserEvent::Saw { session, run, kind, id, turn, text }), false)
            }
        };
        (self.tell)(told);
        Some(is_end)
    }
}
