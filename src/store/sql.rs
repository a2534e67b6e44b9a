//! Every statement, by name. This file and no other writes SQL.
//!
//! The text stands in the intersection of Postgres and SQLite: `bigint` (microseconds since 1970, or a count), `text`,
//! `boolean`; typed parameters; `UPDATE … RETURNING`. A change is one guarded statement, or a short transaction whose
//! first statement updates the session's row: that is the lock, and it is always taken before a run's row.

/// The schema. Safe to run again; Postgres's own clock is behind `now_us()`.
pub const MIGRATION: &str = include_str!("schema.sql");

/// A connection's own bounds, milliseconds: `idle_in_transaction_session_timeout`, `statement_timeout`.
pub fn session_settings(idle_in_transaction: u128, statement: u128) -> String {
    format!("SET idle_in_transaction_session_timeout = {idle_in_transaction}; SET statement_timeout = {statement}")
}

/// `$1` process. Returns `incarnation`.
pub const PROCESS_BOOT: &str = "/* process.boot */ \
    INSERT INTO processes (name, incarnation) VALUES ($1, 1) \
    ON CONFLICT (name) DO UPDATE SET incarnation = processes.incarnation + 1 \
    RETURNING incarnation";

/// `$1` process. Returns `incarnation`.
pub const PROCESS_LOOK: &str = "/* process.look */ SELECT incarnation FROM processes WHERE name = $1";

/// `$1` session. Locks it; returns `position`, the place of what this transaction adds to the conversation.
pub const SESSION_LOCK: &str = "/* session.lock */ \
    UPDATE sessions SET position = position + 1 WHERE session_id = $1 RETURNING position, suspended_reason";

/// `$1` session, `$2` agent. A new session is locked by whoever inserts it.
pub const SESSION_CREATE: &str = "/* session.create */ \
    INSERT INTO sessions (session_id, created_at, position, agent) VALUES ($1, now_us(), 1, $2)";

/// `$1` session. Returns its `agent`.
pub const SESSION_AGENT: &str = "/* session.agent */ SELECT agent FROM sessions WHERE session_id = $1";

/// `$1` session, `$2` reason.
pub const SESSION_SUSPEND: &str = "/* session.suspend */ \
    UPDATE sessions SET suspended_reason = $2 WHERE session_id = $1 AND suspended_reason IS NULL";

/// `$1` session.
pub const SESSION_UNSUSPEND: &str = "/* session.unsuspend */ \
    UPDATE sessions SET suspended_reason = NULL WHERE session_id = $1 AND suspended_reason IS NOT NULL";

/// `$1` idempotency key. Returns what was accepted under it.
pub const MESSAGE_BY_KEY: &str = "/* message.by_key */ \
    SELECT message_id, session_id, run_id, body FROM messages WHERE idempotency_key = $1";

/// `$1` session. Returns the run that is not over, if there is one.
pub const RUN_OPEN: &str = "/* run.open */ \
    SELECT run_id, status FROM runs WHERE session_id = $1 AND status IN ('queued', 'running')";

/// `$1` run, `$2` session.
pub const RUN_ENQUEUE: &str = "/* run.enqueue */ \
    INSERT INTO runs (run_id, session_id, status, fence, queued_at, seen_at, claims_without_turn, turns, finished) \
    VALUES ($1, $2, 'queued', 0, now_us(), now_us(), 0, 0, FALSE)";

/// `$1` message, `$2` idempotency key, `$3` session, `$4` run, `$5` position, `$6` body. No row: the key is taken.
pub const MESSAGE_ACCEPT: &str = "/* message.accept */ \
    INSERT INTO messages (message_id, idempotency_key, session_id, run_id, position, body, accepted_at, state) \
    VALUES ($1, $2, $3, $4, $5, $6, now_us(), 'unread') \
    ON CONFLICT (idempotency_key) DO NOTHING RETURNING message_id";

