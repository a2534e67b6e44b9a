//! Every statement, by name. This file and no other writes SQL.
//!
//! The text stands in the intersection of Postgres and SQLite: `bigint` (microseconds since 1970, or a count), `text`,
//! `boolean`; typed parameters; `UPDATE … RETURNING`. A change is one guarded statement, or a short transaction whose
//! first statement updates the session's row: that is the lock, and it is always taken before a run's row.

/// A statement: its name, the names of its parameters, its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// As `run.claim`: unique, and the comment with which the text begins.
    pub name: &'static str,
    /// The names of `$1`, `$2`, …, in that order.
    pub params: &'static [&'static str],
    /// What Postgres is sent.
    pub text: &'static str,
}

/// A statement from its name, its parameters' names and its SQL.
macro_rules! statement {
    ($name:literal, ($($param:ident),*), $sql:expr) => {
        Statement { name: $name, params: &[$(stringify!($param)),*], text: concat!("/* ", $name, " */ ", $sql) }
    };
}

/// The schema. Safe to run again; Postgres's own clock is behind `now_us()`.
pub const MIGRATION: &str = include_str!("schema.sql");

/// A connection's own bounds, milliseconds: `idle_in_transaction_session_timeout`, `statement_timeout`.
pub fn session_settings(idle_in_transaction: u128, statement: u128) -> String {
    format!("SET idle_in_transaction_session_timeout = {idle_in_transaction}; SET statement_timeout = {statement}")
}

/// Mints the next incarnation of a process. Returns `incarnation`.
pub const PROCESS_BOOT: Statement = statement!(
    "process.boot",
    (process),
    "INSERT INTO processes (name, incarnation) VALUES ($1, 1) \
    ON CONFLICT (name) DO UPDATE SET incarnation = processes.incarnation + 1 \
    RETURNING incarnation"
);

/// Returns the newest `incarnation` of a process.
pub const PROCESS_LOOK: Statement =
    statement!("process.look", (process), "SELECT incarnation FROM processes WHERE name = $1");

/// Locks a session; returns `position`, the place of what this transaction adds to the conversation.
pub const SESSION_LOCK: Statement = statement!(
    "session.lock",
    (session),
    "UPDATE sessions SET position = position + 1 WHERE session_id = $1 RETURNING position, suspended_reason"
);

/// Inserts a session, which locks it.
pub const SESSION_CREATE: Statement = statement!(
    "session.create",
    (session, agent),
    "INSERT INTO sessions (session_id, created_at, position, agent) VALUES ($1, now_us(), 1, $2)"
);

/// Returns the `agent` of a session.
pub const SESSION_AGENT: Statement =
    statement!("session.agent", (session), "SELECT agent FROM sessions WHERE session_id = $1");

/// Suspends a session for `reason`, unless it is suspended already.
pub const SESSION_SUSPEND: Statement = statement!(
    "session.suspend",
    (session, reason),
    "UPDATE sessions SET suspended_reason = $2 WHERE session_id = $1 AND suspended_reason IS NULL"
);

/// Lifts a suspension.
pub const SESSION_UNSUSPEND: Statement = statement!(
    "session.unsuspend",
    (session),
    "UPDATE sessions SET suspended_reason = NULL WHERE session_id = $1 AND suspended_reason IS NOT NULL"
);

/// Returns what was accepted under an idempotency key.
pub const MESSAGE_BY_KEY: Statement = statement!(
    "message.by_key",
    (key),
    "SELECT message_id, session_id, run_id, body FROM messages WHERE idempotency_key = $1"
);

/// Returns the run of a session that is not over, if there is one.
pub const RUN_OPEN: Statement = statement!(
    "run.open",
    (session),
    "SELECT run_id, status FROM runs WHERE session_id = $1 AND status IN ('queued', 'running')"
);

