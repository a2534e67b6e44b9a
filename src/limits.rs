//! Every bound in one place, each with its reason; the relations between them are asserted at start-up.
//!
//! A bound that a deployment may tune is a setting of [`crate::config`]; a bound that only the code's own shape
//! explains is a constant here.

use std::time::Duration;

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Connecting to Redis, RabbitMQ, Postgres or the provider: a slow connect means unreachable.
pub const CONNECT: Duration = secs(5);
/// Any Redis call that does not block: six times the longest blocking read, so that the two never tie.
pub const REDIS_CALL: Duration = secs(30);
/// A blocking read of a stream.
pub const REDIS_BLOCK: Duration = secs(5);
/// A Redis call on which nothing durable depends: a hint must not cost more than what it spares.
pub const REDIS_HINT: Duration = secs(2);
/// The live entry that a reader asks for: without an answer it is shown as unknown.
pub const REDIS_LOOK: Duration = secs(2);
/// A connection to Redis on which another node seems to answer, a replica or a stranger, is given up once it is so old: the name may
/// lead to the right one by now. Not sooner, so that a Redis that is read-only for all is dialled twelve times a minute.
pub const REDIS_REDIAL: Duration = secs(5);
/// The bound of a Postgres operation, pool wait and connect included.
pub const POSTGRES_CALL: Duration = secs(5);
/// A pooled connection that was idle for so long is asked for a sign of life before it is used: what stands in between,
/// a balancer or a NAT, forgets idle connections without a word.
pub const POSTGRES_IDLE: Duration = secs(10);
/// A connection that gives no such sign for so long gets a rival, a fresh one; the first of both that answers is used.
pub const POSTGRES_PROBE: Duration = Duration::from_millis(500);
/// Postgres ends a transaction of ours that sits idle this long, so that a paused client cannot hold its lock.
pub const POSTGRES_IDLE_IN_TRANSACTION: Duration = secs(5);
/// Pooled Postgres connections per process, but for checkpoints.
pub const POSTGRES_CONNECTIONS: usize = 8;
/// Connections that write checkpoints: one per run and a default of four runs; of more, some wait a moment.
pub const CHECKPOINT_CONNECTIONS: usize = 4;
/// Notices that a session shows.
pub const NOTICES_SHOWN: i64 = 20;
/// The longest reason for a suspension, bytes.
pub const SUSPENSION_REASON: usize = 500;
/// Migrations that Postgres may refuse before a process gives up: two that run at once can refuse each other.
pub const MIGRATION_TRIES: u32 = 5;
/// Rows that one sweep reads of those that are due, and of the others; of the others more wait for the next one.
pub const SWEEP_ROWS: i64 = 1000;

/// A publish and its confirm.
pub const PUBLISH_CONFIRM: Duration = secs(5);
/// A request to the broker other than a publish.
pub const BROKER_CALL: Duration = secs(10);
/// The heartbeat that we ask of the broker; silence of twice this ends the connection.
pub const BROKER_HEARTBEAT: Duration = secs(30);
/// Hints waiting to be published; a hint that finds no room is dropped, the sweep finds its run.
pub const HINTS_QUEUED: usize = 1024;
/// Back-offs of reconnects and retries double up to this.
pub const BACKOFF_MAX: Duration = secs(10);
/// Back-offs begin here.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);

