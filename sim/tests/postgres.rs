//! The Postgres stand-in, asked by the real client.
#![cfg(madsim)]

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lychgate_sim::plan::Kind;
use lychgate_sim::standins::Control;
use lychgate_sim::standins::clock;
use lychgate_sim::standins::observation::{Observation, Tap};
use lychgate_sim::standins::postgres::Postgres;
use lychgate_sim::standins::postgres::faults::{FAILOVER, TABLE_LOCK};
use lychgate_sim::standins::postgres::observation::{Statement, Value};
use madsim::runtime::{Handle, Runtime};
use madsim::task::JoinHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Config, Error, NoTls};

const SERVER: &str = "10.0.0.1:5432";
const SCHEMA: &str = "
    SET statement_timeout = '60s';
    CREATE OR REPLACE FUNCTION now_us() RETURNS bigint LANGUAGE sql AS
        $$ SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint); $$;
    CREATE TABLE IF NOT EXISTS runs (
        id text PRIMARY KEY, session text NOT NULL, fence bigint NOT NULL DEFAULT 0 CHECK (fence >= 0),
        state bytea, marked boolean NOT NULL DEFAULT false, made_at bigint NOT NULL DEFAULT (now_us()),
        CONSTRAINT long_id CHECK (length(id) < 20));
    CREATE UNIQUE INDEX IF NOT EXISTS runs_one_live ON runs (session) WHERE NOT marked;
    CREATE TABLE IF NOT EXISTS turns (run text NOT NULL REFERENCES runs (id), turn bigint NOT NULL, UNIQUE (run, turn));
";

type Log = Arc<Mutex<Vec<Statement>>>;

struct World {
    handle: Handle,
    postgres: Postgres,
    log: Log,
}

impl World {
    fn serve(&self) {
        let (postgres, log) = (self.postgres.clone(), self.log.clone());
        let tap: Tap = Arc::new(move |seen: Observation| {
            if let Ok(statement) = seen.take::<Statement>() {
                log.lock().unwrap().push(statement);
            }
        });
        let node = self.handle.create_node().name("postgres").ip("10.0.0.1".parse().unwrap());
        let boot = move || {
            let (postgres, tap) = (postgres.clone(), tap.clone());
            async move { postgres.serve(TcpListener::bind(SERVER).await.unwrap(), tap).await }
        };
        node.init(boot).build();
    }

    /// The names of the statements that were shown, of those that have one.
    fn shown(&self) -> Vec<String> {
        self.log.lock().unwrap().iter().map(|seen| seen.name.clone()).filter(|name| !name.is_empty()).collect()
    }

    /// Runs `work` on a node of its own.
    fn spawn<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        let ip = format!("10.0.1.{}", self.handle.metrics().num_nodes());
        self.handle.create_node().ip(ip.parse().unwrap()).build().spawn(work)
    }
}

fn simulate<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(World) -> F) -> Vec<Statement> {
    let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
    runtime.set_time_limit(Duration::from_secs(3600));
    let log = Log::default();
    let world = World { handle: runtime.handle().clone(), postgres: Postgres::new(), log: log.clone() };
    runtime.block_on(async move {
        world.serve();
        sleep(Duration::from_secs(1)).await;
        test(world).await;
    });
    let log = log.lock().unwrap();
    log.clone()
}

async fn connect() -> Client {
    let stream = TcpStream::connect(SERVER.parse::<SocketAddr>().unwrap()).await.unwrap();
    let (client, connection) =
        Config::new().user("lychgate").dbname("lychgate").connect_raw(stream, NoTls).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    client
}

async fn migrated() -> Client {
    let client = connect().await;
    client.batch_execute(SCHEMA).await.unwrap();
    client
}

async fn insert(client: &Client, id: &str) -> Result<u64, Error> {
    let sql = "/* run.insert */ INSERT INTO runs (id, session) VALUES ($1, $1)";
    client.execute_typed(sql, &[(&id, Type::TEXT)]).await
}

/// Is five seconds inside of a transaction that adds `a` and `b`.
async fn write_slowly() {
    let client = migrated().await;
    client.batch_execute("BEGIN").await.unwrap();
    insert(&client, "a").await.unwrap();
    sleep(Duration::from_secs(5)).await;
    insert(&client, "b").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
}

