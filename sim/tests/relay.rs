//! The relay by itself, before an echo server on loopback. The same body runs in the simulation and on the real runtime.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lychgate_sim::link::{Effect, Link, LinkObserver, relay};
use lychgate_sim::plan::{Direction, Scope};
use lychgate_sim::trace::event::WorldEvent;
use lychgate_sim::trace::fault::FaultId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

/// Long enough to tell held from slow on a loaded machine.
const HELD: Duration = Duration::from_millis(300);

struct Log {
    began: Instant,
    facts: Mutex<Vec<&'static str>>,
    felt: Mutex<Vec<(usize, String)>>,
    spent: Mutex<Vec<usize>>,
    /// Whether the near end works on something, whatever it says.
    works: AtomicBool,
}

impl LinkObserver for Log {
    fn now(&self) -> Duration {
        Instant::now().duration_since(self.began)
    }
    fn dialled(&self, _: &Link, incarnation: u32, _: SocketAddr) {
        assert_eq!(incarnation, 3);
    }
    fn fact(&self, _: &Link, _: u32, happening: WorldEvent) {
        self.facts.lock().expect("unpoisoned").push(happening.name());
    }
    fn arrived(&self, _: &Link, bytes: &[u8], old: usize) {
        assert!(old < bytes.len());
    }
    fn carried(&self, _: &Link, conn: u32, _: bool, bytes: &[u8]) {
        assert!(conn > 0 && !bytes.is_empty());
    }
    fn mentions(&self, _: &Link, request: &[u8]) -> Option<String> {
        request.starts_with(b"work").then(|| "ann/1".to_owned())
    }
    fn serves(&self, _: &Link) -> Option<String> {
        self.works.load(Ordering::Relaxed).then(|| "ben/1".to_owned())
    }
    fn felt(&self, _: &Link, fault: FaultId, label: &str) {
        self.felt.lock().expect("unpoisoned").push((fault.number(), label.to_owned()));
    }
    fn spent(&self, _: &Link, fault: FaultId) {
        self.spent.lock().expect("unpoisoned").push(fault.number());
    }
}

async fn echo(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                stream.write_all(&buffer[..read]).await.expect("the relay reads");
                stream.flush().await.expect("the relay reads");
            }
        });
    }
}

async fn stage() -> (Arc<Link>, Arc<Log>, SocketAddr) {
    let service = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = service.local_addr().expect("bound");
    let target = SocketAddr::new("127.0.0.1".parse().expect("an address"), target.port());
    tokio::spawn(echo(service));
    before(target).await
}

/// A link before that service.
async fn before(target: SocketAddr) -> (Arc<Link>, Arc<Log>, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let near = SocketAddr::new(target.ip(), listener.local_addr().expect("bound").port());
    let link = Link::new("worker-1", "echo");
    link.near_up(3);
    let log = Arc::new(Log {
        began: Instant::now(),
        facts: Mutex::default(),
        felt: Mutex::default(),
        spent: Mutex::default(),
        works: AtomicBool::new(false),
    });
    tokio::spawn(relay(link.clone(), log.clone(), listener, target));
    (link, log, near)
}

async fn say(stream: &mut TcpStream, words: &str) {
    stream.write_all(words.as_bytes()).await.expect("the relay takes it");
    stream.flush().await.expect("the relay takes it");
}

async fn hear(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 1024];
    let read = timeout(Duration::from_secs(5), stream.read(&mut buffer)).await.expect("an answer or an end");
    String::from_utf8_lossy(&buffer[..read.unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn bytes_pass() {
    let (_, log, near) = stage().await;
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut stream, "work").await;
    assert_eq!(hear(&mut stream).await, "work");
    drop(stream);
    sleep(HELD).await;
    assert_eq!(*log.facts.lock().expect("unpoisoned"), ["link_opened", "link_closed"]);
}

#[tokio::test]
async fn a_wedge_holds_connecting_and_bytes() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(1), Effect::Wedge);
    let mut stream = TcpStream::connect(near).await.expect("a wedged relay listens");
    say(&mut stream, "work").await;
    assert!(timeout(HELD, stream.read(&mut [0; 8])).await.is_err());
    link.heal(FaultId::numbered(1));
    assert_eq!(hear(&mut stream).await, "work");
    assert_eq!(*log.felt.lock().expect("unpoisoned"), [(1, "ann/1".to_owned())]);
}