/// Inserts a run that waits.
pub const RUN_ENQUEUE: Statement = statement!(
    "run.enqueue",
    (run, session),
    "INSERT INTO runs (run_id, session_id, status, fence, queued_at, seen_at, claims_without_turn, turns, finished) \
    VALUES ($1, $2, 'queued', 0, now_us(), now_us(), 0, 0, FALSE)"
);

/// Inserts a message. No row: the key is taken.
pub const MESSAGE_ACCEPT: Statement = statement!(
    "message.accept",
    (message, key, session, run, position, body),
    "INSERT INTO messages (message_id, idempotency_key, session_id, run_id, position, body, accepted_at, state) \
    VALUES ($1, $2, $3, $4, $5, $6, now_us(), 'unread') \
    ON CONFLICT (idempotency_key) DO NOTHING RETURNING message_id"
);

/// The columns of a run's row, which the store reads by name.
macro_rules! run_columns {
    () => {
        "runs.run_id, runs.session_id, runs.status, runs.fence, runs.claim_id, runs.owner, runs.owner_incarnation, \
         runs.queued_at, runs.claimed_at, runs.beat_at, runs.checkpoint_at, runs.seen_at, runs.claims_without_turn, \
         runs.cancel_requested_at, runs.turns, runs.finished, runs.end_reason, sessions.suspended_reason, \
         CAST(now_us() AS bigint) AS now_at"
    };
}

/// Returns the row of a run.
pub const RUN_LOOK: Statement = statement!(
    "run.look",
    (run),
    concat!(
        "SELECT ",
        run_columns!(),
        " FROM runs JOIN sessions ON sessions.session_id = runs.session_id WHERE runs.run_id = $1"
    )
);

/// Returns the row of a session's newest run: the one whose message stands last in the session. No clock is asked: Postgres's may
/// have been set back since the run before.
pub const SESSION_LOOK: Statement = statement!(
    "session.look",
    (session),
    concat!(
        "SELECT ",
        run_columns!(),
        " FROM runs JOIN sessions ON sessions.session_id = runs.session_id WHERE runs.session_id = $1 \
      ORDER BY (SELECT max(messages.position) FROM messages WHERE messages.run_id = runs.run_id) DESC LIMIT 1"
    )
);

/// Returns the rows of runs that an executor may claim, the longest waiting first, `limit` at most: those that have waited
/// for `queued_claim_after`, and those whose owner has been silent for `takeover_after`, both in microseconds, or was an
/// earlier life of this process.
pub const SWEEP_DUE: Statement = statement!(
    "sweep.due",
    (process, incarnation, queued_claim_after, takeover_after, limit),
    concat!(
        "SELECT ",
        run_columns!(),
        " FROM runs JOIN sessions ON sessions.session_id = runs.session_id \
      WHERE (runs.status = 'queued' AND runs.queued_at <= now_us() - $3) \
        OR (runs.status = 'running' AND (runs.beat_at IS NULL OR runs.beat_at < now_us() - $4 \
          OR (runs.owner = $1 AND runs.owner_incarnation < $2))) \
      ORDER BY runs.queued_at, runs.run_id LIMIT $5"
    )
);

/// Returns the rows of runs that are not over, the longest waiting first, `limit` at most: those behind the place of
/// `after_run`, which was accepted at `after_queued_at`.
pub const SWEEP_READ: Statement = statement!(
    "sweep.read",
    (after_queued_at, after_run, limit),
    concat!(
        "SELECT ",
        run_columns!(),
        " FROM runs JOIN sessions ON sessions.session_id = runs.session_id WHERE runs.status IN ('queued', 'running') \
        AND (runs.queued_at > $1 OR (runs.queued_at = $1 AND runs.run_id > $2)) \
      ORDER BY runs.queued_at, runs.run_id LIMIT $3"
    )
);

/// Notes that an executor has seen the runs that wait: the queued ones, and those whose owner has been silent for `takeover_after`.
/// A run that has shown no sign for `freshness` is left as it is. Both in microseconds.
pub const SWEEP_SEEN: Statement = statement!(
    "sweep.seen",
    (freshness, takeover_after),
    "UPDATE runs SET seen_at = now_us() \
    WHERE (status = 'queued' OR (status = 'running' AND beat_at < now_us() - $2)) \
      AND (seen_at >= now_us() - $1 OR beat_at >= now_us() - $1)"
);

