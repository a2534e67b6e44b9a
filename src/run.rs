//! The state machine of a run: pure decisions, no I/O, no clock.
//!
//! `queued → running → {completed, failed, interrupted, cancelled}`. A terminal status is final.

use std::time::Duration;

use serde::Serialize;

use crate::ids::{ClaimId, Fence, Owner, RunId, SessionId};
use crate::limits::{CLAIM_SETTLED, CLAIMS_WITHOUT_TURN, Limits};

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waiting for an executor.
    Queued,
    /// An executor works on it.
    Running,
    /// The last turn is checkpointed.
    Completed,
    /// The run cannot go on.
    Failed,
    /// The run was given up for a reason outside of it.
    Interrupted,
    /// The user stopped the run.
    Cancelled,
}

impl Status {
    /// The word in Postgres, in Redis and in HTTP answers.
    pub fn word(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Interrupted => "interrupted",
            Status::Cancelled => "cancelled",
        }
    }

    /// The status that the word means, if it means one.
    pub fn parse(word: &str) -> Option<Self> {
        use Status::*;
        [Queued, Running, Completed, Failed, Interrupted, Cancelled].into_iter().find(|status| status.word() == word)
    }

    /// Whether nothing can follow.
    pub fn is_terminal(self) -> bool {
        !matches!(self, Status::Queued | Status::Running)
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// No turn has read it.
    Unread,
    /// A checkpointed turn has read it.
    Consumed,
    /// No turn has, and its user was told why.
    Reported,
}

impl MessageState {
    /// The word in Postgres and in HTTP answers.
    pub fn word(self) -> &'static str {
        match self {
            MessageState::Unread => "unread",
            MessageState::Consumed => "consumed",
            MessageState::Reported => "reported",
        }
    }

    /// The state that the word means, if it means one.
    pub fn parse(word: &str) -> Option<Self> {
        use MessageState::*;
        [Unread, Consumed, Reported].into_iter().find(|state| state.word() == word)
    }
}

/// The reason of a run that ends because its session is suspended.
pub const SUSPENDED: &str = "suspended";
/// The reason of a run that failed because its owner lived and did not move.
pub const STUCK: &str = "stuck: its owner lived but did not move";
/// What the reason of a run begins with that failed because no subscription is left for its agent.
pub const NO_SUBSCRIPTION: &str = "no_subscription";
/// What the reason of a run begins with that failed because Postgres refused one of its statements for good.
pub const STORE_REFUSED: &str = "Postgres refused";

/// The end of a run, with the reason for its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// A terminal status.
    pub status: Status,
    /// The reason: one word or a short sentence; `done` for a completed run.
    pub reason: String,
}

impl End {
    /// The last turn is checkpointed.
    pub fn completed() -> Self {
        End { status: Status::Completed, reason: "done".into() }
    }

    /// The run cannot go on.
    pub fn failed(reason: impl Into<String>) -> Self {
        End { status: Status::Failed, reason: reason.into() }
    }

    /// The run was given up.
    pub fn interrupted(reason: impl Into<String>) -> Self {
        End { status: Status::Interrupted, reason: reason.into() }
    }

    /// The session is suspended.
    pub fn suspended() -> Self {
        End::interrupted(SUSPENDED)
    }

    /// The user stopped the run.
    pub fn cancelled() -> Self {
        End { status: Status::Cancelled, reason: "cancelled by the user".into() }
    }
}

/// The notice of a run that another executor goes on with: `why` is its mark's reason.
pub fn resumed(why: &str) -> String {
    let why = match why {
        "shutdown" => "the executor that worked on it was shut down",
        _ => "the executor that worked on it is gone",
    };
    format!("Your run was taken over: {why}. It goes on behind its last finished turn; nothing is lost.")
}

/// The notice of a run that its claim gave up.
pub fn given_up(end: &End) -> String {
    format!("Your run was given up: {}.", end.reason)
}

/// A run's row as Postgres shows it. Times are Postgres's own, in microseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The run.
    pub run: RunId,
    /// The session.
    pub session: SessionId,
    /// Where it stands.
    pub status: Status,
    /// The newest fence.
    pub fence: Fence,
    /// The claim that minted it.
    pub claim: Option<ClaimId>,
    /// The owner, if the run is running.
    pub owner: Option<Owner>,
    /// When it was accepted.
    pub queued_at: i64,
    /// When it was last claimed.
    pub claimed_at: Option<i64>,
    /// When its owner last said that it lives.
    pub beat_at: Option<i64>,
    /// When its last turn was checkpointed.
    pub checkpoint_at: Option<i64>,
    /// When anybody last saw it waiting.
    pub seen_at: i64,
    /// Claims since its last checkpoint.
    pub claims_without_turn: i64,
    /// Whether its user asked to stop it.
    pub cancel_requested: bool,
    /// Turns that are checkpointed.
    pub turns: i64,
    /// Whether the last checkpointed turn was the last one.
    pub finished: bool,
    /// Why it ended, if it has.
    pub end_reason: Option<String>,
    /// Why its session is suspended, if it is.
    pub suspended: Option<String>,
    /// Postgres's clock when it answered.
    pub now: i64,
}

