//! Every answer binds: what it says of the world was so at some moment between the request and the answer, and what must be
//! refused is refused, whatever else goes on. `TABLE` has all of it.
//!
//! That an answer is in its endpoint's own table at all, `answers_make_sense` sees to; that a run which shall stop is over soon,
//! `no_zombies`.

use std::collections::BTreeSet;
use std::time::Duration;

use lychgate::limits;
use lychgate::run::Status;
use lychgate_sim::trace::event::{Event, What};
use lychgate_sim::trace::invariant::Breach;

use super::Promise;
use super::answers_make_sense::is_spoilt;
use super::world::{Session, World, leads_to};
use crate::answers::{AGENT, BEGIN, CANCEL, EVENTS, HEALTH, MESSAGES, REASSIGN, SAY, SESSION, SUSPEND, UNSUSPEND};
use crate::events::{Did, RunEvent, UserEvent};
use crate::names::{Role, role};
use crate::told::{Oddity, Shows, Told, View};

/// A store that was ill so long before a request may still make it fail: what was dialled then is given up only now, and what
/// comes back is dialled after a pause.
const AFTERMATH: Duration = Duration::from_secs(limits::CONNECT.as_secs() + limits::BACKOFF_MAX.as_secs());

/// Any request.
const ANY: &str = "*";

/// What an answer to a request implies.
struct Row {
    request: &'static str,
    odd: Option<Oddity>,
    /// The status, and the word of the problem.
    answer: &'static str,
    /// What must have been so, in words.
    implies: &'static str,
    /// Whether it was.
    so: fn(&Case) -> bool,
}

/// What an answer to a request in good order implies.
const fn row(request: &'static str, answer: &'static str, implies: &'static str, so: fn(&Case) -> bool) -> Row {
    Row { request, odd: None, answer, implies, so }
}

/// What is due to a request that has something odd about it: this, and nothing else but another row's.
const fn odd(odd: Oddity, request: &'static str, answer: &'static str, so: fn(&Case) -> bool) -> Row {
    Row { request, odd: Some(odd), answer, implies: "what is odd about it is what that says", so }
}

/// Each answer to each request, and what was so if it is given.
const TABLE: &[Row] = &[
    row(BEGIN.name, "202", "the run is in Postgres, and is the one of this key", is_accepted),
    row(SAY.name, "202", "the run is in Postgres, and is the one of this key", is_accepted),
    row(SAY.name, "409 busy", "a run of the session was going", was_busy),
    row(SAY.name, "423 suspended", "the session was suspended", was_suspended),
    row(CANCEL.name, "202", "the run that was named went on, and shall stop", is_stopped),
    row(CANCEL.name, "200", "the run that was named is over", is_over),
    row(SUSPEND.name, "202", "the session was suspended", was_suspended),
    row(UNSUSPEND.name, "200", "the session was not suspended", was_free),
    row(AGENT.name, "200", "the agent was assigned that", was_assigned),
    row(AGENT.name, "409 no_assignment", "the agent had no assignment", was_unassigned),
    row(REASSIGN.name, "202", "the agent was assigned that", was_assigned),
    row(REASSIGN.name, "200", "the agent was assigned that", was_assigned),
    row(REASSIGN.name, "409 moved", "the agent has been moved before", has_moved),
    row(SESSION.name, "200", "the session and its newest run stood so", stood_so),
    row(MESSAGES.name, "200", "there were these messages and answers, and no others", was_said),
    row(EVENTS.name, "200", "there is such a run", exists),
    row(EVENTS.name, "503 too_many_streams", "the gateway has as many readers as it takes", is_crowded),
    row(HEALTH.name, "200", "the gateway lives", lives),
    row(ANY, "503 unavailable", "Postgres or somebody at it was ill, or the gateway about to go", was_ill),
    // Whoever may not ask is shown nothing, however ill the stores are.
    odd(Oddity::NoToken, ANY, "401 unauthorized", whatever),
    odd(Oddity::WrongToken, ANY, "401 unauthorized", whatever),
    odd(Oddity::UsersToken, ANY, "401 unauthorized", whatever),
    odd(Oddity::NotJson, ANY, "400 bad_request", whatever),
    // What only a store can tell may also come to nothing.
    odd(Oddity::UnknownSession, ANY, "404 no_session", whatever),
    odd(Oddity::UnknownSession, ANY, "503 unavailable", was_ill),
    odd(Oddity::UnknownRun, ANY, "404 no_run", whatever),
    odd(Oddity::UnknownRun, ANY, "503 unavailable", was_ill),
    odd(Oddity::OtherText, ANY, "422 key_reused", whatever),
    odd(Oddity::OtherText, ANY, "503 unavailable", was_ill),
    odd(Oddity::SaidAgain, ANY, "202", is_accepted),
    odd(Oddity::SaidAgain, ANY, "503 unavailable", was_ill),
    odd(Oddity::Unnamed, CANCEL.name, "202", is_stopped),
    odd(Oddity::Unnamed, CANCEL.name, "200", was_idle),
    odd(Oddity::Unnamed, CANCEL.name, "503 unavailable", was_ill),
];