/// Claims a run whose fence is still `seen_fence`. Mints and returns `fence`. No row: somebody was faster, the owner
/// lives (its last beat is younger than `takeover_after`, microseconds), or a later life of this process has begun. The
/// mark that it bears is returned and stays: the claim tells the user of it. The new fence is above `known_fence` too, which
/// somebody has seen, though Postgres may have lost it.
pub const RUN_CLAIM: Statement = statement!(
    "run.claim",
    (run, claim, owner, incarnation, seen_fence, takeover_after, known_fence),
    "UPDATE runs SET status = 'running', fence = 1 + CASE WHEN fence < $7 THEN $7 ELSE fence END, claim_id = $2, \
      owner = $3, owner_incarnation = $4, \
      claimed_at = now_us(), beat_at = now_us(), claims_without_turn = claims_without_turn + 1 \
    WHERE run_id = $1 AND fence = $5 \
      AND (status = 'queued' OR (status = 'running' AND (beat_at < now_us() - $6 \
        OR (owner = $3 AND owner_incarnation < $4)))) \
      AND NOT EXISTS (SELECT 1 FROM processes WHERE name = $3 AND incarnation > $4) \
    RETURNING fence, session_id, marked_by, mark_reason"
);

/// Takes `mark` off a run: its user has been told.
pub const RUN_TOLD: Statement = statement!(
    "run.told",
    (run, fence, mark),
    "UPDATE runs SET marked_by = NULL, mark_reason = NULL, marked_at = NULL \
    WHERE run_id = $1 AND fence = $2 AND marked_by = $3"
);

/// Tells the user of a run something.
pub const NOTICE_RUN: Statement = statement!(
    "notice.run",
    (notice, session, run, body),
    "INSERT INTO notices (notice_id, session_id, run_id, body, at) VALUES ($1, $2, $3, $4, now_us())"
);

/// Returns the newest notices first, `limit` at most: of the session's runs, and of its agent since it began.
pub const NOTICES_READ: Statement = statement!(
    "notices.read",
    (session, limit),
    "SELECT notices.run_id, notices.body, notices.at FROM notices JOIN sessions ON sessions.session_id = $1 \
    WHERE notices.session_id = $1 OR (notices.agent = sessions.agent AND notices.at >= sessions.created_at) \
    ORDER BY notices.at DESC, notices.notice_id LIMIT $2"
);

/// Marks those of `runs`, written as `|RUN:FENCE|RUN:FENCE|`, that are the owner's own and not marked; what is
/// suspended stays as it is. Returns those that it marked.
pub const RUN_MARK: Statement = statement!(
    "run.mark",
    (mark, reason, owner, incarnation, runs),
    "UPDATE runs SET marked_by = $1, mark_reason = $2, marked_at = now_us() \
    WHERE status = 'running' AND owner = $3 AND owner_incarnation = $4 AND marked_by IS NULL \
      AND $5 LIKE '%|' || run_id || ':' || fence || '|%' \
      AND NOT EXISTS (SELECT 1 FROM sessions \
        WHERE sessions.session_id = runs.session_id AND sessions.suspended_reason IS NOT NULL) \
    RETURNING run_id"
);

/// Takes `mark` off runs that are over: nobody has to go on with them. Returns which.
pub const RUN_UNMARK: Statement = statement!(
    "run.unmark",
    (mark),
    "UPDATE runs SET marked_by = NULL, mark_reason = NULL, marked_at = NULL \
    WHERE marked_by = $1 AND status NOT IN ('queued', 'running') RETURNING run_id"
);

