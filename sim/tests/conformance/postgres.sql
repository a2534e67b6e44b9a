# What the stand-in and PostgreSQL 15 are asked. `1:` is connection 1 in the simple protocol, `1>` in the extended one.
# The schema
1: CREATE OR REPLACE FUNCTION now_us() RETURNS bigint LANGUAGE sql AS $$ SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint); $$;
1: CREATE TABLE runs (id text PRIMARY KEY, session text NOT NULL, fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0), state bytea, marked boolean NOT NULL DEFAULT false, made_at bigint NOT NULL DEFAULT (now_us()), CONSTRAINT long_id CHECK (length(id) < 20))
1: CREATE UNIQUE INDEX runs_one_live ON runs (session) WHERE NOT marked
1: CREATE TABLE turns (run text NOT NULL REFERENCES runs (id), turn bigint NOT NULL, UNIQUE (run, turn)); CREATE INDEX turns_by_run ON turns (run)
1: CREATE TABLE runs (id text)
1: CREATE UNIQUE INDEX runs_one_live ON runs (session)
1: ALTER TABLE turns ADD COLUMN note text; DROP INDEX turns_by_run
1: SET statement_timeout = '5s'; SET idle_in_transaction_session_timeout = 5000; SET lock_timeout TO 0
# Values of all types
1> SELECT id, session, fence, state, marked, made_at FROM runs
1> INSERT INTO runs (id, session, fence, state, marked) VALUES ($1, $2, $3, $4, $5) RETURNING id, fence AS f, state, marked | text a | text s | int 7 | bytea xyz | bool true
1> INSERT INTO runs (id, session, state) VALUES ($1, $1, $2) | text b | null 17
1> UPDATE runs SET fence = fence + 1, state = NULL WHERE id = $1 RETURNING fence, state, marked | text a
1> UPDATE runs SET fence = fence + 1 WHERE id = $1 RETURNING fence | text nobody
1> UPDATE runs SET fence = fence WHERE id IN ($1, $2) | text a | text b
1: SELECT id, fence, state, marked FROM runs ORDER BY id
1> DELETE FROM runs WHERE id = $1 | text nobody
# Types of expressions
1> SELECT count(*) AS n, coalesce(max(fence), 0) AS m, min(id) AS first, CAST(sum(fence) AS bigint) AS s, count(*) FILTER (WHERE marked) AS k FROM runs
1> SELECT EXISTS (SELECT 1 FROM runs WHERE id = $1) AS found, NOT EXISTS (SELECT 1 FROM runs) AS none | text a
1> SELECT 1 AS one, 'a' AS word, $1 AS given, 3000000000 AS big, true AS yes, -1 AS minus | bytea xyz
1> SELECT id || '-' || session AS long, fence + 1 AS next, fence > 1 AS more, length(id) AS l, CASE WHEN marked THEN fence ELSE 0 END AS c FROM runs ORDER BY id
1> SELECT (SELECT max(r.fence) FROM runs r) AS top, coalesce((SELECT state FROM runs WHERE id = $1), $2) AS s | text a | bytea z
1> WITH due AS (SELECT id, fence FROM runs WHERE NOT marked) SELECT id, fence FROM due ORDER BY id
1> SELECT r.id, t.turn FROM runs r LEFT JOIN turns t ON t.run = r.id ORDER BY r.id
1> SELECT id IS NULL AS n, state IS NOT DISTINCT FROM $1 AS same FROM runs ORDER BY id | null 17
1> SELECT lower('ABC') AS low, nullif(1, 2) AS n, abs(fence) AS a FROM runs ORDER BY id
1> SELECT id FROM runs WHERE id LIKE 'A%'
1> SELECT 7 / 2 AS half, 7 % 2 AS rest, -7 / 2 AS down, fence * 2 AS twice FROM runs ORDER BY id
1> SELECT session, count(*) AS n, max(fence) AS top FROM runs GROUP BY session HAVING count(*) > 0 ORDER BY session
1> SELECT id AS run, row_number() OVER (ORDER BY id) AS place FROM runs ORDER BY id
1> SELECT id FROM runs WHERE marked AND made_at <= now_us() ORDER BY made_at DESC, id LIMIT $1 | int 1
1> SELECT id FROM runs WHERE (fence, id) > ($1, $2) ORDER BY id | int 0 | text a
1> SELECT id, state FROM runs ORDER BY state NULLS FIRST, id
1> SELECT id FROM runs UNION ALL SELECT session FROM runs ORDER BY 1
1> SELECT d.n FROM (SELECT CAST(count(*) AS bigint) AS n FROM runs) d
1> SELECT substr(id, 1, 1) AS s, replace(id, 'a', 'b') AS r, trim('  x ') AS t, octet_length(state) AS o FROM runs ORDER BY id
1> SELECT "id" AS "Name" FROM "runs" ORDER BY 1
1> INSERT INTO runs (id, session) SELECT 'copy', 'copied' WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = $1) | text a
1> INSERT INTO runs (id, session, marked) VALUES ($1, $2, true), ($3, $2, true) RETURNING id, made_at > 0 AS stamped | text m1 | text m | text m2
1> UPDATE runs SET marked = NOT marked, fence = CASE WHEN fence > 5 THEN 0 ELSE fence + 1 END WHERE session = $1 AND id = 'm1' RETURNING id, fence, marked AS m | text m
1> UPDATE runs SET fence = t.turn FROM turns t WHERE t.run = runs.id
1> DELETE FROM runs WHERE id = $1 RETURNING id | text m1
1> DELETE FROM runs WHERE id = $1 | text m2
1> SELECT id, state FROM runs ORDER BY state, id
1> SELECT id, state FROM runs ORDER BY state DESC, id DESC
1> SELECT id, row_number() OVER (ORDER BY state, id) AS n FROM runs ORDER BY id
1> SELECT state FROM runs UNION SELECT state FROM runs ORDER BY 1
1> INSERT INTO turns (run, turn, note) VALUES ($1, $2, $3) | text a | int 40 | null 25
1> UPDATE runs SET state = $1 WHERE id = $2 | bytea q | text b
1> SELECT id, state FROM runs ORDER BY state, id
1> SELECT state FROM runs UNION SELECT state FROM runs ORDER BY 1
1> DELETE FROM turns
1> WITH a AS (SELECT session AS s, count(*) AS n FROM runs GROUP BY session) SELECT s, n, n > 0 AS some, coalesce(n, 0) + 1 AS more FROM a ORDER BY s
1> SELECT coalesce(x.n, 0) AS n FROM runs r LEFT JOIN (SELECT run, count(*) AS n FROM turns GROUP BY run) x ON x.run = r.id ORDER BY r.id
# Conflicts
1> INSERT INTO runs (id, session) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING RETURNING id | text a | text other
1> INSERT INTO runs (id, session) VALUES ($1, $2) ON CONFLICT (session) WHERE NOT marked DO NOTHING | text c | text b
1> INSERT INTO runs (id, session, fence) VALUES ($1, $2, 1) ON CONFLICT (id) DO UPDATE SET fence = runs.fence + excluded.fence RETURNING fence | text a | text s
1: INSERT INTO turns (run, turn) VALUES ('a', 1) ON CONFLICT (turn) DO NOTHING
1> INSERT INTO runs (id, session) VALUES ($1, $2) | text a | text b2
1> INSERT INTO runs (id, session) VALUES ($1, $2) | text c | text b
1: INSERT INTO turns (run, turn) VALUES ('a', 1), ('a', 1)
1: INSERT INTO turns (run, turn) VALUES ('a', 1), ('a', 2)
1: INSERT INTO runs (id) VALUES ('c')
1: UPDATE runs SET fence = -1
1: UPDATE runs SET id = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaa' WHERE id = 'b'
1: INSERT INTO turns (run, turn) VALUES ('x', 1)
1: DELETE FROM runs WHERE id = 'a'
# Errors of the text
1: SELEC 1
1> SELEC 1
1: SELECT id FROM
1: SELECT 'a
1: SELECT id, FROM runs
1: SELECT (id FROM runs
1: SELECT "a
1: SELECT 1 /* a
1: SELECT id FROM nowhere
1> SELECT id FROM nowhere
1: SELECT missing FROM runs
1: SELECT r.missing FROM runs r
1: INSERT INTO runs (missing) VALUES (1)
1: SELECT turn FROM turns a, turns b
1: INSERT INTO runs (id, session) VALUES ('d')
1: INSERT INTO runs (id, session) VALUES ('d', 'd', 'd')
1: DROP TABLE nowhere
1: DROP INDEX nowhere
1: CREATE TABLE twice (a text, a text)
1> SELECT 1; SELECT 2
1> SELECT id FROM runs WHERE id = $1 | text a\0b
1> SELECT id FROM runs WHERE fence = $1 | raw abc
1> SELECT id FROM runs WHERE fence = $1 | raw abcdefghi
1> 
1:
1: ;
1: /* nothing */
1> SELECT id FROM runs WHERE id = $1 | text a | text unused
# Transactions
1: BEGIN
1> /* run.fence */ UPDATE runs SET fence = 9 WHERE id = $1 | text a
1: BEGIN
1: COMMIT
1: COMMIT
1: ROLLBACK
1> BEGIN
1> SELECT fence FROM runs WHERE id = 'a'
1> COMMIT
1: BEGIN; UPDATE runs SET fence = 10 WHERE id = 'a'; ROLLBACK; SELECT fence FROM runs WHERE id = 'a'
1: BEGIN
1: INSERT INTO runs (id, session) VALUES ('a', 'z')
1: SELECT 1
1> SELECT 1
1> SELECT id FROM runs WHERE id = $1 | text a
1: SELEC
1: BEGIN
1: COMMIT
1: BEGIN; UPDATE runs SET fence = 11 WHERE id = 'a'; SELECT id FROM nowhere; COMMIT
1> ROLLBACK
1: UPDATE runs SET fence = 12 WHERE id = 'a'; SELECT id FROM nowhere
1: SELECT fence FROM runs WHERE id = 'a'
1: UPDATE runs SET fence = 13 WHERE id = 'a'; COMMIT; SELECT id FROM nowhere
1: UPDATE runs SET fence = 14 WHERE id = 'a'; BEGIN; SELECT fence FROM runs WHERE id = 'a'
1: ROLLBACK
1: SELECT fence FROM runs WHERE id = 'a'
1: START TRANSACTION
1: SET statement_timeout = 1; ROLLBACK
# Waiting
1: BEGIN; UPDATE runs SET fence = 20 WHERE id = 'a'
2: SET statement_timeout = '200ms'
2: UPDATE runs SET fence = 21 WHERE id = 'a'
2> UPDATE runs SET fence = 21 WHERE id = $1 | text a
2: SET lock_timeout = '100ms'
2: UPDATE runs SET fence = 21 WHERE id = 'a'
2: BEGIN; UPDATE runs SET fence = 21 WHERE id = 'a'
2: ROLLBACK
# A setting lasts as its transaction does
2: BEGIN; SET lock_timeout = 0; ROLLBACK
2: UPDATE runs SET fence = 21 WHERE id = 'a'
2: SET lock_timeout = 0; SELECT id FROM nowhere
2: UPDATE runs SET fence = 21 WHERE id = 'a'
2: BEGIN; SET lock_timeout = 0; COMMIT
2: UPDATE runs SET fence = 21 WHERE id = 'a'
# A transaction that has failed holds nothing any more
1: SELECT id FROM nowhere
2: UPDATE runs SET fence = 21 WHERE id = 'a'
1: ROLLBACK
1: BEGIN; UPDATE runs SET fence = 20 WHERE id = 'a'
1 leaves
2: SELECT fence FROM runs WHERE id = 'a'
# Not synced, so not committed
4! UPDATE runs SET fence = 30 WHERE id = $1 | text a
4 leaves
2: SELECT fence FROM runs WHERE id = 'a'
# Sitting idle
2: SET idle_in_transaction_session_timeout = '300ms'; BEGIN; UPDATE runs SET fence = 22 WHERE id = 'a'
wait 600
2: SELECT 1
3: SELECT fence FROM runs WHERE id = 'a'