#[tokio::test]
async fn a_reply_is_lost_with_its_connection() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(2), Effect::ReplyLost { matches: Some(b"work 2".to_vec()) });
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut stream, "work 1").await;
    assert_eq!(hear(&mut stream).await, "work 1");
    say(&mut stream, "work 2").await;
    assert_eq!(hear(&mut stream).await, "");
    assert_eq!(*log.spent.lock().expect("unpoisoned"), [2]);
    assert_eq!(*log.felt.lock().expect("unpoisoned"), [(2, "ann/1".to_owned())]);
}

#[tokio::test]
async fn a_close_ends_what_stands_and_what_comes() {
    let (link, _, near) = stage().await;
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut stream, "work").await;
    assert_eq!(hear(&mut stream).await, "work");
    link.strike(FaultId::numbered(1), Effect::Close);
    assert_eq!(hear(&mut stream).await, "");
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    assert_eq!(hear(&mut stream).await, "");
    link.heal(FaultId::numbered(1));
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut stream, "again").await;
    assert_eq!(hear(&mut stream).await, "again");
}

#[tokio::test]
async fn a_lost_far_end_is_silent_until_it_expires() {
    let (link, _, near) = stage().await;
    let mut old = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut old, "work").await;
    assert_eq!(hear(&mut old).await, "work");
    link.lose_far();
    say(&mut old, "more").await;
    let mut new = TcpStream::connect(near).await.expect("the relay of a lost host listens");
    say(&mut new, "new").await;
    assert!(timeout(HELD, old.read(&mut [0; 8])).await.is_err());
    assert!(timeout(HELD, new.read(&mut [0; 8])).await.is_err());
    link.far_up();
    assert_eq!(hear(&mut new).await, "new");
    assert!(timeout(HELD, old.read(&mut [0; 8])).await.is_err(), "what stood is dead, whoever is there again");
    link.expire_far(1);
    assert_eq!(hear(&mut old).await, "");
    say(&mut new, "on").await;
    assert_eq!(hear(&mut new).await, "on");
}

#[tokio::test]
async fn a_lost_near_end_is_nobody_to_the_judge_and_half_open_to_the_service() {
    let service = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let target = SocketAddr::new("127.0.0.1".parse().expect("an address"), service.local_addr().expect("bound").port());
    let (link, log, near) = before(target).await;
    let old = TcpStream::connect(near).await.expect("the relay listens");
    let (mut kept, _) = service.accept().await.expect("it dials");
    link.lose_near();
    drop(old);
    say(&mut kept, "anybody?").await;
    assert!(timeout(HELD, kept.read(&mut [0; 8])).await.is_err());
    assert_eq!(*log.facts.lock().expect("unpoisoned"), ["link_opened", "link_closed"]);
    link.expire_near(1);
    assert_eq!(hear(&mut kept).await, "");
    // A second loss is not what the first one's expiry was about.
    let _old = TcpStream::connect(near).await.expect("the relay listens");
    let (mut kept, _) = service.accept().await.expect("it dials");
    link.lose_near();
    link.expire_near(1);
    assert!(timeout(HELD, kept.read(&mut [0; 8])).await.is_err());
    link.expire_near(2);
    assert_eq!(hear(&mut kept).await, "");
}

#[tokio::test]
async fn a_delay_keeps_the_order() {
    let (link, log, near) = stage().await;
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    link.strike(FaultId::numbered(1), Effect::Delay(HELD));
    let began = Instant::now();
    say(&mut stream, "work ").await;
    sleep(Duration::from_millis(20)).await;
    link.heal(FaultId::numbered(1));
    say(&mut stream, "later").await;
    let mut heard = String::new();
    while heard.len() < 10 {
        heard += &hear(&mut stream).await;
    }
    assert_eq!(heard, "work later");
    assert!(Instant::now().duration_since(began) >= HELD);
    assert_eq!(*log.felt.lock().expect("unpoisoned"), [(1, "ann/1".to_owned())]);
}