/// Says that the owner of `runs`, written as `|RUN:FENCE|RUN:FENCE|`, lives. Returns those that are still its own.
pub const RUN_BEAT: Statement = statement!(
    "run.beat",
    (owner, incarnation, runs),
    "UPDATE runs SET beat_at = now_us() \
    WHERE status = 'running' AND owner = $1 AND owner_incarnation = $2 \
      AND $3 LIKE '%|' || run_id || ':' || fence || '|%' \
    RETURNING run_id, fence, cancel_requested_at, \
      (SELECT sessions.suspended_reason FROM sessions WHERE sessions.session_id = runs.session_id) AS suspended_reason"
);

/// Gives a run back to the queue, with its mark; the claim that comes to nothing is not counted. The fence alone does not
/// say whose it is: a Postgres that has lost its newest commits mints it twice.
pub const RUN_HAND_BACK: Statement = statement!(
    "run.hand_back",
    (run, fence, claim),
    "UPDATE runs SET status = 'queued', fence = fence + 1, claim_id = NULL, owner = NULL, owner_incarnation = NULL, \
      seen_at = now_us(), \
      claims_without_turn = CASE WHEN claims_without_turn > 0 THEN claims_without_turn - 1 ELSE 0 END \
    WHERE run_id = $1 AND fence = $2 AND claim_id = $3 AND status = 'running' RETURNING fence, session_id"
);

/// Counts a turn that is checkpointed; `last` says whether it is the run's last.
pub const RUN_CHECKPOINT: Statement = statement!(
    "run.checkpoint",
    (run, fence, turn, last, claim),
    "UPDATE runs SET turns = $3, finished = $4, checkpoint_at = now_us(), claims_without_turn = 0 \
    WHERE run_id = $1 AND fence = $2 AND claim_id = $5 AND status = 'running' AND turns = $3 - 1 \
    RETURNING session_id"
);

/// Inserts a turn of a run.
pub const CHECKPOINT_WRITE: Statement = statement!(
    "checkpoint.write",
    (run, turn, session, position, fence, answer),
    "INSERT INTO checkpoints (run_id, turn, session_id, position, fence, answer, committed_at) \
    VALUES ($1, $2, $3, $4, $5, $6, now_us())"
);

/// Returns the `fence` under which a turn was committed, if the run is still under that claim.
pub const CHECKPOINT_LOOK: Statement = statement!(
    "checkpoint.look",
    (run, turn, claim),
    "SELECT checkpoints.fence FROM checkpoints JOIN runs ON runs.run_id = checkpoints.run_id \
    WHERE checkpoints.run_id = $1 AND checkpoints.turn = $2 AND runs.claim_id = $3"
);

/// Notes that the checkpoint of `turn` has consumed the message.
pub const MESSAGE_CONSUME: Statement = statement!(
    "message.consume",
    (message, turn),
    "UPDATE messages SET state = 'consumed', turn = $2 WHERE message_id = $1 AND state = 'unread'"
);

/// Reports to its user each message of a run that was not consumed.
pub const MESSAGE_REPORT: Statement = statement!(
    "message.report",
    (run, reason),
    "UPDATE messages SET state = 'reported', reason = $2 WHERE run_id = $1 AND state = 'unread' RETURNING message_id"
);

/// The owner's terminal write. A run whose last turn is checkpointed is completed, whatever its owner meant when it
/// could not know. Nobody goes on with one that is interrupted: its mark goes.
pub const RUN_TERMINAL: Statement = statement!(
    "run.terminal",
    (run, fence, status, reason, claim),
    "UPDATE runs SET status = CASE WHEN finished THEN 'completed' ELSE $3 END, \
      end_reason = CASE WHEN finished THEN 'done' ELSE $4 END, ended_at = now_us(), \
      marked_by = CASE WHEN $3 = 'interrupted' THEN NULL ELSE marked_by END \
    WHERE run_id = $1 AND fence = $2 AND claim_id = $5 AND status = 'running' RETURNING status, end_reason"
);