async fn count(client: &Client) -> i64 {
    client.query_typed("SELECT count(*) AS n FROM runs", &[]).await.unwrap()[0].get("n")
}

fn code(error: &Error) -> String {
    error.code().unwrap_or_else(|| panic!("not from the server: {error:?}")).code().to_owned()
}

#[test]
fn values_of_all_types_come_back() {
    simulate(1, |world| async move {
        let work = async {
            let client = migrated().await;
            let sql = "/* run.new */ INSERT INTO runs (id, session, fence, state, marked) VALUES ($1, $2, $3, $4, $5) RETURNING *";
            let (id, fence, state, none) = ("a", 7_i64, vec![0_u8, 255], None::<Vec<u8>>);
            let params: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] = &[
                (&id, Type::TEXT),
                (&id, Type::TEXT),
                (&fence, Type::INT8),
                (&state, Type::BYTEA),
                (&true, Type::BOOL),
            ];
            let row = client.query_typed(sql, params).await.unwrap().remove(0);
            assert_eq!((row.get::<_, String>("id"), row.get::<_, i64>("fence")), ("a".into(), 7));
            assert_eq!((row.get::<_, Vec<u8>>("state"), row.get::<_, bool>("marked")), (vec![0, 255], true));
            assert!(row.get::<_, i64>("made_at") > 1_600_000_000_000_000);
            let sql = "/* run.forget */ UPDATE runs SET state = $1, fence = fence + 1 WHERE id = $2 RETURNING state, fence AS next";
            let row = client.query_typed(sql, &[(&none, Type::BYTEA), (&id, Type::TEXT)]).await.unwrap().remove(0);
            assert_eq!((row.get::<_, Option<Vec<u8>>>("state"), row.get::<_, i64>("next")), (None, 8));
            let rows = client.simple_query("SELECT id, fence, marked, state FROM runs").await.unwrap();
            let row = rows.iter().find_map(|each| match each {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            });
            let row = row.unwrap();
            assert_eq!((row.get(0), row.get(1), row.get(2), row.get(3)), (Some("a"), Some("8"), Some("t"), None));
        };
        world.spawn(work).await.unwrap();
        let seen = world.log.lock().unwrap();
        let seen = seen.iter().find(|seen| seen.name == "run.forget").unwrap();
        assert_eq!(seen.params, [Value::Null, Value::Text("a".into())]);
        assert_eq!(seen.rows, [BTreeMap::from([("state".into(), Value::Null), ("next".into(), Value::Int(8))])]);
        assert_eq!(seen.affected, 1);
        assert_eq!(world.postgres.query("SELECT marked FROM runs")[0]["marked"], Value::Bool(true));
    });
}

#[test]
fn an_empty_result_has_the_right_types() {
    simulate(2, |world| async move {
        let work = async {
            let client = migrated().await;
            let sql = "SELECT r.id, fence AS f, state, marked, coalesce(max(fence), 0) AS n, EXISTS (SELECT 1 FROM turns) AS found, \
                       $1 AS given, now_us() - made_at AS age FROM runs r GROUP BY id";
            let statement = client.prepare_typed(sql, &[Type::BYTEA]).await.unwrap();
            let types: Vec<_> = statement.columns().iter().map(|column| column.type_().clone()).collect();
            assert_eq!(
                types,
                [Type::TEXT, Type::INT8, Type::BYTEA, Type::BOOL, Type::INT8, Type::BOOL, Type::BYTEA, Type::INT8]
            );
            assert!(client.query(&statement, &[&vec![1_u8]]).await.unwrap().is_empty());
            let row =
                client.query_one("SELECT 1, 'a', EXISTS (SELECT 1 FROM runs), count(*) FROM runs", &[]).await.unwrap();
            assert_eq!((row.get::<_, i32>(0), row.get::<_, &str>(1)), (1, "a"));
            assert_eq!((row.get::<_, bool>(2), row.get::<_, i64>(3)), (false, 0));
        };
        world.spawn(work).await.unwrap();
    });
}