async fn dialled(near: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut stream, "work").await;
    assert_eq!(hear(&mut stream).await, "work");
    stream
}

async fn silent(stream: &mut TcpStream) {
    assert!(timeout(HELD, stream.read(&mut [0; 8])).await.is_err(), "something came");
}

fn felt(log: &Log) -> Vec<usize> {
    log.felt.lock().expect("unpoisoned").iter().map(|(fault, _)| *fault).collect()
}

/// Whether this process may look at packets, as a relay must that tells who was refused outside of the simulation.
fn may_look() -> bool {
    const CAP_NET_RAW: u32 = 13;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let may = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    may.and_then(|may| u64::from_str_radix(may.trim(), 16).ok()).is_some_and(|may| (may >> CAP_NET_RAW) & 1 == 1)
}

#[tokio::test]
async fn who_dials_is_refused_and_what_stands_goes_on() {
    let (link, log, near) = stage().await;
    let mut stands = dialled(near).await;
    log.works.store(true, Ordering::Relaxed);
    let (mut dials, mut seen) = (Vec::new(), Vec::new());
    for fault in [1, 2] {
        link.strike(FaultId::numbered(fault), Effect::ConnectionRefused);
        sleep(HELD).await;
        assert_eq!(felt(&log), seen, "nobody has dialled");
        for _ in 0..fault {
            let refused = TcpStream::connect(near).await.expect_err("nobody listens");
            assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
            say(&mut stands, "on").await;
            assert_eq!(hear(&mut stands).await, "on");
            sleep(HELD).await;
            dials.push(fault);
        }
        seen = if cfg!(madsim) || may_look() { dials.clone() } else { Vec::new() };
        assert_eq!(felt(&log), seen);
        link.heal(FaultId::numbered(fault));
        sleep(HELD).await;
        drop(dialled(near).await);
        assert_eq!(felt(&log), seen, "who is let in feels nothing");
    }
    let opened = |facts: &[&str]| facts.iter().filter(|fact| **fact == "link_opened").count();
    assert_eq!(opened(&log.facts.lock().expect("unpoisoned")), 3);
}

#[tokio::test]
async fn who_has_nothing_to_do_does_not_feel_that_it_is_refused() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(1), Effect::ConnectionRefused);
    sleep(HELD).await;
    let refused = TcpStream::connect(near).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    sleep(HELD).await;
    assert!(felt(&log).is_empty());
}

#[tokio::test]
async fn what_is_half_open_says_nothing_and_closes_at_the_end() {
    let (link, log, near) = stage().await;
    let mut old = dialled(near).await;
    link.strike(FaultId::numbered(1), Effect::HalfOpen);
    sleep(HELD).await;
    assert!(felt(&log).is_empty(), "nobody has said anything");
    say(&mut old, "work").await;
    silent(&mut old).await;
    assert_eq!(felt(&log), [1]);
    let mut new = dialled(near).await;
    link.heal(FaultId::numbered(1));
    assert_eq!(hear(&mut old).await, "", "it is closed, and what was said is gone");
    say(&mut new, "on").await;
    assert_eq!(hear(&mut new).await, "on");
    // The same fault may strike again: what was new is old now.
    link.strike(FaultId::numbered(1), Effect::HalfOpen);
    say(&mut new, "more").await;
    silent(&mut new).await;
    link.heal(FaultId::numbered(1));
    assert_eq!(hear(&mut new).await, "");
}

#[tokio::test]
async fn who_waits_for_an_answer_that_is_swallowed_feels_it() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(2), Effect::Wedge);
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut stream, "work").await;
    sleep(HELD).await;
    link.strike(FaultId::numbered(1), Effect::HalfOpen);
    link.heal(FaultId::numbered(2));
    silent(&mut stream).await;
    assert_eq!(felt(&log), [2, 1]);
    link.heal(FaultId::numbered(1));
    assert_eq!(hear(&mut stream).await, "");
}