/// The longest wait that a provider's 429 may ask of one turn, in all, before its agent is moved to another subscription:
/// about what a switch costs, which stops and starts the agent's container under everybody who talks to it.
pub const RATE_LIMIT_WAIT: Duration = secs(30);
/// The longest wait that a provider's 429 may ask of one turn, in all, where no other subscription is left. Longer ones end the run,
/// and its user is told when to come back.
pub const RATE_LIMIT_PATIENCE: Duration = secs(600);
/// A provider's signs of life that are no token are handed on to an agent's caller at most this often.
pub const SIGNS_OF_LIFE: Duration = secs(5);
/// The bound of a provider call, whatever it streams: the longest answer seen in production took 40 minutes.
pub const PROVIDER_CALL: Duration = secs(3600);
/// The silence of a model, unless `LYCHGATE_MODEL_SILENCE` says another one.
pub const MODEL_SILENCE: Duration = secs(120);
/// Calls of one turn before its run fails.
pub const ATTEMPTS_PER_TURN: u32 = 4;
/// The longest line of an event stream, of a provider's or an agent's, bytes.
pub const LINE: usize = 256 * 1024;
/// The longest answer of one turn that is kept, bytes.
pub const ANSWER_BYTES: usize = 1024 * 1024;
/// A token waits this long for a reader that does not read; then the call is given up.
pub const TOKEN_READ: Duration = secs(30);
/// Turns of one run before it fails: a model that never stops must not run forever.
pub const TURNS_PER_RUN: i64 = 100;

/// Turns that one agent answers at once; one more is told to come back.
pub const AGENT_TURNS: usize = 32;
/// Sessions of which an agent remembers the newest call; the one that was silent the longest is forgotten first.
pub const AGENT_SESSIONS: usize = 10_000;
/// Earlier runs of a session that an agent remembers: a late call of one of them is stale.
pub const AGENT_PAST_RUNS: usize = 8;
/// The conversation that a turn is asked about, bytes: a model that reads a million tokens reads about 4 MiB.
pub const AGENT_BODY: usize = 16 * 1024 * 1024;
/// Messages that an agent's history keeps, unless `AGENT_HISTORY_LIMIT` says another number.
pub const AGENT_HISTORY: usize = 1000;
/// The most bytes that an agent's history keeps, however few messages these are.
pub const AGENT_HISTORY_BYTES: usize = 16 * 1024 * 1024;
/// Tokens that wait in an agent for one reader.
pub const AGENT_TOKENS_QUEUED: usize = 64;
/// The wait for a superseded turn to end; it hangs up at once.
pub const AGENT_LETS_GO: Duration = secs(2);
/// The time that an agent's turns go on after SIGTERM: within the engine's stop grace, with time to close.
pub const AGENT_DRAIN: Duration = secs(7);
/// The time that an agent then takes to close connections.
pub const AGENT_CLOSES: Duration = secs(1);
const _: () = assert!(AGENT_DRAIN.as_secs() + AGENT_CLOSES.as_secs() < STOP_GRACE.as_secs());
/// An agent tells of its provider's silence this long before its caller gives the agent up.
pub const AGENT_TELLS: Duration = secs(15);
/// An agent's refusal, from its head to the end of its body: it is written in one piece.
pub const AGENT_REFUSAL: Duration = secs(75);
/// The bound of a call to an agent.
pub const AGENT_CALL: Duration = secs(3700);
const _: () = assert!(AGENT_CALL.as_secs() > PROVIDER_CALL.as_secs());
/// An agent that gives no answer is called again for this long before that counts against the turn: a restart by a
/// lock's next holder takes 60 s of lock, 10 s of stop and 60 s of start.
pub const AGENT_AWAY: Duration = secs(600);
/// The pause of a turn that waits for its agent, between two looks.
pub const AGENT_POLL: Duration = secs(1);