#[test]
fn errors_carry_the_codes_of_postgres() {
    simulate(3, |world| async move {
        let work = async {
            let client = migrated().await;
            insert(&client, "a").await.unwrap();
            for (sql, expected, constraint) in ERRORS {
                let by_text = client.batch_execute(sql).await.unwrap_err();
                let typed = client.execute_typed(sql, &[]).await.unwrap_err();
                for error in [by_text, typed] {
                    assert_eq!(code(&error), *expected, "{sql}: {error:?}");
                    assert_eq!(error.as_db_error().unwrap().constraint().unwrap_or(""), *constraint, "{sql}");
                }
            }
            assert_eq!(count(&client).await, 1);
        };
        world.spawn(work).await.unwrap();
    });
}

/// Statement, SQLSTATE, constraint.
const ERRORS: &[(&str, &str, &str)] = &[
    ("INSERT INTO runs (id, session) VALUES ('a', 'b')", "23505", "runs_pkey"),
    ("INSERT INTO runs (id, session) VALUES ('b', 'a')", "23505", "runs_one_live"),
    ("INSERT INTO turns (run, turn) VALUES ('a', 1), ('a', 1)", "23505", "turns_run_turn_key"),
    ("INSERT INTO runs (id) VALUES ('c')", "23502", ""),
    ("UPDATE runs SET fence = -1", "23514", "runs_fence_check"),
    ("UPDATE runs SET id = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaa'", "23514", "long_id"),
    ("INSERT INTO turns (run, turn) VALUES ('x', 1)", "23503", "turns_run_fkey"),
    ("SELEC 1", "42601", ""),
    ("SELECT id FROM", "42601", ""),
    ("SELECT 'a", "42601", ""),
    ("INSERT INTO runs (id, session) VALUES ('d')", "42601", ""),
    ("SELECT id FROM nowhere", "42P01", ""),
    ("SELECT missing FROM runs", "42703", ""),
    ("INSERT INTO runs (missing) VALUES (1)", "42703", ""),
    ("SELECT turn FROM turns a, turns b", "42702", ""),
    ("CREATE TABLE runs (id text)", "42P07", ""),
    ("CREATE UNIQUE INDEX runs_one_live ON runs (session)", "42P07", ""),
    ("INSERT INTO turns (run, turn) VALUES ('a', 1) ON CONFLICT (turn) DO NOTHING", "42P10", ""),
];

#[test]
fn a_second_connection_waits_for_the_first_ones_transaction() {
    simulate(4, |world| async move {
        let first = world.spawn(write_slowly());
        let second = world.spawn(async {
            sleep(Duration::from_secs(2)).await;
            let client = connect().await;
            client.batch_execute("SET statement_timeout = 1000").await.unwrap();
            let began = Instant::now();
            let error = client.query_typed("SELECT count(*) AS n FROM runs", &[]).await.unwrap_err();
            assert_eq!(code(&error), "57014");
            assert_eq!(began.elapsed().as_secs(), 1);
            client.batch_execute("SET statement_timeout = 0").await.unwrap();
            assert_eq!(count(&client).await, 2);
            assert!(began.elapsed() > Duration::from_secs(2));
        });
        first.await.unwrap();
        second.await.unwrap();
        assert_eq!(world.shown(), ["run.insert", "run.insert"]);
    });
}

#[test]
fn who_locks_every_table_waits_for_those_inside_and_keeps_the_others_out() {
    simulate(6, |world| async move {
        let first = world.spawn(write_slowly());
        sleep(Duration::from_secs(2)).await;
        world.postgres.control(Control::Begin(Kind::of(&TABLE_LOCK)));
        let second = world.spawn(async {
            let client = connect().await;
            client.batch_execute("SET lock_timeout = 4000").await.unwrap();
            let began = Instant::now();
            assert_eq!(code(&insert(&client, "c").await.unwrap_err()), "55P03");
            assert_eq!(began.elapsed().as_secs(), 4);
            client.batch_execute("SET lock_timeout = 0").await.unwrap();
            assert_eq!(count(&client).await, 2);
            assert!(began.elapsed() >= Duration::from_secs(8));
        });
        first.await.unwrap();
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.shown(), ["run.insert", "run.insert"]);
        world.postgres.control(Control::End(Kind::of(&TABLE_LOCK)));
        second.await.unwrap();
    });
}

