CREATE OR REPLACE FUNCTION now_us() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
$$;

-- One row a configured process name; the larger incarnation is the one that lives.
CREATE TABLE IF NOT EXISTS processes (
  name text PRIMARY KEY,
  incarnation bigint NOT NULL
);

-- position counts everything that was added to the conversation; updating it is the session's lock.
CREATE TABLE IF NOT EXISTS sessions (
  session_id text PRIMARY KEY,
  created_at bigint NOT NULL,
  position bigint NOT NULL,
  suspended_reason text,
  agent text NOT NULL
);

CREATE TABLE IF NOT EXISTS runs (
  run_id text PRIMARY KEY,
  session_id text NOT NULL REFERENCES sessions (session_id),
  status text NOT NULL CHECK (status IN ('queued', 'running', 'completed', 'failed', 'interrupted', 'cancelled')),
  fence bigint NOT NULL,
  claim_id text,
  owner text,
  owner_incarnation bigint,
  queued_at bigint NOT NULL,
  claimed_at bigint,
  beat_at bigint,
  checkpoint_at bigint,
  seen_at bigint NOT NULL,
  claims_without_turn bigint NOT NULL,
  marked_by text,
  mark_reason text,
  marked_at bigint,
  cancel_requested_at bigint,
  turns bigint NOT NULL,
  finished boolean NOT NULL,
  ended_at bigint,
  end_reason text
);

-- One run of a session at a time.
CREATE UNIQUE INDEX IF NOT EXISTS runs_one_open ON runs (session_id) WHERE status IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS runs_open ON runs (queued_at) WHERE status IN ('queued', 'running');
CREATE INDEX IF NOT EXISTS runs_marked ON runs (marked_by) WHERE marked_by IS NOT NULL;
CREATE INDEX IF NOT EXISTS runs_of_session ON runs (session_id, queued_at);

CREATE TABLE IF NOT EXISTS messages (
  message_id text PRIMARY KEY,
  idempotency_key text NOT NULL UNIQUE,
  session_id text NOT NULL REFERENCES sessions (session_id),
  run_id text NOT NULL REFERENCES runs (run_id),
  position bigint NOT NULL,
  body text NOT NULL,
  accepted_at bigint NOT NULL,
  state text NOT NULL CHECK (state IN ('unread', 'consumed', 'reported')),
  turn bigint,
  reason text
);
CREATE INDEX IF NOT EXISTS messages_of_session ON messages (session_id, position);
CREATE INDEX IF NOT EXISTS messages_of_run ON messages (run_id);

CREATE TABLE IF NOT EXISTS checkpoints (
  run_id text NOT NULL REFERENCES runs (run_id),
  turn bigint NOT NULL,
  session_id text NOT NULL REFERENCES sessions (session_id),
  position bigint NOT NULL,
  fence bigint NOT NULL,
  answer text NOT NULL,
  committed_at bigint NOT NULL,
  PRIMARY KEY (run_id, turn)
);
CREATE INDEX IF NOT EXISTS checkpoints_of_session ON checkpoints (session_id, position);

-- What users are told beside the answers: of a run (session_id, run_id), or of an agent (agent, epoch).
CREATE TABLE IF NOT EXISTS notices (
  notice_id text PRIMARY KEY,
  session_id text REFERENCES sessions (session_id),
  run_id text REFERENCES runs (run_id),
  agent text,
  epoch bigint,
  body text NOT NULL,
  at bigint NOT NULL,
  UNIQUE (agent, epoch)
);
CREATE INDEX IF NOT EXISTS notices_of_session ON notices (session_id, at);

-- Which subscription an agent is assigned; each assignment has the next epoch. switching_by is the lock of whoever moves
-- or restarts it, until switching_until. container is the one of this epoch, once there is one.
CREATE TABLE IF NOT EXISTS agents (
  agent text PRIMARY KEY,
  subscription text NOT NULL,
  epoch bigint NOT NULL,
  container text,
  switching_by text,
  switching_until bigint
);

-- When anybody last had an answer from an agent, or restarted it.
CREATE TABLE IF NOT EXISTS agent_answers (
  agent text PRIMARY KEY,
  answered_at bigint NOT NULL
);

-- Every assignment, the first one included; whoever finds one that is neither notified nor failed finishes it.
CREATE TABLE IF NOT EXISTS switches (
  agent text NOT NULL REFERENCES agents (agent),
  epoch bigint NOT NULL,
  from_subscription text,
  to_subscription text NOT NULL,
  cause text NOT NULL CHECK (cause IN ('first', 'failure', 'operator')),
  state text NOT NULL CHECK (state IN ('assigned', 'ready', 'notified', 'failed')),
  created_at bigint NOT NULL,
  PRIMARY KEY (agent, epoch)
);

-- A failed call of an agent, once. at is when it was recorded.
CREATE TABLE IF NOT EXISTS subscription_failures (
  failure_id text PRIMARY KEY,
  agent text NOT NULL,
  subscription text NOT NULL,
  epoch bigint NOT NULL,
  kind text NOT NULL,
  at bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS subscription_failures_at ON subscription_failures (at);