/// The bound of a call to the container engine that does not wait for a container.
pub const ENGINE_CALL: Duration = secs(10);
/// The engine's largest answer, bytes.
pub const ENGINE_BODY: usize = 1024 * 1024;
/// From SIGTERM to SIGKILL of a container, seconds. The engine counts in whole ones.
pub const STOP_GRACE: Duration = secs(10);
/// A call that stops a container: its grace, and what any call may take.
pub const ENGINE_STOP: Duration = secs(20);
const _: () = assert!(ENGINE_STOP.as_secs() >= STOP_GRACE.as_secs() + ENGINE_CALL.as_secs());
/// From a container's start to the first answer of its agent.
pub const AGENT_READY: Duration = secs(60);
/// The pause between two probes of a starting agent.
pub const READY_POLL: Duration = secs(1);
/// The bound of one such probe.
pub const READY_PROBE: Duration = secs(2);
/// The largest answer to it, bytes.
pub const HEALTH_BODY: usize = 64 * 1024;
/// An agent's lock lapses this long after its last renewal: so long its holder's death stops a switch.
pub const SWITCH_LOCK: Duration = secs(60);
/// Two renewals may be lost before the lock lapses, each at its bound.
pub const SWITCH_RENEWAL: Duration = secs(15);
const _: () = assert!(SWITCH_LOCK.as_secs() > 2 * (SWITCH_RENEWAL.as_secs() + POSTGRES_CALL.as_secs()));
/// The pause between two tries for an agent's lock.
pub const SWITCH_POLL: Duration = secs(1);
/// The wait for an agent's lock: two dead holders, each after a whole restart.
pub const SWITCH_WAIT: Duration = secs(300);
/// A subscription that has failed is no candidate for so long: the provider's windows are hours.
pub const SKIP_WINDOW: Duration = secs(2 * 3600);
/// Failures are kept so long, for people.
pub const FAILURES_KEPT: Duration = secs(24 * 3600);
const _: () = assert!(FAILURES_KEPT.as_secs() > SKIP_WINDOW.as_secs());
/// The pause between two deletions of old failures.
pub const FAILURES_SWEPT: Duration = secs(3600);
/// The pause between two looks at an agent's row for a switch that its holder left unfinished.
pub const TEND_EVERY: Duration = secs(15);
/// The pause between two inspections of an agent's container that nobody has reported.
pub const INSPECT_EVERY: Duration = secs(60);
/// Reports of one agent that its supervisor has not received yet: as many runs as one executor may have, and more.
pub const REPORTS_QUEUED: usize = 64;
/// An agent whose container runs and that has answered nobody for so long hangs, and is restarted: four looks.
pub const AGENT_HANGS: Duration = secs(60);
const _: () = assert!(AGENT_HANGS.as_secs() > 3 * (TEND_EVERY.as_secs() + READY_PROBE.as_secs()));
/// An agent hangs if no executor has noted an answer of it for so long either. Each notes one every [`INSPECT_EVERY`], at its next
/// look after that, and later if the engine takes its time.
pub const AGENT_UNHEARD: Duration = secs(105);
const _: () = assert!(
    AGENT_UNHEARD.as_secs()
        > INSPECT_EVERY.as_secs() + TEND_EVERY.as_secs() + 2 * ENGINE_CALL.as_secs() + READY_PROBE.as_secs()
);
/// The longest pause after a restart that did not succeed.
pub const TEND_BACKOFF: Duration = secs(60);

/// Each of the two terminal writes.
pub const TERMINAL_WRITE: Duration = secs(4);
/// The bound of the repair of terminal writes, inside.
pub const REPAIR_INNER: Duration = secs(10);
/// The bound of the repair of terminal writes in all.
pub const REPAIR_OUTER: Duration = secs(12);
/// An unconfirmed outcome is repeated this often.
pub const OUTCOME_RETRY: Duration = secs(5);
/// A claim that is not answered is repeated, under the same claim id, for this long.
pub const CLAIM_MAX: Duration = secs(10);
/// A row of ours that we do not run, claimed longer ago than this, is handed back: no claim is in flight so long.
pub const CLAIM_SETTLED: Duration = secs(30);
/// Claims in a row that ended without a checkpoint before the session is suspended.
pub const CLAIMS_WITHOUT_TURN: i64 = 3;
/// Claims of one run that a Postgres may have lost which fails over. A live view that is further ahead of it is wrong.
pub const CLAIMS_LOST: i64 = 100;
/// A claim without an answer is repeated after this.
pub const CLAIM_RETRY: Duration = Duration::from_millis(500);
/// A delivery whose run cannot be claimed is kept this long before it goes back, so that it does not spin.
pub const GIVE_BACK_AFTER: Duration = secs(2);
/// The pause between two tries of a repair.
pub const REPAIR_PAUSE: Duration = secs(1);
/// The bound of writing the frames that are left, before the stream is ended.
pub const LAST_FRAMES: Duration = secs(2);
/// Repairs of the live view per sweep; more wait for the next one.
pub const VIEW_REPAIRS: usize = 200;
/// A delivery waits this long for a free slot before it is handed to another executor.
pub const SLOT_WAIT: Duration = secs(5);