/// The columns of a run's row, in the order in which `store.rs` reads them by name.
macro_rules! run_columns {
    () => {
        "runs.run_id, runs.session_id, runs.status, runs.fence, runs.claim_id, runs.owner, runs.owner_incarnation, \
         runs.queued_at, runs.claimed_at, runs.beat_at, runs.checkpoint_at, runs.seen_at, runs.claims_without_turn, \
         runs.cancel_requested_at, runs.turns, runs.finished, runs.end_reason, sessions.suspended_reason, \
         CAST(now_us() AS bigint) AS now_at"
    };
}

/// `$1` run. Returns its row.
pub const RUN_LOOK: &str = concat!(
    "/* run.look */ SELECT ",
    run_columns!(),
    " FROM runs JOIN sessions ON sessions.session_id = runs.session_id WHERE runs.run_id = $1"
);

/// `$1` session. Returns the row of its newest run.
pub const SESSION_LOOK: &str = concat!(
    "/* session.look */ SELECT ",
    run_columns!(),
    " FROM runs JOIN sessions ON sessions.session_id = runs.session_id WHERE runs.session_id = $1 \
      ORDER BY runs.queued_at DESC, runs.run_id DESC LIMIT 1"
);

/// `$1` how many. Returns the rows of runs that are not over, the longest waiting first.
pub const SWEEP_READ: &str = concat!(
    "/* sweep.read */ SELECT ",
    run_columns!(),
    " FROM runs JOIN sessions ON sessions.session_id = runs.session_id WHERE runs.status IN ('queued', 'running') \
      ORDER BY runs.queued_at, runs.run_id LIMIT $1"
);

/// Somebody saw them waiting.
pub const SWEEP_SEEN: &str = "/* sweep.seen */ UPDATE runs SET seen_at = now_us() WHERE status = 'queued'";

/// `$1` run, `$2` claim, `$3` owner, `$4` its incarnation, `$5` the fence that was seen, `$6` takeover_after in
/// microseconds. Mints and returns `fence`. No row: somebody was faster, the owner lives, or a later life of this
/// process has begun. The mark that it bears is returned and stays: the claim tells the user of it.
pub const RUN_CLAIM: &str = "/* run.claim */ \
    UPDATE runs SET status = 'running', fence = fence + 1, claim_id = $2, owner = $3, owner_incarnation = $4, \
      claimed_at = now_us(), beat_at = now_us(), claims_without_turn = claims_without_turn + 1 \
    WHERE run_id = $1 AND fence = $5 \
      AND (status = 'queued' OR (status = 'running' AND (beat_at < now_us() - $6 \
        OR (owner = $3 AND owner_incarnation < $4)))) \
      AND NOT EXISTS (SELECT 1 FROM processes WHERE name = $3 AND incarnation > $4) \
    RETURNING fence, session_id, marked_by, mark_reason";

/// `$1` run, `$2` fence, `$3` the mark. Takes the mark off: its user has been told.
pub const RUN_TOLD: &str = "/* run.told */ \
    UPDATE runs SET marked_by = NULL, mark_reason = NULL, marked_at = NULL \
    WHERE run_id = $1 AND fence = $2 AND marked_by = $3";

/// `$1` notice, `$2` session, `$3` run, `$4` what it says.
pub const NOTICE_RUN: &str = "/* notice.run */ \
    INSERT INTO notices (notice_id, session_id, run_id, body, at) VALUES ($1, $2, $3, $4, now_us())";

/// `$1` session, `$2` how many. Returns the newest notices first: of the session's runs, and of its agent since it began.
pub const NOTICES_READ: &str = "/* notices.read */ \
    SELECT notices.run_id, notices.body, notices.at FROM notices JOIN sessions ON sessions.session_id = $1 \
    WHERE notices.session_id = $1 OR (notices.agent = sessions.agent AND notices.at >= sessions.created_at) \
    ORDER BY notices.at DESC, notices.notice_id LIMIT $2";

/// `$1` the mark, `$2` why, `$3` owner, `$4` its incarnation, `$5` its runs as `|RUN:FENCE|RUN:FENCE|`. Marks those that
/// are its own and not marked; what is suspended stays as it is. Returns those that it marked.
pub const RUN_MARK: &str = "/* run.mark */ \
    UPDATE runs SET marked_by = $1, mark_reason = $2, marked_at = now_us() \
    WHERE status = 'running' AND owner = $3 AND owner_incarnation = $4 AND marked_by IS NULL \
      AND $5 LIKE '%|' || run_id || ':' || fence || '|%' \
      AND NOT EXISTS (SELECT 1 FROM sessions \
        WHERE sessions.session_id = runs.session_id AND sessions.suspended_reason IS NOT NULL) \
    RETURNING run_id";