/// An answer, with the world as it is and was.
struct Case<'a> {
    told: &'a Told,
    session: &'a str,
    /// The run that the request was about.
    run: &'a str,
    gateway: &'a str,
    /// When it was asked.
    since: Duration,
    world: &'a World,
    /// The runs that their users know.
    heard: &'a BTreeSet<String>,
}

impl Case<'_> {
    fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.world.history.session(self.session, self.since)
    }

    /// Whether anything that matters was ill while the request went on, or not long before it.
    fn was_ill(&self, matters: impl Fn(&str) -> bool) -> bool {
        let calm = self.world.health.calm_since(matters);
        calm.is_none_or(|calm| !calm.is_zero() && calm + AFTERMATH >= self.since)
    }
}

fn whatever(_: &Case) -> bool {
    true
}

fn exists(case: &Case) -> bool {
    case.world.runs.get(case.run).is_some()
}

fn is_accepted(case: &Case) -> bool {
    exists(case) && case.told.shows == Shows::Run(Some(case.run.to_owned()))
}

fn was_busy(case: &Case) -> bool {
    case.sessions().any(|session| !session.status.is_terminal())
}

fn was_idle(case: &Case) -> bool {
    case.sessions().any(|session| session.status.is_terminal())
}

fn was_suspended(case: &Case) -> bool {
    case.sessions().any(|session| session.suspended)
}

fn was_free(case: &Case) -> bool {
    case.sessions().any(|session| !session.suspended)
}

fn is_over(case: &Case) -> bool {
    case.world.runs.over(case.run).is_some()
}

/// The run that it shows shall stop, or was over with this request; it is the one that was named, if one was.
fn is_stopped(case: &Case) -> bool {
    let stopped = |run: &str| match case.world.runs.over(run) {
        Some(over) => over.at >= case.since,
        None => case.world.runs.is_stopped(run),
    };
    match &case.told.shows {
        Shows::Run(Some(run)) => stopped(run) && (case.told.odd == Some(Oddity::Unnamed) || run == case.run),
        // Its user has never heard of it: a message of hers was accepted, and the answer got lost.
        Shows::Run(None) if case.told.odd == Some(Oddity::Unnamed) => {
            let unheard = |(run, _): &(&str, _)| !case.heard.contains(*run);
            case.world.runs.of_session(case.session).filter(unheard).any(|(run, _)| stopped(run))
        }
        _ => false,
    }
}

fn was_assigned(case: &Case) -> bool {
    let (Some(agent), Shows::Assignment { subscription, epoch }) = (&case.told.agent, &case.told.shows) else {
        return false;
    };
    case.world.history.assignment(agent, case.since).any(|(to, under)| to == subscription && under == epoch)
}

fn was_unassigned(case: &Case) -> bool {
    case.told.agent.as_ref().is_some_and(|agent| case.world.history.was_unassigned(agent, case.since))
}

fn has_moved(case: &Case) -> bool {
    let agent = case.told.agent.as_deref().unwrap_or_default();
    case.world.history.assignment(agent, Duration::ZERO).count() > 1
}