/// A lease lapses this long after its last renewal.
pub const LEASE_TTL: Duration = secs(300);
/// Two renewals may be lost before a lease lapses.
pub const LEASE_RENEWAL: Duration = secs(30);
/// The delay of a claim by another executor's lease: it spares a race, no more.
pub const LEASE_COURTESY: Duration = secs(1);
const _: () = assert!(LEASE_TTL.as_secs() > 3 * LEASE_RENEWAL.as_secs());

/// Frames of one run waiting for Redis; the oldest make room and leave a gap.
pub const FRAMES_BUFFERED: usize = 256;
/// Frames sent to Redis in one go.
pub const FRAMES_BATCH: usize = 64;
/// Entries that a stream keeps.
pub const STREAM_LENGTH: usize = 10_000;
/// A stream, and the note that a run has ended, are kept this long after the last write.
pub const STREAM_TTL: Duration = secs(3600);
/// Live entries that one sweep compares.
pub const VIEW_ENTRIES: usize = 10_000;

/// A line to an idle reader, so that proxies keep the stream and the reader knows that it lives.
pub const SSE_HEARTBEAT: Duration = secs(15);
/// Readers of streams per gateway, each with a Redis connection of its own.
pub const STREAMS_MAX: usize = 512;
/// Events that wait for one reader.
pub const SSE_QUEUED: usize = 64;
/// The HTTP buffer of one connection, bytes.
pub const HTTP_BUFFER: usize = 64 * 1024;
/// A write to a reader that does not read.
pub const SSE_WRITE: Duration = secs(30);
/// Connections that a gateway serves at once.
pub const HTTP_CONNECTIONS: usize = 2048;
/// From the beginning of a request, or of a connection's idleness, to the end of the request's headers.
pub const HTTP_HEADERS: Duration = secs(30);
/// The largest request body, bytes.
pub const HTTP_BODY: usize = 256 * 1024;
/// The longest idempotency key, bytes.
pub const IDEMPOTENCY_KEY: usize = 200;
/// The time that the gateway's accepted requests may take after SIGTERM.
pub const GATEWAY_DRAIN: Duration = secs(10);
/// Marking the runs in flight, before a draining executor waits for them.
pub const MARK: Duration = secs(5);
/// Closing what was opened, at the end of a process: the steps below together.
pub const CLOSES: Duration = secs(8);
/// The last acknowledgements: they are only sent.
pub const LAST_ACKS: Duration = secs(1);
/// Taking our marks off what is over.
pub const UNMARK: Duration = secs(2);
/// Closing one of the two pools: a goodbye on each connection. A write that is still going has had its own bound.
pub const POOL_CLOSE: Duration = secs(2);
/// Closing the line to the broker.
pub const BROKER_CLOSE: Duration = secs(1);
/// The wait for a cancelled call to end, and for a commit that has begun to be answered.
pub const CANCEL_GRACE: Duration = secs(5);

const _: () = assert!(REDIS_BLOCK.as_secs() < REDIS_CALL.as_secs(), "a read's timeout is larger than its block");
const _: () = assert!(REPAIR_INNER.as_secs() < REPAIR_OUTER.as_secs());
const _: () = assert!(TERMINAL_WRITE.as_secs() * 2 <= REPAIR_INNER.as_secs(), "the repair can try both writes");
const _: () = assert!(CANCEL_GRACE.as_secs() >= POSTGRES_CALL.as_secs(), "a commit that has begun is answered in time");
const _: () = assert!(
    LAST_ACKS.as_secs() + UNMARK.as_secs() + 2 * POOL_CLOSE.as_secs() + BROKER_CLOSE.as_secs() <= CLOSES.as_secs()
);
const _: () = assert!(CLAIM_SETTLED.as_secs() > CLAIM_MAX.as_secs() + POSTGRES_CALL.as_secs());