/// `$1` the mark. Takes it off runs that are over: nobody has to go on with them. Returns which.
pub const RUN_UNMARK: &str = "/* run.unmark */ \
    UPDATE runs SET marked_by = NULL, mark_reason = NULL, marked_at = NULL \
    WHERE marked_by = $1 AND status NOT IN ('queued', 'running') RETURNING run_id";

/// `$1` owner, `$2` its incarnation, `$3` its runs as `|RUN:FENCE|RUN:FENCE|`. Returns those that are still its own.
pub const RUN_BEAT: &str = "/* run.beat */ \
    UPDATE runs SET beat_at = now_us() \
    WHERE status = 'running' AND owner = $1 AND owner_incarnation = $2 \
      AND $3 LIKE '%|' || run_id || ':' || fence || '|%' \
    RETURNING run_id, fence, cancel_requested_at, \
      (SELECT sessions.suspended_reason FROM sessions WHERE sessions.session_id = runs.session_id) AS suspended_reason";

/// `$1` run, `$2` fence. Gives it back to the queue, with its mark; the claim that comes to nothing is not counted.
pub const RUN_HAND_BACK: &str = "/* run.hand_back */ \
    UPDATE runs SET status = 'queued', fence = fence + 1, claim_id = NULL, owner = NULL, owner_incarnation = NULL, \
      seen_at = now_us(), \
      claims_without_turn = CASE WHEN claims_without_turn > 0 THEN claims_without_turn - 1 ELSE 0 END \
    WHERE run_id = $1 AND fence = $2 AND status = 'running' RETURNING fence, session_id";

/// `$1` run, `$2` fence, `$3` turn, `$4` whether it is the last one.
pub const RUN_CHECKPOINT: &str = "/* run.checkpoint */ \
    UPDATE runs SET turns = $3, finished = $4, checkpoint_at = now_us(), claims_without_turn = 0 \
    WHERE run_id = $1 AND fence = $2 AND status = 'running' AND turns = $3 - 1 RETURNING session_id";

/// `$1` run, `$2` turn, `$3` session, `$4` position, `$5` fence, `$6` answer.
pub const CHECKPOINT_WRITE: &str = "/* checkpoint.write */ \
    INSERT INTO checkpoints (run_id, turn, session_id, position, fence, answer, committed_at) \
    VALUES ($1, $2, $3, $4, $5, $6, now_us())";

/// `$1` run, `$2` turn. Returns the `fence` under which it was committed.
pub const CHECKPOINT_LOOK: &str = "/* checkpoint.look */ SELECT fence FROM checkpoints WHERE run_id = $1 AND turn = $2";

/// `$1` message, `$2` turn. The checkpoint of that turn has consumed it.
pub const MESSAGE_CONSUME: &str = "/* message.consume */ \
    UPDATE messages SET state = 'consumed', turn = $2 WHERE message_id = $1 AND state = 'unread'";

/// `$1` run, `$2` reason. What was given to the run and not consumed is reported to its user.
pub const MESSAGE_REPORT: &str = "/* message.report */ \
    UPDATE messages SET state = 'reported', reason = $2 WHERE run_id = $1 AND state = 'unread' RETURNING message_id";

/// `$1` run, `$2` fence, `$3` status, `$4` reason. The owner's terminal write. A run whose last turn is checkpointed is
/// completed, whatever its owner meant when it could not know. Nobody goes on with one that is interrupted: its mark goes.
pub const RUN_TERMINAL: &str = "/* run.terminal */ \
    UPDATE runs SET status = CASE WHEN finished THEN 'completed' ELSE $3 END, \
      end_reason = CASE WHEN finished THEN 'done' ELSE $4 END, ended_at = now_us(), \
      marked_by = CASE WHEN $3 = 'interrupted' THEN NULL ELSE marked_by END \
    WHERE run_id = $1 AND fence = $2 AND status = 'running' RETURNING status, end_reason";