/// All that it shows of the session was so at one moment.
fn stood_so(case: &Case) -> bool {
    let Shows::Session { run, status, turns, suspended, live } = &case.told.shows else { return false };
    let redis = format!("{}->redis", case.gateway);
    let known = |session: &Session| match run {
        Some(run) => session.run == *run,
        None => !case.heard.contains(&session.run),
    };
    let stood = |session: &Session| {
        (session.status, session.turns, session.suspended) == (*status, *turns, *suspended) && known(session)
    };
    let was_ill = || case.was_ill(|target| target == case.gateway || target == redis);
    // A node that was demoted, and one whose memory was exchanged, shows what was so once.
    let was_elsewhere = || {
        let since = case.since.saturating_sub(AFTERMATH);
        case.world.health.was_struck_since(
            &["demoted", "failover", "corrupt"],
            |target| target == "redis" || target == redis,
            since,
        )
    };
    let shown = || case.world.history.shown(case.session, case.since);
    let viewed = match live {
        View::Unknown => was_ill(),
        View::Idle => shown().any(Option::is_none) || was_elsewhere(),
        View::Going(Some(run)) => shown().any(|shown| shown.as_ref() == Some(run)) || was_elsewhere(),
        View::Going(None) => {
            shown().any(|shown| shown.as_ref().is_some_and(|run| !case.heard.contains(run))) || was_elsewhere()
        }
    };
    case.sessions().any(stood) && viewed
}

/// Each message that was there before the request is shown, and each that is shown was, as it was.
fn was_said(case: &Case) -> bool {
    let Shows::Conversation(shown) = &case.told.shows else { return false };
    let history = &case.world.history;
    let as_it_was = |(run, state, answers): &(String, _, usize)| {
        history.message(run, case.since).any(|was| was == state)
            && history.turns(run, case.since).any(|turns| usize::try_from(*turns) == Ok(*answers))
    };
    let mut before = case.world.runs.of_session(case.session).filter(|(_, run)| run.accepted < case.since);
    shown.iter().all(as_it_was) && before.all(|(label, _)| shown.iter().any(|(run, ..)| run == label))
}

fn is_crowded(case: &Case) -> bool {
    case.world.links.leading_to(case.gateway) >= limits::STREAMS_MAX
}

fn lives(case: &Case) -> bool {
    case.world.health.life(case.gateway).alive
}

/// Who is cut off, or stands still, in the midst of a transaction holds what that has locked, against the gateway too.
fn was_ill(case: &Case) -> bool {
    let process = |target: &str| matches!(role(target), Some(Role::Executor | Role::Gateway));
    let draining = case.world.health.life(case.gateway).draining;
    draining || case.was_ill(|target| leads_to(target, "postgres") || process(target))
}

/// See the module.
#[derive(Default)]
pub struct AnswersBind {
    /// Runs whose users have asked to stop them.
    stops: BTreeSet<String>,
    /// Sessions whose users have asked to stop what is going.
    stops_any: BTreeSet<String>,
    /// Runs that their users know.
    heard: BTreeSet<String>,
    armed: bool,
}

/// Whether the world was as the answer to `user` says.
fn judge(user: &str, case: &Case) -> Result<(), Breach> {
    let Told { request, odd, .. } = case.told;
    let answer = case.told.answer();
    let due: Vec<&Row> = TABLE.iter().filter(|row| row.odd == *odd && [ANY, request].contains(&row.request)).collect();
    let wrong = match due.iter().find(|row| row.answer == answer) {
        Some(row) if (row.so)(case) => return Ok(()),
        Some(row) => format!("that says that {}, and it was not so", row.implies),
        // It is in no table at all: another promise's breach.
        None if odd.is_none() => return Ok(()),
        None => {
            let due: Vec<&str> = due.iter().map(|row| row.answer).collect();
            format!("what is due to a request so odd, {odd:?}, is {}", due.join(" or "))
        }
    };
    let (gateway, run) = (case.gateway, case.run);
    Err(Breach::now(format!("{gateway} answered {user}'s {request}, about {run}, with {answer}: {wrong}")))
}