#[test]
fn now_us_is_what_the_servers_clock_shows() {
    simulate(7, |world| async move {
        let client = world.spawn(migrated()).await.unwrap();
        let now = async || {
            let row = client.query_typed("SELECT CAST(now_us() AS bigint) AS now", &[]).await.unwrap();
            row[0].get::<_, i64>("now") / 1_000_000
        };
        let minute = Duration::from_secs(60);
        let began = now().await;
        world.postgres.control(Control::Begin(Kind::of(&clock::AHEAD).with("by", minute)));
        assert!((60..=61).contains(&(now().await - began)));
        world.postgres.control(Control::End(Kind::of(&clock::AHEAD).with("by", minute)));
        world.postgres.control(Control::Begin(Kind::of(&clock::BEHIND).with("by", minute)));
        assert!((-60..=-59).contains(&(now().await - began)));
        world.postgres.control(Control::End(Kind::of(&clock::BEHIND).with("by", minute)));
        assert!((0..=1).contains(&(now().await - began)));
    });
}

#[test]
fn a_lost_connection_rolls_back() {
    simulate(5, |world| async move {
        let first = world.spawn(async {
            let client = migrated().await;
            client.batch_execute("BEGIN").await.unwrap();
            insert(&client, "a").await.unwrap();
        });
        first.await.unwrap();
        let second = world.spawn(async { count(&connect().await).await });
        assert_eq!(second.await.unwrap(), 0);
        assert!(world.shown().is_empty());
    });
}

#[test]
fn a_transaction_that_sits_idle_is_ended() {
    simulate(6, |world| async move {
        let work = async {
            let client = migrated().await;
            client.batch_execute("SET idle_in_transaction_session_timeout = '5s'").await.unwrap();
            sleep(Duration::from_secs(60)).await;
            client.batch_execute("BEGIN").await.unwrap();
            insert(&client, "a").await.unwrap();
            sleep(Duration::from_secs(4)).await;
            insert(&client, "b").await.unwrap();
            let other = connect().await;
            let began = Instant::now();
            assert_eq!(timeout(Duration::from_secs(20), count(&other)).await, Ok(0));
            let waited = began.elapsed().as_secs_f64();
            assert!((4.9..5.1).contains(&waited), "{waited}");
            assert!(insert(&client, "c").await.unwrap_err().is_closed());
        };
        world.spawn(work).await.unwrap();
        assert!(world.shown().is_empty());
    });
}

#[test]
fn a_failed_transaction_refuses_everything_until_it_ends() {
    simulate(7, |world| async move {
        let work = async {
            let client = migrated().await;
            client.batch_execute("BEGIN").await.unwrap();
            insert(&client, "a").await.unwrap();
            assert_eq!(code(&insert(&client, "a").await.unwrap_err()), "23505");
            assert_eq!(code(&insert(&client, "b").await.unwrap_err()), "25P02");
            assert_eq!(code(&client.batch_execute("SELECT 1").await.unwrap_err()), "25P02");
            client.batch_execute("COMMIT").await.unwrap();
            assert_eq!(count(&client).await, 0);
            client.batch_execute("/* a */ INSERT INTO runs (id, session) VALUES ('x', 'x'); SELEC").await.unwrap_err();
            assert_eq!(count(&client).await, 0);
            let sql = "BEGIN; INSERT INTO runs (id, session) VALUES ('x', 'x'); COMMIT; SELECT id FROM nowhere";
            assert_eq!(code(&client.batch_execute(sql).await.unwrap_err()), "42P01");
            assert_eq!(count(&client).await, 1);
            client.batch_execute("BEGIN; /* run.undone */ DELETE FROM runs; ROLLBACK").await.unwrap();
            assert_eq!(count(&client).await, 1);
        };
        world.spawn(work).await.unwrap();
        assert!(world.shown().is_empty());
    });
}

#[test]
fn a_cancel_request_ends_the_wait() {
    simulate(8, |world| async move {
        let work = async {
            let holder = migrated().await;
            holder.batch_execute("BEGIN").await.unwrap();
            insert(&holder, "a").await.unwrap();
            let client = connect().await;
            let cancel = client.cancel_token();
            let waiting =
                tokio::spawn(async move { client.query_typed("SELECT id FROM runs", &[]).await.unwrap_err() });
            sleep(Duration::from_secs(3)).await;
            cancel.cancel_query_raw(TcpStream::connect(SERVER).await.unwrap(), NoTls).await.unwrap();
            assert_eq!(code(&waiting.await.unwrap()), "57014");
        };
        world.spawn(work).await.unwrap();
    });
}