/// The terminal write of anybody but the owner: under a new fence, if the fence is still `seen_fence` and the claim
/// `seen_claim`, which is empty for none. A checkpoint that came since the row was seen counts here too.
pub const RUN_END_UNOWNED: Statement = statement!(
    "run.end_unowned",
    (run, seen_fence, status, reason, seen_claim),
    "UPDATE runs SET status = CASE WHEN finished THEN 'completed' ELSE $3 END, \
      end_reason = CASE WHEN finished THEN 'done' ELSE $4 END, ended_at = now_us(), fence = fence + 1, \
      marked_by = NULL, mark_reason = NULL, marked_at = NULL \
    WHERE run_id = $1 AND fence = $2 AND coalesce(claim_id, '') = $5 AND status IN ('queued', 'running') \
    RETURNING fence, status, end_reason"
);

/// Asks the owner of a run to stop it.
pub const RUN_CANCEL: Statement = statement!(
    "run.cancel",
    (run),
    "UPDATE runs SET cancel_requested_at = coalesce(cancel_requested_at, now_us()) \
    WHERE run_id = $1 AND status IN ('queued', 'running') RETURNING session_id"
);

/// Returns what users said in a session.
pub const MESSAGES_READ: Statement = statement!(
    "messages.read",
    (session),
    "SELECT message_id, run_id, position, body, state, turn, reason FROM messages \
    WHERE session_id = $1 ORDER BY position"
);

/// Returns what was answered in a session.
pub const CHECKPOINTS_READ: Statement = statement!(
    "checkpoints.read",
    (session),
    "SELECT run_id, turn, position, fence, answer FROM checkpoints WHERE session_id = $1 ORDER BY position"
);

/// Returns what was answered in a run.
pub const RUN_CHECKPOINTS: Statement =
    statement!("run.checkpoints", (run), "SELECT turn, fence, answer FROM checkpoints WHERE run_id = $1 ORDER BY turn");

/// Gives an agent its first assignment, if it has none. No row: it has one.
pub const AGENT_ENSURE: Statement = statement!(
    "agent.ensure",
    (agent, subscription),
    "INSERT INTO agents (agent, subscription, epoch) VALUES ($1, $2, 1) \
    ON CONFLICT (agent) DO NOTHING RETURNING epoch"
);

/// Returns the assignment of an agent and how far that has come.
pub const AGENT_LOOK: Statement = statement!(
    "agent.look",
    (agent),
    "SELECT agents.subscription, agents.epoch, agents.container, \
      switches.from_subscription, switches.cause, switches.state \
    FROM agents JOIN switches ON switches.agent = agents.agent AND switches.epoch = agents.epoch \
    WHERE agents.agent = $1"
);

/// Notes that an agent has answered, or was restarted, unless that was noted less than `lately`, microseconds, ago.
pub const AGENT_ANSWERED: Statement = statement!(
    "agent.answered",
    (agent, lately),
    "INSERT INTO agent_answers (agent, answered_at) VALUES ($1, now_us()) \
    ON CONFLICT (agent) DO UPDATE SET answered_at = now_us() WHERE agent_answers.answered_at < now_us() - $2"
);

/// Returns for how long an agent has answered nobody, microseconds, as `silent`. No row: it never has.
pub const AGENT_SILENT: Statement = statement!(
    "agent.silent",
    (agent),
    "SELECT CAST(now_us() - answered_at AS bigint) AS silent FROM agent_answers WHERE agent = $1"
);

/// Takes the lock of an agent for `lasts`, microseconds. No row: somebody else has it. Taken twice by the same it is
/// the same lock.
pub const AGENT_LOCK: Statement = statement!(
    "agent.lock",
    (agent, by, lasts),
    "UPDATE agents SET switching_by = $2, switching_until = now_us() + $3 \
    WHERE agent = $1 AND (switching_by IS NULL OR switching_by = $2 OR switching_until < now_us()) \
    RETURNING epoch"
);