/// The decision of a claim on a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Take it under a new fence.
    Take,
    /// This very claim has taken it already: the answer got lost.
    AlreadyOurs,
    /// End it here and now, without a call.
    End {
        /// The end.
        end: End,
        /// Why its session is suspended with it, if it is.
        suspend: Option<String>,
    },
    /// Leave it to its owner; its delivery is done with.
    Leave,
}

fn since(now: i64, then: i64) -> Duration {
    Duration::from_micros(now.saturating_sub(then).max(0).cast_unsigned())
}

impl Row {
    /// The end, if the run is over.
    pub fn end(&self) -> Option<End> {
        let reason = self.end_reason.clone().unwrap_or_default();
        self.status.is_terminal().then_some(End { status: self.status, reason })
    }

    /// Whether this claim, under this fence, is its newest one.
    pub fn is_under(&self, fence: Fence, claim: &ClaimId) -> bool {
        self.fence == fence && self.claim.as_ref() == Some(claim)
    }

    /// Whether its owner is gone: it stopped beating, or lives a later life.
    pub fn is_orphan(&self, claimant: &Owner, limits: &Limits) -> bool {
        let earlier_life =
            self.owner.as_ref().is_some_and(|o| o.process == claimant.process && o.incarnation < claimant.incarnation);
        let silent = self.beat_at.is_none_or(|beat| since(self.now, beat) > limits.takeover_after);
        self.status == Status::Running && (earlier_life || silent)
    }

    /// Whether it is time to end a run that beats but does not move.
    pub fn is_stuck(&self, limits: &Limits) -> bool {
        let moved = self.claimed_at.max(self.checkpoint_at);
        self.status == Status::Running && moved.is_some_and(|moved| since(self.now, moved) > limits.stuck_after)
    }

    /// Whether a sweep should claim it: nobody took its hint, or its owner is gone.
    pub fn is_due(&self, claimant: &Owner, limits: &Limits) -> bool {
        let waited = self.status == Status::Queued && since(self.now, self.queued_at) >= limits.queued_claim_after;
        waited || self.is_orphan(claimant, limits)
    }

    /// The time until the row can be due at the earliest.
    pub fn due_in(&self, limits: &Limits) -> Duration {
        match self.status {
            Status::Queued => limits.queued_claim_after.saturating_sub(since(self.now, self.queued_at)),
            _ => limits.takeover_after.saturating_sub(self.beat_at.map_or(Duration::MAX, |beat| since(self.now, beat))),
        }
    }

    /// Whether it stands under our name although we do not run it and no claim of ours can still be in flight.
    pub fn is_stray(&self, owner: &Owner) -> bool {
        let settled = self.claimed_at.is_none_or(|claimed| since(self.now, claimed) > CLAIM_SETTLED);
        self.status == Status::Running && self.owner.as_ref() == Some(owner) && settled
    }

    /// Decides what `claim` by `claimant` does with the row. Cancellation, suspension and freshness are decided here,
    /// whatever path led to the claim.
    pub fn decide(&self, claim: &ClaimId, claimant: &Owner, limits: &Limits) -> Decision {
        let ended = |end| Decision::End { end, suspend: None };
        if self.status.is_terminal() {
            return Decision::Leave;
        }
        if self.status == Status::Running {
            if self.claim.as_ref() == Some(claim) && self.owner.as_ref() == Some(claimant) {
                return Decision::AlreadyOurs;
            }
            if !self.is_orphan(claimant, limits) {
                return Decision::Leave;
            }
        }
        let last_sign = self.beat_at.max(Some(self.seen_at)).unwrap_or(self.queued_at);
        if self.finished {
            ended(End::completed())
        } else if self.cancel_requested {
            ended(End::cancelled())
        } else if self.suspended.is_some() {
            ended(End::suspended())
        } else if since(self.now, last_sign) > limits.freshness {
            ended(End::interrupted("stale: nobody was there to work on it for too long"))
        } else if self.claims_without_turn >= CLAIMS_WITHOUT_TURN {
            let why = format!("{CLAIMS_WITHOUT_TURN} executors in a row were lost over it before a turn was done");
            Decision::End { end: End::suspended(), suspend: Some(why) }
        } else {
            Decision::Take
        }
    }
}

/// Why a run that is going must stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The user asked.
    Cancelled,
    /// Postgres shows a newer fence or another end: nothing of ours counts any more.
    Fenced,
    /// No beat was confirmed for too long: another executor may take it.
    Lost,
    /// The session is suspended.
    Suspended,
    /// The drain is over: another executor goes on with it.
    Drained,
    /// This executor was told to stop, and its policy is not to wait.
    Interrupted,
}