/// A run is over that shall stop: as cancelled, or completed if its last turn is kept. What else went wrong may have come first,
/// if something did, or its session was suspended.
fn ends_as_asked(world: &World, label: &str, status: Status) -> Result<(), Breach> {
    let Some(run) = world.runs.get(label) else { return Ok(()) };
    let Some(stopped) = run.stopped else { return Ok(()) };
    let so = match status {
        Status::Cancelled => true,
        Status::Completed => run.finished.is_some(),
        _ => world.runs.was_suspended_since(&run.session, run.accepted) || !world.health.is_undisturbed_since(stopped),
    };
    if so {
        return Ok(());
    }
    Err(Breach::now(format!("{label}, which its user stopped, is {}", status.word())))
}

impl Promise for AnswersBind {
    fn name(&self) -> &'static str {
        "answers_bind"
    }

    fn says(&self) -> &'static str {
        "what an answer says was so between request and answer, and who may not ask is refused and shown nothing"
    }

    fn observe(&mut self, event: &Event<Did>, world: &World) -> Result<(), Breach> {
        let What::Product(did) = &event.what else { return Ok(()) };
        match did {
            Did::User(UserEvent::Heard { run, .. }) => _ = self.heard.insert(run.clone()),
            Did::User(UserEvent::StopAsked { run, named: true, .. }) => _ = self.stops.insert(run.clone()),
            Did::User(UserEvent::StopAsked { session, named: false, .. }) => {
                self.stops_any.insert(session.clone());
            }
            Did::Run(RunEvent::CancelRequested { session, run })
            | Did::Run(RunEvent::Ended { session, run, status: Status::Cancelled, .. })
                if !self.stops.contains(run) && !self.stops_any.contains(session) =>
            {
                return Err(Breach::now(format!("{run} was stopped, and no user has asked for that")));
            }
            Did::Run(RunEvent::Ended { run, status, .. }) => ends_as_asked(world, run, *status)?,
            Did::User(UserEvent::Told { session, run, gateway, took, told }) => {
                self.armed = true;
                let (since, heard) = (event.at.saturating_sub(*took), &self.heard);
                let case = Case { told, session, run, gateway, since, world, heard };
                if !is_spoilt(world, &event.process, gateway, event.at) {
                    judge(&event.process, &case)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn armed(&self) -> bool {
        self.armed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(request: &str, odd: Option<Oddity>, answer: &str) -> usize {
        let all = TABLE.iter().filter(|row| row.odd == odd && row.answer == answer);
        all.filter(|row| row.request == request).count()
    }

    #[test]
    fn every_answer_that_an_endpoint_may_give_has_one_row() {
        let all: Vec<(&str, Vec<String>)> = vec![
            (BEGIN.name, BEGIN.answers().collect()),
            (SAY.name, SAY.answers().collect()),
            (CANCEL.name, CANCEL.answers().collect()),
            (SUSPEND.name, SUSPEND.answers().collect()),
            (UNSUSPEND.name, UNSUSPEND.answers().collect()),
            (AGENT.name, AGENT.answers().collect()),
            (REASSIGN.name, REASSIGN.answers().collect()),
            (SESSION.name, SESSION.answers().collect()),
            (MESSAGES.name, MESSAGES.answers().collect()),
            (EVENTS.name, EVENTS.answers().collect()),
            (HEALTH.name, HEALTH.answers().collect()),
        ];
        for (request, answers) in all {
            assert!(!answers.is_empty(), "{request}");
            for answer in answers {
                assert_eq!(rows(request, None, &answer), 1, "{request}: {answer}");
            }
        }
    }

    #[test]
    fn who_may_not_ask_is_owed_one_answer_whatever_is_ill() {
        for odd in [Oddity::NoToken, Oddity::WrongToken, Oddity::UsersToken] {
            let due: Vec<&str> = TABLE.iter().filter(|row| row.odd == Some(odd)).map(|row| row.answer).collect();
            assert_eq!(due, ["401 unauthorized"]);
        }
    }
}