#[test]
fn the_database_outlives_a_restart_and_open_transactions_do_not() {
    simulate(9, |world| async move {
        let handle = world.handle.clone();
        let work = async move {
            let client = migrated().await;
            insert(&client, "a").await.unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            insert(&client, "b").await.unwrap();
            handle.kill("postgres");
            sleep(Duration::from_millis(10)).await;
            handle.restart("postgres");
            sleep(Duration::from_secs(1)).await;
            assert!(insert(&client, "c").await.is_err());
            assert_eq!(count(&connect().await).await, 1);
        };
        world.spawn(work).await.unwrap();
        assert_eq!(world.shown(), ["run.insert"]);
        assert!(!world.postgres.transaction_open());
    });
}

#[test]
fn a_failover_undoes_what_was_committed_after_the_standby_was_left_behind() {
    simulate(9, |world| async move {
        let postgres = world.postgres.clone();
        let failover = Kind::of(&FAILOVER);
        let work = async move {
            let client = migrated().await;
            insert(&client, "a").await.unwrap();
            client.batch_execute("BEGIN").await.unwrap();
            insert(&client, "open").await.unwrap();
            postgres.control(Control::Begin(failover.clone()));
            client.batch_execute("COMMIT").await.unwrap();
            insert(&client, "b").await.unwrap();
            assert_eq!(count(&client).await, 3, "until then nobody can tell");
            client.batch_execute("BEGIN").await.unwrap();
            insert(&client, "c").await.unwrap();
            postgres.control(Control::End(failover.clone()));
            assert!(client.batch_execute("COMMIT").await.is_err());
            let client = connect().await;
            assert_eq!(
                count(&client).await,
                2,
                "one that was open at the fall is the last that the standby has heard of"
            );
            insert(&client, "b").await.unwrap();
            // Nothing is lost of what a standby hears at once.
            postgres.control(Control::Begin(failover.clone()));
            postgres.control(Control::End(failover));
            assert_eq!(count(&connect().await).await, 3);
        };
        world.spawn(work).await.unwrap();
        assert!(!world.postgres.transaction_open());
    });
}

#[test]
fn one_seed_one_log() {
    let crowd = |seed| {
        simulate(seed, |world| async move {
            world.spawn(async { drop(migrated().await) }).await.unwrap();
            let clients: Vec<_> = (0..8).map(|each| world.spawn(work_of_one(each))).collect();
            for client in clients {
                client.await.unwrap();
            }
        })
    };
    let (first, second, other) = (crowd(7), crowd(7), crowd(8));
    assert!(first.len() > 100, "{}", first.len());
    assert_eq!(first, second);
    assert_ne!(first, other);
}

async fn work_of_one(each: i32) {
    let client = connect().await;
    for turn in 0..5 {
        client.batch_execute("BEGIN").await.unwrap();
        insert(&client, &format!("{each}-{turn}")).await.unwrap();
        let sql =
            "/* run.seen */ UPDATE runs SET fence = fence + 1 WHERE made_at <= now_us() RETURNING id, fence, made_at";
        client.query_typed(sql, &[]).await.unwrap();
        client.batch_execute(if turn == 3 { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
        count(&client).await;
    }
}

/// SQL that Postgres knows and this stand-in does not, and the word that says so.
const UNKNOWN: &[(&str, &str)] = &[
    ("SELECT id FROM runs WHERE id = ANY(ARRAY['a'])", "ANY"),
    ("SELECT extract(epoch FROM made_at) FROM runs", "extract"),
    ("SELECT id FROM runs WHERE id ILIKE 'A'", "ILIKE"),
    ("SELECT id FROM runs FETCH FIRST 1 ROWS ONLY", "FETCH"),
    ("SELECT fence # 1 FROM runs", "#"),
];

#[test]
fn what_it_does_not_know_stops_the_run_and_is_named() {
    for (sql, word) in UNKNOWN {
        let asked = std::panic::catch_unwind(|| {
            simulate(9, move |world| async move {
                world.spawn(async { migrated().await.batch_execute(sql).await }).await.unwrap().unwrap();
            });
        });
        let panic = asked.expect_err("it stops the run");
        let says = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        assert!(says.contains(&format!("does not know `{word}`")) && says.contains(sql), "{sql}: {says}");
    }
}
