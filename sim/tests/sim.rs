//! The small door: a worker that counts in Redis, once as it should and once with a bug, in a world of one test each.
#![cfg(madsim)]

use std::time::Duration;

use lychgate_sim::explore::sim::{Sim, delay, kill, reply_lost, wedge};
use lychgate_sim::standins::redis::Redis;
use lychgate_sim::standins::redis::observation::Command;
use lychgate_sim::trace::verdict::{Report, Verdict};
use lychgate_sim::world::product::Boot;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

/// Asks Redis one thing on a connection of its own; `None` if no answer comes within a second.
async fn ask(boot: &Boot, line: &str) -> Option<String> {
    let asked = async {
        let mut redis = TcpStream::connect(boot.links["redis"]).await?;
        redis.write_all(line.as_bytes()).await?;
        redis.flush().await?;
        let mut answer = [0; 64];
        let read = redis.read(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer[..read]).into_owned())
    };
    timeout(SECOND, asked).await.ok()?.ok()
}

/// Notes ten numbers, each until it is told that it is noted: under the number's own key, or by counting.
async fn note(boot: Boot, counting: bool) -> i32 {
    for number in 1..=10 {
        let set = format!("*3\r\n$3\r\nSET\r\n$1\r\n{}\r\n$1\r\n1\r\n", number % 10);
        let line = if counting { "*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n" } else { &set };
        while ask(&boot, line).await.is_none_or(|answer| answer.is_empty()) {
            sleep(SECOND).await;
        }
        sleep(SECOND).await;
    }
    std::future::pending().await
}

fn run(counting: bool, fault: lychgate_sim::plan::Fault) -> Report {
    let mut noted = 0;
    Sim::new(7)
        .standin(Redis::new())
        .process("worker", move |boot| note(boot, counting))
        .fault(fault)
        .check("ten_at_most", move |seen, origin| {
            let Some(command) = seen.of::<Command>() else { return Ok(()) };
            assert_eq!((seen.service, origin.process.as_str()), ("redis", "worker-1"));
            noted += u32::from(&*command.words[0] == b"INCR");
            if noted > 10 { Err(format!("{noted} numbers are noted")) } else { Ok(()) }
        })
        .run()
}

#[test]
fn what_holds_passes_whatever_goes_wrong() {
    for fault in [
        wedge("worker->redis").at(2 * SECOND).lasting(10 * SECOND),
        delay("worker->redis", SECOND / 2).at(2 * SECOND),
        reply_lost("worker->redis").at(5 * SECOND),
        kill("worker").at(5 * SECOND),
    ] {
        let report = run(false, fault);
        assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
    }
}

#[test]
fn a_number_that_is_counted_again_is_caught() {
    let report = run(true, reply_lost("worker->redis").at(5 * SECOND));
    assert_eq!((report.verdict, report.invariant.as_deref()), (Verdict::Violated, Some("ten_at_most")), "{report:#?}");
    assert_eq!(report.breach.expect("it says what is wrong").says, "11 numbers are noted");
}

#[test]
fn what_must_be_seen_and_is_not_is_missed() {
    let lost = |fault| {
        let sees = |seen: &lychgate_sim::standins::observation::Observation| seen.of::<Command>().is_some();
        let sim = Sim::new(3).standin(Redis::new()).process("worker", |boot| note(boot, false));
        sim.fault(fault).eventually("something_is_noted", 30 * SECOND, move |seen, _| sees(seen)).run()
    };
    let report = lost(wedge("worker->redis").lasting(60 * SECOND));
    let fired = (report.verdict, report.invariant.as_deref());
    assert_eq!(fired, (Verdict::Violated, Some("something_is_noted")), "{report:#?}");
    let report = lost(wedge("worker->redis").lasting(10 * SECOND));
    assert_eq!(report.verdict, Verdict::Passed, "{report:#?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    // The first run on a thread settles what a process draws once.
    let digests = [0; 2].map(|_| run(false, wedge("worker->redis").at(2 * SECOND).lasting(10 * SECOND)).events);
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn a_fault_that_strikes_nobody_proves_nothing() {
    let report = run(false, wedge("worker->redis").at(100_000 * SECOND));
    assert_eq!(report.verdict, Verdict::Vacuous, "{report:#?}");
    let sim = Sim::new(1).standin(Redis::new()).process("worker", |_| std::future::ready(0));
    let report = sim.fault(wedge("worker->nowhere")).run();
    assert_eq!(report.verdict, Verdict::Error, "{report:#?}");
}
