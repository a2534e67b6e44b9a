//! The relay by itself, before an echo server on loopback. The same body runs in the simulation and on the real runtime.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lychgate_sim::event::Happening;
use lychgate_sim::link::{Effect, Link, Witness, relay};
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
}

impl Witness for Log {
    fn now(&self) -> Duration {
        Instant::now().duration_since(self.began)
    }
    fn dialled(&self, _: &Link, incarnation: u32, _: SocketAddr) {
        assert_eq!(incarnation, 3);
    }
    fn fact(&self, _: &Link, _: u32, happening: Happening) {
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
        None
    }
    fn felt(&self, _: &Link, fault: usize, label: &str) {
        self.felt.lock().expect("unpoisoned").push((fault, label.to_owned()));
    }
    fn spent(&self, _: &Link, fault: usize) {
        self.spent.lock().expect("unpoisoned").push(fault);
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
    link.strike(1, Effect::Wedge);
    let mut stream = TcpStream::connect(near).await.expect("a wedged relay listens");
    say(&mut stream, "work").await;
    assert!(timeout(HELD, stream.read(&mut [0; 8])).await.is_err());
    link.heal(1);
    assert_eq!(hear(&mut stream).await, "work");
    assert_eq!(*log.felt.lock().expect("unpoisoned"), [(1, "ann/1".to_owned())]);
}

#[tokio::test]
async fn a_reply_is_lost_with_its_connection() {
    let (link, log, near) = stage().await;
    link.strike(2, Effect::ReplyLost { matches: Some(b"work 2".to_vec()) });
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
    link.strike(1, Effect::Close);
    assert_eq!(hear(&mut stream).await, "");
    let mut stream = TcpStream::connect(near).await.expect("the relay listens");
    assert_eq!(hear(&mut stream).await, "");
    link.heal(1);
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
    link.strike(1, Effect::Delay(HELD));
    let began = Instant::now();
    say(&mut stream, "work ").await;
    sleep(Duration::from_millis(20)).await;
    link.heal(1);
    say(&mut stream, "later").await;
    let mut heard = String::new();
    while heard.len() < 10 {
        heard += &hear(&mut stream).await;
    }
    assert_eq!(heard, "work later");
    assert!(Instant::now().duration_since(began) >= HELD);
    assert_eq!(*log.felt.lock().expect("unpoisoned"), [(1, "ann/1".to_owned())]);
}