/// `$1` run, `$2` the fence that was seen, `$3` status, `$4` reason. Anybody else's: under a new fence. A checkpoint that
/// came since the row was seen counts here too.
pub const RUN_END_UNOWNED: &str = "/* run.end_unowned */ \
    UPDATE runs SET status = CASE WHEN finished THEN 'completed' ELSE $3 END, \
      end_reason = CASE WHEN finished THEN 'done' ELSE $4 END, ended_at = now_us(), fence = fence + 1, \
      marked_by = NULL, mark_reason = NULL, marked_at = NULL \
    WHERE run_id = $1 AND fence = $2 AND status IN ('queued', 'running') RETURNING fence, status, end_reason";

/// `$1` run. Asks its owner to stop it.
pub const RUN_CANCEL: &str = "/* run.cancel */ \
    UPDATE runs SET cancel_requested_at = coalesce(cancel_requested_at, now_us()) \
    WHERE run_id = $1 AND status IN ('queued', 'running') RETURNING session_id";

/// `$1` session. What users said.
pub const MESSAGES_READ: &str = "/* messages.read */ \
    SELECT message_id, run_id, position, body, state, turn, reason FROM messages \
    WHERE session_id = $1 ORDER BY position";

/// `$1` session. What was answered.
pub const CHECKPOINTS_READ: &str = "/* checkpoints.read */ \
    SELECT run_id, turn, position, fence, answer FROM checkpoints WHERE session_id = $1 ORDER BY position";

/// `$1` run. What was answered in it.
pub const RUN_CHECKPOINTS: &str = "/* run.checkpoints */ \
    SELECT turn, fence, answer FROM checkpoints WHERE run_id = $1 ORDER BY turn";

/// `$1` agent, `$2` subscription. Its first assignment, if it has none. No row: it has one.
pub const AGENT_ENSURE: &str = "/* agent.ensure */ \
    INSERT INTO agents (agent, subscription, epoch) VALUES ($1, $2, 1) \
    ON CONFLICT (agent) DO NOTHING RETURNING epoch";

/// `$1` agent. Returns its assignment and how far that has come.
pub const AGENT_LOOK: &str = "/* agent.look */ \
    SELECT agents.subscription, agents.epoch, agents.container, switches.from_subscription, switches.cause, switches.state \
    FROM agents JOIN switches ON switches.agent = agents.agent AND switches.epoch = agents.epoch \
    WHERE agents.agent = $1";

/// `$1` agent, `$2` by whom, `$3` for how long, microseconds. No row: somebody else has it. Taken twice by the same it is
/// the same lock.
pub const AGENT_LOCK: &str = "/* agent.lock */ \
    UPDATE agents SET switching_by = $2, switching_until = now_us() + $3 \
    WHERE agent = $1 AND (switching_by IS NULL OR switching_by = $2 OR switching_until < now_us()) \
    RETURNING epoch";

/// `$1` agent, `$2` by whom, `$3` for how long, microseconds, `$4` the epoch that must still stand, 0 for any. No row: the
/// lock is lost, or the assignment has changed.
pub const AGENT_RENEW: &str = "/* agent.renew */ \
    UPDATE agents SET switching_until = now_us() + $3 \
    WHERE agent = $1 AND switching_by = $2 AND ($4 = 0 OR epoch = $4) RETURNING epoch";

/// `$1` agent, `$2` by whom.
pub const AGENT_UNLOCK: &str = "/* agent.unlock */ \
    UPDATE agents SET switching_by = NULL, switching_until = NULL WHERE agent = $1 AND switching_by = $2";

/// `$1` agent, `$2` by whom, `$3` the epoch that was seen, `$4` the subscription that was seen, `$5` the next one. Mints
/// and returns `epoch`; it has no container yet.
pub const AGENT_ASSIGN: &str = "/* agent.assign */ \
    UPDATE agents SET subscription = $5, epoch = epoch + 1, container = NULL \
    WHERE agent = $1 AND switching_by = $2 AND epoch = $3 AND subscription = $4 RETURNING epoch";