#[tokio::test]
async fn a_trickle_carries_a_few_bytes_at_a_time_and_all_when_it_heals() {
    let (link, log, near) = stage().await;
    let mut stream = dialled(near).await;
    let by = HELD / 3;
    let part = Scope { direction: Some(Direction::Down), only: None };
    link.strike_part(FaultId::numbered(1), Effect::Trickle { bytes: 2, by }, part);
    let began = Instant::now();
    say(&mut stream, "work 12").await;
    let mut parts: Vec<String> = Vec::new();
    while parts.concat().len() < 7 {
        parts.push(hear(&mut stream).await);
    }
    assert_eq!(parts, ["wo", "rk", " 1", "2"]);
    assert!(Instant::now().duration_since(began) >= 3 * by);
    assert_eq!(felt(&log), [1]);
    say(&mut stream, "and a lot more than that").await;
    sleep(by + by / 2).await;
    link.heal(FaultId::numbered(1));
    let mut heard = String::new();
    while heard.len() < 24 {
        heard += &hear(&mut stream).await;
    }
    assert_eq!(heard, "and a lot more than that");
    assert!(Instant::now().duration_since(began) < 7 * by, "the rest came at once");
}

#[tokio::test]
async fn an_answer_is_cut_in_the_middle() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(1), Effect::Cut { matches: Some(b"work 2".to_vec()) });
    let mut stream = dialled(near).await;
    say(&mut stream, "work 2").await;
    assert_eq!(hear(&mut stream).await, "wor");
    assert_eq!(hear(&mut stream).await, "");
    assert_eq!(*log.spent.lock().expect("unpoisoned"), [1]);
    let mut stream = dialled(near).await;
    say(&mut stream, "work 2").await;
    assert_eq!(hear(&mut stream).await, "work 2", "once is once");
    // Without a pattern: whatever comes next.
    link.strike(FaultId::numbered(2), Effect::Cut { matches: None });
    say(&mut stream, "12").await;
    assert_eq!(hear(&mut stream).await, "1");
    assert_eq!(hear(&mut stream).await, "");
    assert_eq!(felt(&log), [1]);
}

#[tokio::test]
async fn an_answer_is_damaged_once_and_the_connection_goes_on() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(1), Effect::Corrupt { matches: Some(b"work 2".to_vec()) });
    let mut stream = dialled(near).await;
    say(&mut stream, "work 1").await;
    assert_eq!(hear(&mut stream).await, "work 1", "that was not asked for");
    say(&mut stream, "work 2").await;
    assert_eq!(hear(&mut stream).await, "\u{fffd}ork 2");
    say(&mut stream, "work 2").await;
    assert_eq!(hear(&mut stream).await, "work 2", "once is once");
    assert_eq!(*log.spent.lock().expect("unpoisoned"), [1]);
    // Without a pattern: whatever comes next.
    link.strike(FaultId::numbered(2), Effect::Corrupt { matches: None });
    say(&mut stream, "12").await;
    assert_eq!(hear(&mut stream).await, "\u{fffd}2");
    assert_eq!(felt(&log), [1]);
}

#[tokio::test]
async fn a_request_is_delivered_twice_and_answered_once() {
    let service = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = service.local_addr().expect("bound").port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = service.accept().await {
            let hears = hears.clone();
            tokio::spawn(async move {
                let request = hear(&mut stream).await;
                hears.lock().expect("unpoisoned").push(request.clone());
                say(&mut stream, &request).await;
            });
        }
    });
    let (link, log, near) = before(SocketAddr::new("127.0.0.1".parse().expect("an address"), port)).await;
    link.strike(FaultId::numbered(1), Effect::Duplicate { matches: Some(b"work 2".to_vec()) });
    for words in ["work 1", "work 2", "work 2"] {
        let mut stream = TcpStream::connect(near).await.expect("the relay listens");
        say(&mut stream, words).await;
        assert_eq!(hear(&mut stream).await, words);
        assert_eq!(hear(&mut stream).await, "", "{words} was answered once");
    }
    sleep(HELD).await;
    assert_eq!(*heard.lock().expect("unpoisoned"), ["work 1", "work 2", "work 2", "work 2"]);
    assert_eq!(felt(&log), [1]);
    assert_eq!(*log.spent.lock().expect("unpoisoned"), [1]);
}