/// Renews the lock of an agent for `lasts`, microseconds, if the epoch is still `epoch_or_0`; 0 stands for any. No row:
/// the lock is lost, or the assignment has changed.
pub const AGENT_RENEW: Statement = statement!(
    "agent.renew",
    (agent, by, lasts, epoch_or_0),
    "UPDATE agents SET switching_until = now_us() + $3 \
    WHERE agent = $1 AND switching_by = $2 AND ($4 = 0 OR epoch = $4) RETURNING epoch"
);

/// Lets go of the lock of an agent.
pub const AGENT_UNLOCK: Statement = statement!(
    "agent.unlock",
    (agent, by),
    "UPDATE agents SET switching_by = NULL, switching_until = NULL WHERE agent = $1 AND switching_by = $2"
);

/// Assigns the next subscription to an agent that is still as it was seen. Mints and returns `epoch`; it has no
/// container yet.
pub const AGENT_ASSIGN: Statement = statement!(
    "agent.assign",
    (agent, by, seen_epoch, seen_subscription, subscription),
    "UPDATE agents SET subscription = $5, epoch = epoch + 1, container = NULL \
    WHERE agent = $1 AND switching_by = $2 AND epoch = $3 AND subscription = $4 RETURNING epoch"
);

/// Assigns the subscription that an operator chose, if the agent is still as the operator saw it. Mints and returns
/// `epoch`. It needs no lock: who holds that is refused from here on, because the epoch is another one.
pub const AGENT_REASSIGN: Statement = statement!(
    "agent.reassign",
    (agent, seen_epoch, seen_subscription, subscription),
    "UPDATE agents SET subscription = $4, epoch = epoch + 1, container = NULL \
    WHERE agent = $1 AND epoch = $2 AND subscription = $3 RETURNING epoch"
);

/// Notes the container of an assignment, if it is still as it was seen; `seen_container` is empty for none. Repeated
/// after a lost answer it is the same.
pub const AGENT_CONTAINER: Statement = statement!(
    "agent.container",
    (agent, by, epoch, seen_container, container),
    "UPDATE agents SET container = $5 \
    WHERE agent = $1 AND switching_by = $2 AND epoch = $3 AND (coalesce(container, '') = $4 OR container = $5) \
    RETURNING container"
);

/// Records that a subscription failed, once for each `failure`.
pub const SUBSCRIPTION_FAIL: Statement = statement!(
    "subscription.fail",
    (failure, agent, subscription, epoch, kind),
    "INSERT INTO subscription_failures (failure_id, agent, subscription, epoch, kind, at) \
    VALUES ($1, $2, $3, $4, $5, now_us()) ON CONFLICT (failure_id) DO NOTHING"
);

/// Returns each subscription that has failed within `counts_for`, microseconds, and in how long that will not count any
/// more.
pub const SUBSCRIPTION_FAILED_LATELY: Statement = statement!(
    "subscription.failed_lately",
    (counts_for),
    "SELECT subscription, CAST(max(at) + $1 - now_us() AS bigint) AS counts_for FROM subscription_failures \
    WHERE at > now_us() - $1 GROUP BY subscription"
);

/// Deletes failures that are older than `kept_for`, microseconds.
pub const SUBSCRIPTION_FORGET: Statement =
    statement!("subscription.forget", (kept_for), "DELETE FROM subscription_failures WHERE at < now_us() - $1");

/// Records an assignment; `from` is empty for the first one.
pub const SWITCH_BEGIN: Statement = statement!(
    "switch.begin",
    (agent, epoch, from, to, cause),
    "INSERT INTO switches (agent, epoch, from_subscription, to_subscription, cause, state, created_at) \
    VALUES ($1, $2, nullif($3, ''), $4, $5, 'assigned', now_us())"
);

/// Notes that an assignment was replaced by another one before it was finished.
pub const SWITCH_FAIL: Statement = statement!(
    "switch.fail",
    (agent, epoch),
    "UPDATE switches SET state = 'failed' WHERE agent = $1 AND epoch = $2 AND state IN ('assigned', 'ready')"
);

