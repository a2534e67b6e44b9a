//! What the clumsy and the hostile do beside a message. Each request is sent once, for its answer alone: most of them must be
//! refused, and the others do nothing new.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Client, MessageSpec};
use crate::answers::{AGENT, BEGIN, CANCEL, EVENTS, HEALTH, MESSAGES, REASSIGN, SAY, SESSION, SUSPEND, UNSUSPEND};
use crate::events::{Did, UserEvent};
use crate::names::session_of;
use crate::roles::TOKEN;
use crate::told::Oddity;

/// Tokens that nobody has, each near the users': another last letter, a beginning, more than all of it, capitals, and nothing.
const NEAR_USERS: [&str; 5] = ["let-me-im", "let-me-i", "let-me-inn", "LET-ME-IN", ""];
/// The same for operators'.
const NEAR_OPERATORS: [&str; 5] = ["let-me-hole", "let-me-hol", "let-me-hold-on", "LET-ME-HOLD", ""];
/// The id of no session and no run.
const NOBODY: &str = "nobody";

/// Somebody who meddles with a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clumsy {
    /// So long after it was accepted.
    #[serde(with = "lychgate_sim::plan::duration")]
    pub after: Duration,
    /// What is done, one after the other.
    pub does: Vec<Deed>,
}

/// What the clumsy and the hostile do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// Reads the session and the stream, and stops the run, without a token; asks a gateway how it is, which needs none.
    ComesWithoutToken,
    /// The same with tokens that nobody has, and uses every verb of operators with such.
    ComesWithWrongToken,
    /// Uses every verb of operators with a user's token.
    OperatesAsUser,
    /// Names sessions and runs that there are not.
    NamesNobody,
    /// Sends bodies that are no JSON.
    SendsNoJson,
    /// Says something else under the message's key.
    SaysOtherText,
    /// Says the message once more, under its key.
    SaysAgain,
    /// Looks at the session while its run goes on.
    Looks,
    /// Stops the run, and stops it again.
    StopsTwice,
    /// Stops whatever is going once the run is over: nothing, mostly.
    StopsNothing,
}

impl Deed {
    /// All of them.
    pub const ALL: [Deed; 10] = [
        Deed::ComesWithoutToken,
        Deed::ComesWithWrongToken,
        Deed::OperatesAsUser,
        Deed::NamesNobody,
        Deed::SendsNoJson,
        Deed::SaysOtherText,
        Deed::SaysAgain,
        Deed::Looks,
        Deed::StopsTwice,
        Deed::StopsNothing,
    ];
}