/// The bounds that a deployment may tune.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest legal run, from its claim. 5 h 45: it must end inside the broker's consumer timeout.
    pub run_max: Duration,
    /// RabbitMQ takes an unacknowledged delivery back after this. 6 h, set on the broker.
    pub consumer_timeout: Duration,
    /// A run whose owner has beaten but not moved for so long is ended. 6 h 05: later than any legal run.
    pub stuck_after: Duration,
    /// The pause between two beats of an owner. 5 s.
    pub beat_every: Duration,
    /// A run whose owner has not beaten for so long is anybody's. 330 s: longer than a lease.
    pub takeover_after: Duration,
    /// A queued run that no hint reached is claimed by a sweep after this. 60 s.
    pub queued_claim_after: Duration,
    /// The shortest pause between two sweeps. 5 s.
    pub sweep_min: Duration,
    /// The longest pause between two sweeps. 30 s.
    pub sweep_max: Duration,
    /// A run without a sign of life for longer is not resumed. 1 h.
    pub freshness: Duration,
    /// The wait of a draining executor for its runs.
    pub drain_grace: Duration,
    /// A model that gives no sign of life for so long, before its first token or after it, is asked again. 2 min: models
    /// that reason say nothing for that long.
    pub model_silence: Duration,
    /// Runs that one executor works on at once.
    pub slots: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            run_max: secs(5 * 3600 + 45 * 60),
            consumer_timeout: secs(6 * 3600),
            stuck_after: secs(6 * 3600 + 5 * 60),
            beat_every: secs(5),
            takeover_after: secs(330),
            queued_claim_after: secs(60),
            sweep_min: secs(5),
            sweep_max: secs(30),
            freshness: secs(3600),
            drain_grace: secs(5 * 3600 + 45 * 60),
            model_silence: MODEL_SILENCE,
            slots: 4,
        }
    }
}

impl Limits {
    /// The longest wait for an agent's first line: for its predecessor, for the head of the provider's answer, and for a
    /// first sign of life of the model.
    pub fn agent_first_line(&self) -> Duration {
        AGENT_LETS_GO + CONNECT + self.model_silence * 2 + AGENT_TELLS
    }

    /// The longest silence in the middle of an agent's answer.
    pub fn agent_stall(&self) -> Duration {
        self.model_silence + AGENT_TELLS
    }

    /// Checks what must hold between the bounds.
    ///
    /// # Errors
    /// The first relation that does not hold, with both sides.
    pub fn check(&self) -> Result<(), String> {
        let slack = secs(60);
        let relations = [
            (
                self.run_max + CANCEL_GRACE + REPAIR_OUTER + slack < self.consumer_timeout,
                "run_max + cancel grace + terminal repair + 1 min must be less than consumer_timeout, or the broker takes back \
                 a legal run",
            ),
            (
                self.run_max < self.stuck_after,
                "run_max must be less than stuck_after, or a legal run is ended as stuck",
            ),
            (self.drain_grace >= self.run_max, "drain_grace must be at least run_max, or a drain cuts a legal run"),
            (
                (self.beat_every + POSTGRES_CALL) * 4 <= self.takeover_after,
                "takeover_after must span four beats at their bound, or a hiccup costs a live owner its run",
            ),
            (
                LEASE_TTL < self.takeover_after || self.takeover_after < LEASE_RENEWAL * 4,
                "takeover_after must outlast a lease",
            ),
            (
                self.agent_first_line() < PROVIDER_CALL,
                "model_silence must be less than 29 min, or a silent model outlasts the bound of its call",
            ),
            (self.sweep_min <= self.sweep_max, "sweep_min must not exceed sweep_max"),
            (self.slots > 0, "slots must be at least 1"),
        ];
        match relations.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, says)) => Err((*says).to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together_and_a_bad_relation_is_named() {
        assert_eq!(Limits::default().check(), Ok(()));
        let long = Limits { run_max: secs(6 * 3600), ..Limits::default() };
        assert!(long.check().unwrap_err().contains("consumer_timeout"));
    }
}