/// Notes that the agent has answered under an assignment.
pub const SWITCH_READY: Statement = statement!(
    "switch.ready",
    (agent, epoch),
    "UPDATE switches SET state = 'ready' WHERE agent = $1 AND epoch = $2 AND state = 'assigned'"
);

/// Notes that nothing is left to do for an assignment.
pub const SWITCH_NOTIFIED: Statement = statement!(
    "switch.notified",
    (agent, epoch),
    "UPDATE switches SET state = 'notified' WHERE agent = $1 AND epoch = $2 AND state = 'ready'"
);

/// Returns the switch of an agent that is not finished and that nobody is finishing.
pub const SWITCH_UNFINISHED: Statement = statement!(
    "switch.unfinished",
    (agent),
    "SELECT switches.epoch FROM switches \
    JOIN agents ON agents.agent = switches.agent AND agents.epoch = switches.epoch \
    WHERE agents.agent = $1 AND switches.state IN ('assigned', 'ready') \
      AND (agents.switching_by IS NULL OR agents.switching_until < now_us())"
);

/// Tells the users of an agent of an assignment, once.
pub const NOTICE_SWITCH: Statement = statement!(
    "notice.switch",
    (notice, agent, epoch, body),
    "INSERT INTO notices (notice_id, agent, epoch, body, at) VALUES ($1, $2, $3, $4, now_us()) \
    ON CONFLICT (agent, epoch) DO NOTHING"
);

/// Every statement, in the order of this file.
pub const ALL: &[Statement] = &[
    PROCESS_BOOT,
    PROCESS_LOOK,
    SESSION_LOCK,
    SESSION_CREATE,
    SESSION_AGENT,
    SESSION_SUSPEND,
    SESSION_UNSUSPEND,
    MESSAGE_BY_KEY,
    RUN_OPEN,
    RUN_ENQUEUE,
    MESSAGE_ACCEPT,
    RUN_LOOK,
    SESSION_LOOK,
    SWEEP_DUE,
    SWEEP_READ,
    SWEEP_SEEN,
    RUN_CLAIM,
    RUN_TOLD,
    NOTICE_RUN,
    NOTICES_READ,
    RUN_MARK,
    RUN_UNMARK,
    RUN_BEAT,
    RUN_HAND_BACK,
    RUN_CHECKPOINT,
    CHECKPOINT_WRITE,
    CHECKPOINT_LOOK,
    MESSAGE_CONSUME,
    MESSAGE_REPORT,
    RUN_TERMINAL,
    RUN_END_UNOWNED,
    RUN_CANCEL,
    MESSAGES_READ,
    CHECKPOINTS_READ,
    RUN_CHECKPOINTS,
    AGENT_ENSURE,
    AGENT_LOOK,
    AGENT_ANSWERED,
    AGENT_SILENT,
    AGENT_LOCK,
    AGENT_RENEW,
    AGENT_UNLOCK,
    AGENT_ASSIGN,
    AGENT_REASSIGN,
    AGENT_CONTAINER,
    SUBSCRIPTION_FAIL,
    SUBSCRIPTION_FAILED_LATELY,
    SUBSCRIPTION_FORGET,
    SWITCH_BEGIN,
    SWITCH_FAIL,
    SWITCH_READY,
    SWITCH_NOTIFIED,
    SWITCH_UNFINISHED,
    NOTICE_SWITCH,
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_parameter_of_a_statement_has_a_name_and_every_name_a_parameter() {
        for Statement { name, params, text } in ALL {
            let numbers: BTreeSet<usize> = text
                .split('$')
                .skip(1)
                .filter_map(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok())
                .collect();
            assert!(numbers.into_iter().eq(1..=params.len()), "{name} names {params:?}");
            assert_eq!(params.iter().collect::<BTreeSet<_>>().len(), params.len(), "{name} names {params:?}");
        }
    }

    #[test]
    fn no_two_statements_have_one_name() {
        assert_eq!(ALL.iter().map(|statement| statement.name).collect::<BTreeSet<_>>().len(), ALL.len());
    }
}