/// `$1` agent, `$2` the epoch that an operator saw, `$3` the subscription that goes with it, `$4` the next one. Mints and
/// returns `epoch`. It needs no lock: whoever holds that is refused from here on, because the epoch is another one.
pub const AGENT_REASSIGN: &str = "/* agent.reassign */ \
    UPDATE agents SET subscription = $4, epoch = epoch + 1, container = NULL \
    WHERE agent = $1 AND epoch = $2 AND subscription = $3 RETURNING epoch";

/// `$1` agent, `$2` by whom, `$3` epoch, `$4` the container that was seen, empty for none, `$5` the container that is there
/// now. Repeated after a lost answer it is the same.
pub const AGENT_CONTAINER: &str = "/* agent.container */ \
    UPDATE agents SET container = $5 \
    WHERE agent = $1 AND switching_by = $2 AND epoch = $3 AND (coalesce(container, '') = $4 OR container = $5) \
    RETURNING container";

/// `$1` failure, `$2` agent, `$3` subscription, `$4` epoch, `$5` kind.
pub const SUBSCRIPTION_FAIL: &str = "/* subscription.fail */ \
    INSERT INTO subscription_failures (failure_id, agent, subscription, epoch, kind, at) \
    VALUES ($1, $2, $3, $4, $5, now_us()) ON CONFLICT (failure_id) DO NOTHING";

/// `$1` how long a failure counts, microseconds. Returns each subscription that has failed since, and in how long that
/// will not count any more.
pub const SUBSCRIPTION_FAILED_LATELY: &str = "/* subscription.failed_lately */ \
    SELECT subscription, CAST(max(at) + $1 - now_us() AS bigint) AS counts_for FROM subscription_failures \
    WHERE at > now_us() - $1 GROUP BY subscription";

/// `$1` how long failures are kept, microseconds.
pub const SUBSCRIPTION_FORGET: &str = "/* subscription.forget */ \
    DELETE FROM subscription_failures WHERE at < now_us() - $1";

/// `$1` agent, `$2` epoch, `$3` the subscription before it, empty for none, `$4` the subscription, `$5` the cause.
pub const SWITCH_BEGIN: &str = "/* switch.begin */ \
    INSERT INTO switches (agent, epoch, from_subscription, to_subscription, cause, state, created_at) \
    VALUES ($1, $2, nullif($3, ''), $4, $5, 'assigned', now_us())";

/// `$1` agent, `$2` epoch. Another assignment has taken its place before it was finished.
pub const SWITCH_FAIL: &str = "/* switch.fail */ \
    UPDATE switches SET state = 'failed' WHERE agent = $1 AND epoch = $2 AND state IN ('assigned', 'ready')";

/// `$1` agent, `$2` epoch. Its agent has answered.
pub const SWITCH_READY: &str = "/* switch.ready */ \
    UPDATE switches SET state = 'ready' WHERE agent = $1 AND epoch = $2 AND state = 'assigned'";

/// `$1` agent, `$2` epoch. Nothing is left to do for it.
pub const SWITCH_NOTIFIED: &str = "/* switch.notified */ \
    UPDATE switches SET state = 'notified' WHERE agent = $1 AND epoch = $2 AND state = 'ready'";

/// `$1` agent. Returns the switch of it that is not finished and that nobody is finishing.
pub const SWITCH_UNFINISHED: &str = "/* switch.unfinished */ \
    SELECT switches.epoch FROM switches \
    JOIN agents ON agents.agent = switches.agent AND agents.epoch = switches.epoch \
    WHERE agents.agent = $1 AND switches.state IN ('assigned', 'ready') \
      AND (agents.switching_by IS NULL OR agents.switching_until < now_us())";

/// `$1` notice, `$2` agent, `$3` epoch, `$4` body. One an assignment.
pub const NOTICE_SWITCH: &str = "/* notice.switch */ \
    INSERT INTO notices (notice_id, agent, epoch, body, at) VALUES ($1, $2, $3, $4, now_us()) \
    ON CONFLICT (agent, epoch) DO NOTHING";