#[tokio::test]
async fn something_in_between_answers_once_and_hangs_up() {
    let (link, log, near) = stage().await;
    link.strike(FaultId::numbered(1), Effect::Answer { status: 503, matches: Some(b"work 2".to_vec()) });
    let mut stream = dialled(near).await;
    say(&mut stream, "work 1").await;
    assert_eq!(hear(&mut stream).await, "work 1", "that was not asked for");
    link.strike_part(FaultId::numbered(2), Effect::Wedge, Scope { direction: Some(Direction::Down), only: None });
    say(&mut stream, "work 2").await;
    // What else is said before the end is heard is said to nobody.
    silent(&mut stream).await;
    link.strike(FaultId::numbered(3), Effect::Answer { status: 500, matches: None });
    say(&mut stream, "work 2 goes on").await;
    silent(&mut stream).await;
    link.heal(FaultId::numbered(3));
    link.heal(FaultId::numbered(2));
    let said = hear(&mut stream).await;
    assert!(said.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && said.ends_with("\r\n\r\nService Unavailable"));
    assert!(said.contains("\r\ncontent-length: 19\r\n"), "{said}");
    assert_eq!(hear(&mut stream).await, "");
    assert_eq!(felt(&log), [1, 2]);
    assert_eq!(*log.spent.lock().expect("unpoisoned"), [1]);
    let mut stream = dialled(near).await;
    say(&mut stream, "work 2").await;
    assert_eq!(hear(&mut stream).await, "work 2", "once is once");
}

#[tokio::test]
async fn a_wedge_of_one_way_lets_the_other_pass() {
    let (link, log, near) = stage().await;
    let mut stream = dialled(near).await;
    let only = |direction| Scope { direction: Some(direction), only: None };
    link.strike_part(FaultId::numbered(1), Effect::Wedge, only(Direction::Down));
    // Connecting goes up.
    let mut new = TcpStream::connect(near).await.expect("the relay listens");
    say(&mut new, "new").await;
    say(&mut stream, "work 1").await;
    silent(&mut stream).await;
    link.strike_part(FaultId::numbered(2), Effect::Wedge, only(Direction::Up));
    say(&mut stream, "work 2").await;
    link.heal(FaultId::numbered(1));
    assert_eq!(hear(&mut stream).await, "work 1", "it was answered, and only the answer was held");
    assert_eq!(hear(&mut new).await, "new");
    silent(&mut stream).await;
    link.heal(FaultId::numbered(2));
    assert_eq!(hear(&mut stream).await, "work 2");
    assert_eq!(felt(&log), [1, 2]);
}

#[tokio::test]
async fn what_strikes_only_some_requests_begins_with_one_of_them() {
    let (link, log, near) = stage().await;
    let only = || Scope { direction: None, only: Some("work 2".into()) };
    link.strike_part(FaultId::numbered(1), Effect::Wedge, only());
    let mut struck = dialled(near).await;
    let mut spared = dialled(near).await;
    say(&mut struck, "work 2").await;
    silent(&mut struck).await;
    say(&mut spared, "work 1").await;
    assert_eq!(hear(&mut spared).await, "work 1");
    link.heal(FaultId::numbered(1));
    assert_eq!(hear(&mut struck).await, "work 2");
    // It may come back, and knows nothing of what was said before.
    link.strike_part(FaultId::numbered(1), Effect::Wedge, only());
    say(&mut struck, "on").await;
    assert_eq!(hear(&mut struck).await, "on");
    link.heal(FaultId::numbered(1));
    link.strike_part(FaultId::numbered(2), Effect::Close, only());
    let mut struck = dialled(near).await;
    say(&mut struck, "work 2").await;
    assert_eq!(hear(&mut struck).await, "");
    say(&mut spared, "work 3").await;
    assert_eq!(hear(&mut spared).await, "work 3");
    assert_eq!(felt(&log), [1, 2]);
}
