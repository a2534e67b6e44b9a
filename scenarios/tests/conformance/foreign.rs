//! Clients that nobody here has written: redis-cli, psql and lapin, with the stand-ins on loopback and with the real
//! servers. A stand-in that pleases our clients alone would hide what both get wrong.

use std::net::SocketAddr;
use std::process::{Command, Stdio};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, ConnectionProperties};

use crate::arms::{Place, Service, real, stand_in, untouched};
use lychgate_sim::real::servers::{self, INSTALL};

/// What a program says when it is given `input`.
async fn said(mut command: Command, input: &'static str) -> String {
    let run = move || {
        use std::io::Write;

        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start, {error}: {INSTALL}"));
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{out}{errors}exit code {:?}\n", output.status.code())
    };
    tokio::task::spawn_blocking(run).await.expect("it does not panic")
}

fn at(program: &str, addr: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &addr.ip().to_string(), "-p", &addr.port().to_string()]);
    command
}

async fn redis_cli(place: Place) -> String {
    let input = "SET a 1 EX 100\nGET a\nINCR a\nTTL a\nGET none\nHSET h f 1 g 2\nHGETALL h\nHGET a f\n\
        XADD s 1-1 kind token text \"two words\"\nXADD s 1-1 kind late\nXADD s MAXLEN ~ 100 1-2 kind end\nXRANGE s - +\n\
        XREAD COUNT 1 STREAMS s 1-1\nXREAD STREAMS s 9-9\nXLEN s\nTYPE s\n\
        EVAL \"return redis.call('GET', KEYS[1])\" 1 a\nEVAL \"return {1, 'two', {3}}\" 0\nEVAL \"return nil .. 1\" 0\n\
        EVALSHA 0000000000000000000000000000000000000000 0\nDEL a h s\nEXISTS a h s\nPING\n";
    said(at("redis-cli", place.tapped), input).await
}

async fn psql(place: Place) -> String {
    let input = "CREATE TABLE t (id text PRIMARY KEY, n bigint NOT NULL, note text, done boolean NOT NULL DEFAULT false);\n\
        INSERT INTO t (id, n) VALUES ('a', 1), ('b', 2);\nSELECT id, n, note, done FROM t ORDER BY id;\n\
        UPDATE t SET n = n + 1, done = true WHERE id = 'a' RETURNING id, n, done;\n\
        INSERT INTO t (id, n) VALUES ('a', 1);\nINSERT INTO t (id) VALUES ('c');\n\
        BEGIN;\nDELETE FROM t WHERE id = 'b';\nINSERT INTO t (id, n) VALUES ('a', 1);\nSELECT id FROM t;\nCOMMIT;\n\
        BEGIN;\nDELETE FROM t WHERE id = 'b';\nROLLBACK;\nSELECT count(*) AS n FROM t;\nSELECT missing FROM t;\n\
        BEGIN;\nUPDATE t SET n = 7 WHERE id = 'b';\nCOMMIT;\nSELECT id, n FROM t ORDER BY n DESC;\n";
    let mut command = at("psql", place.tapped);
    // Its words for an error draw the place in the statement, which the stand-in does not know.
    command.args(["-U", "postgres", "-d", "postgres", "-X", "-v", "VERBOSITY=sqlstate", "-f", "-"]);
    command.env("PGSSLMODE", "prefer").env("PGGSSENCMODE", "disable");
    said(command, input).await
}

async fn lapin(place: Place) -> String {
    let uri = format!("amqp://guest:guest@{}/%2f", place.tapped);
    let connection = lapin::Connection::connect(&uri, ConnectionProperties::default()).await.expect("a connection");
    let channel = connection.create_channel().await.expect("a channel");
    let mut lines = String::new();
    let mut note = |what: &str, said: String| lines.push_str(&format!("{what}: {said}\n"));
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("lapin".into(), durable, FieldTable::default()).await.expect("a queue");
    note("declared", format!("{} {} {}", queue.name(), queue.message_count(), queue.consumer_count()));
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    for (key, mandatory) in [("lapin", true), ("lapin", false), ("lapin-none", false), ("lapin-none", true)] {
        let options = BasicPublishOptions { mandatory, ..BasicPublishOptions::default() };
        let body = format!("to {key}");
        let properties = BasicProperties::default().with_delivery_mode(2);
        let published = channel.basic_publish("".into(), key.into(), options, body.as_bytes(), properties).await;
        let confirm = published.expect("it is sent").await.expect("a confirm");
        note("published", format!("ack {}, returned {}", confirm.is_ack(), confirm.take_message().is_some()));
    }
    channel.basic_qos(1, BasicQosOptions::default()).await.expect("a prefetch");
    let consume = BasicConsumeOptions::default();
    let mut consumer =
        channel.basic_consume("lapin".into(), "tag".into(), consume, FieldTable::default()).await.expect("a consumer");
    for turn in 0..3 {
        let delivery = consumer.next().await.expect("it goes on").expect("a delivery");
        let body = String::from_utf8_lossy(&delivery.data).into_owned();
        note("delivered", format!("{body}, tag {}, again {}", delivery.delivery_tag, delivery.redelivered));
        if turn == 0 {
            let back = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            delivery.nack(back).await.expect("it is sent");
        } else {
            delivery.ack(BasicAckOptions::default()).await.expect("it is sent");
        }
    }
    channel.basic_cancel("tag".into(), lapin::options::BasicCancelOptions::default()).await.expect("it is cancelled");
    let bind = QueueBindOptions::default();
    let refused = channel.queue_bind("lapin".into(), "lapin-none".into(), "".into(), bind, FieldTable::default()).await;
    note("no exchange", refused.expect_err("there is none").to_string());
    let channel = connection.create_channel().await.expect("another channel");
    let left = channel.queue_declare("lapin".into(), durable, FieldTable::default()).await.expect("a queue");
    note("left", left.message_count().to_string());
    connection.close(200, "done".into()).await.expect("it closes");
    lines
}

fn alike(real: &str, fake: &str) {
    assert!(real == fake, "with the real server it says\n{real}\nand with the stand-in\n{fake}");
}

#[test]
#[ignore = "needs redis-server; `cargo sim conformance` runs it"]
fn redis_cli_cannot_tell_redis() {
    let server = servers::redis::start();
    alike(&real(Service::Redis, server.addr, untouched(), redis_cli).0, &stand_in(Service::Redis, redis_cli).0);
}

#[test]
#[ignore = "needs postgres; `cargo sim conformance` runs it"]
fn psql_cannot_tell_postgres() {
    let server = servers::postgres::start();
    alike(&real(Service::Postgres, server.addr, untouched(), psql).0, &stand_in(Service::Postgres, psql).0);
}

#[test]
#[ignore = "needs rabbitmq-server; `cargo sim conformance` runs it"]
fn lapin_cannot_tell_rabbitmq() {
    let server = servers::rabbit::start();
    alike(&real(Service::Rabbit, server.addr, untouched(), lapin).0, &stand_in(Service::Rabbit, lapin).0);
}