/// The token of a request with this oddity, of somebody whose own is `own`.
pub(super) fn token(odd: Option<Oddity>, own: &'static str) -> Option<&'static str> {
    match odd {
        Some(Oddity::NoToken) => None,
        Some(Oddity::UsersToken) => Some(TOKEN),
        _ => Some(own),
    }
}

/// What is meddled with: a message by its label, and the ids of its session and its run.
struct Target {
    label: String,
    session: String,
    run: String,
    agent: String,
}

impl Client {
    /// Who meddles with a saying that was accepted, if somebody does.
    pub(super) fn meddler(
        &self,
        label: &str,
        saying: &MessageSpec,
        run: &str,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let Clumsy { after, does } = saying.clumsy.clone()?;
        let session = self.sessions.get(&saying.session).cloned()?;
        let agent = self.agent().to_string();
        let target = Target { label: label.to_string(), session, run: run.to_string(), agent };
        let stops = does.contains(&Deed::StopsTwice);
        let stops = stops.then(|| [0, 1].map(|_| self.stopper(label, saying.session, run, Duration::ZERO)));
        let client = self.another(TOKEN);
        Some(async move {
            tokio::time::sleep(after).await;
            for deed in does {
                client.meddle(&target, deed).await;
            }
            for stop in stops.into_iter().flatten() {
                stop.await;
            }
        })
    }

    async fn meddle(&self, target: &Target, deed: Deed) {
        match deed {
            Deed::ComesWithoutToken => {
                self.ask(&HEALTH, "/health", &target.label, String::new()).await;
                self.come(target, Oddity::NoToken).await;
            }
            Deed::ComesWithWrongToken => {
                for (user, operator) in NEAR_USERS.into_iter().zip(NEAR_OPERATORS) {
                    self.another(user).come(target, Oddity::WrongToken).await;
                    self.another(operator).operate(target, Oddity::WrongToken).await;
                }
            }
            Deed::OperatesAsUser => self.operate(target, Oddity::UsersToken).await,
            Deed::NamesNobody => self.name_nobody(target).await,
            Deed::SendsNoJson => self.send_no_json(target).await,
            Deed::SaysOtherText => self.say_under_the_key(target, Oddity::OtherText, "something else").await,
            Deed::SaysAgain => self.say_under_the_key(target, Oddity::SaidAgain, &target.label).await,
            Deed::Looks => {
                let Target { label, session, .. } = target;
                self.ask(&SESSION, &format!("/sessions/{session}"), label, String::new()).await;
                self.ask(&MESSAGES, &format!("/sessions/{session}/messages"), label, String::new()).await;
            }
            // These two take their own time.
            Deed::StopsTwice | Deed::StopsNothing => {}
        }
    }

    async fn come(&self, Target { label, session, run, .. }: &Target, odd: Oddity) {
        let (odd, body) = (Some(odd), String::new());
        self.ask_oddly(&EVENTS, odd, &format!("/runs/{run}/events"), label, body.clone()).await;
        self.ask_oddly(&SESSION, odd, &format!("/sessions/{session}"), label, body.clone()).await;
        self.ask_oddly(&MESSAGES, odd, &format!("/sessions/{session}/messages"), label, body.clone()).await;
        self.ask_oddly(&CANCEL, odd, &format!("/sessions/{session}/cancel"), label, body).await;
    }

    async fn operate(&self, Target { label, session, agent, .. }: &Target, odd: Oddity) {
        let odd = Some(odd);
        let hold = json!({ "reason": "somebody plays the operator" }).to_string();
        let wish = json!({ "subscription": "b", "epoch": 1 }).to_string();
        self.ask_oddly(&SUSPEND, odd, &format!("/sessions/{session}/suspend"), label, hold).await;
        self.ask_oddly(&UNSUSPEND, odd, &format!("/sessions/{session}/unsuspend"), label, String::new()).await;
        self.ask_oddly(&AGENT, odd, &format!("/agents/{agent}"), label, String::new()).await;
        self.ask_oddly(&REASSIGN, odd, &format!("/agents/{agent}/reassign"), label, wish).await;
    }

    async fn name_nobody(&self, Target { label, session, .. }: &Target) {
        let (no_session, no_run) = (Some(Oddity::UnknownSession), Some(Oddity::UnknownRun));
        let (text, run) = (json!({ "text": NOBODY }).to_string(), json!({ "run": NOBODY }).to_string());
        self.ask_oddly(&SESSION, no_session, &format!("/sessions/{NOBODY}"), label, String::new()).await;
        self.ask_oddly(&MESSAGES, no_session, &format!("/sessions/{NOBODY}/messages"), label, String::new()).await;
        self.ask_oddly(&CANCEL, no_session, &format!("/sessions/{NOBODY}/cancel"), label, String::new()).await;
        // Under a key of its own: what was used for something else is refused for that.
        let key = format!("{label}.{NOBODY}");
        self.ask_oddly(&SAY, no_session, &format!("/sessions/{NOBODY}/messages"), &key, text).await;
        self.ask_oddly(&CANCEL, no_run, &format!("/sessions/{session}/cancel"), label, run).await;
        self.ask_oddly(&EVENTS, no_run, &format!("/runs/{NOBODY}/events"), label, String::new()).await;
    }

    async fn send_no_json(&self, Target { label, session, .. }: &Target) {
        let (odd, body) = (Some(Oddity::NotJson), r#"{"text": "and there it end"#.to_string());
        self.ask_oddly(&BEGIN, odd, "/sessions", label, body.clone()).await;
        self.ask_oddly(&SAY, odd, &format!("/sessions/{session}/messages"), label, body.clone()).await;
        self.ask_oddly(&CANCEL, odd, &format!("/sessions/{session}/cancel"), label, body).await;
    }

    async fn say_under_the_key(&self, Target { label, session, .. }: &Target, odd: Oddity, text: &str) {
        let body = json!({ "text": text }).to_string();
        self.ask_oddly(&SAY, Some(odd), &format!("/sessions/{session}/messages"), label, body.clone()).await;
        self.ask_oddly(&BEGIN, Some(odd), "/sessions", label, body).await;
    }

    /// Stops whatever is going now that the run of a saying is over, if somebody does that.
    pub(super) async fn stop_nothing(&self, label: &str, saying: &MessageSpec) {
        let does_it = saying.clumsy.as_ref().is_some_and(|clumsy| clumsy.does.contains(&Deed::StopsNothing));
        let Some(session) = self.sessions.get(&saying.session).filter(|_| does_it) else { return };
        let (path, run) = (format!("/sessions/{session}/cancel"), label.to_string());
        (self.tell)(Did::User(UserEvent::StopAsked { session: session_of(label), run, named: false }));
        self.ask_oddly(&CANCEL, Some(Oddity::Unnamed), &path, label, String::new()).await;
    }
}