/// The end that a run intends, before anything is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The run ends so.
    End(End),
    /// Another executor shall go on with it.
    HandBack,
    /// The run is not ours any more.
    Nothing,
}

impl Stop {
    /// Whether the run was ours until now, so that what it has begun to write counts.
    pub fn is_ours(self) -> bool {
        !matches!(self, Stop::Fenced | Stop::Lost)
    }

    /// The intent of a run that was stopped before its last checkpoint.
    pub fn intent(self) -> Intent {
        match self {
            Stop::Cancelled => Intent::End(End::cancelled()),
            Stop::Suspended => Intent::End(End::suspended()),
            Stop::Interrupted => Intent::End(End::interrupted("the executor was told to stop")),
            Stop::Fenced => Intent::Nothing,
            Stop::Lost | Stop::Drained => Intent::HandBack,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn me() -> Owner {
        Owner { process: "executor-1".into(), incarnation: 2 }
    }

    fn claim() -> ClaimId {
        ClaimId("c".into())
    }

    fn queued() -> Row {
        Row {
            run: RunId("r".into()),
            session: SessionId("s".into()),
            status: Status::Queued,
            fence: Fence(0),
            claim: None,
            owner: None,
            queued_at: 1000 * SECOND,
            claimed_at: None,
            beat_at: None,
            checkpoint_at: None,
            seen_at: 1000 * SECOND,
            claims_without_turn: 0,
            cancel_requested: false,
            turns: 0,
            finished: false,
            end_reason: None,
            suspended: None,
            now: 1010 * SECOND,
        }
    }

    fn running(process: &str, incarnation: i64) -> Row {
        Row {
            status: Status::Running,
            fence: Fence(1),
            claim: Some(ClaimId("other".into())),
            owner: Some(Owner { process: process.into(), incarnation }),
            claimed_at: Some(1000 * SECOND),
            beat_at: Some(1005 * SECOND),
            ..queued()
        }
    }

    fn decide(row: &Row) -> Decision {
        row.decide(&claim(), &me(), &Limits::default())
    }

    #[test]
    fn a_queued_run_is_taken_and_a_live_one_left_alone() {
        assert_eq!(decide(&queued()), Decision::Take);
        assert_eq!(decide(&running("executor-2", 7)), Decision::Leave);
        assert_eq!(decide(&Row { status: Status::Failed, ..queued() }), Decision::Leave);
    }

    #[test]
    fn a_run_changes_hands_when_its_owner_is_silent_or_lives_a_later_life() {
        let silent = Row { now: 1005 * SECOND + 331 * SECOND, ..running("executor-2", 7) };
        assert_eq!(decide(&silent), Decision::Take);
        assert_eq!(decide(&running("executor-1", 1)), Decision::Take);
        assert_eq!(decide(&running("executor-1", 2)), Decision::Leave, "it is ours, by another claim");
    }

    #[test]
    fn repeating_a_claim_finds_it_taken() {
        let mine = Row { claim: Some(claim()), ..running("executor-1", 2) };
        assert_eq!(decide(&mine), Decision::AlreadyOurs);
    }

    #[test]
    fn the_claim_decides_cancellation_suspension_freshness_and_loops() {
        let status = |row: Row| match decide(&row) {
            Decision::End { end, .. } => end.status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status(Row { cancel_requested: true, ..queued() }), Status::Cancelled);
        assert_eq!(status(Row { cancel_requested: true, finished: true, ..queued() }), Status::Completed);
        assert_eq!(status(Row { suspended: Some("why".into()), ..queued() }), Status::Interrupted);
        assert_eq!(status(Row { now: (1000 + 3601) * SECOND, ..queued() }), Status::Interrupted);
        assert_eq!(status(Row { claims_without_turn: 3, ..queued() }), Status::Interrupted);
        assert_eq!(decide(&Row { claims_without_turn: 2, ..queued() }), Decision::Take);
    }

    #[test]
    fn a_waiting_run_that_is_seen_stays_fresh() {
        let seen = Row { now: 9000 * SECOND, seen_at: 8990 * SECOND, ..queued() };
        assert_eq!(decide(&seen), Decision::Take);
    }

    #[test]
    fn a_stuck_owner_is_told_by_movement_not_by_beats() {
        let late = 1000 + 6 * 3600 + 301;
        let stuck = Row { now: late * SECOND, beat_at: Some(late * SECOND), ..running("executor-2", 7) };
        assert!(stuck.is_stuck(&Limits::default()));
        assert!(!Row { checkpoint_at: Some(2000 * SECOND), ..stuck }.is_stuck(&Limits::default()));
    }
}
