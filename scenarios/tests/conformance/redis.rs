//! What `src` does to Redis, by its own functions: the live view, leases, streams. After each step a second connection
//! looks at what is there.

use std::fmt::Debug;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use lychgate::config::Address;
use lychgate::ids::{Fence, RunId, SessionId};
use lychgate::live::{FrameId, Frames, Kind, Live, Redis, StreamReader};
use lychgate::run::{End, Status};
use lychgate_sim::plan::{FaultRow, Kind as FaultKind};
use lychgate_sim::standins::Control;
use lychgate_sim::standins::redis::faults::{FLUSH, FULL, READONLY, RESTART};

use crate::arms::Place;

/// Far above what an answer takes.
const BOUND: Duration = Duration::from_secs(5);

fn client(addr: SocketAddr) -> Redis {
    Redis::new(&Address { host: addr.to_string(), user: String::new(), password: String::new(), path: String::new() })
}

struct Script {
    lines: String,
    looking: Redis,
}

impl Script {
    fn note(&mut self, what: &str, result: impl Debug) {
        writeln!(self.lines, "{what}: {result:?}").expect("a string takes everything");
    }

    async fn ask(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| _ = command.arg(*word));
        self.looking.command(BOUND, &command).await.expect("an answer")
    }

    /// Every key with its kind, what is in it and how long it lasts.
    async fn look(&mut self) {
        let mut keys: Vec<String> = redis::from_redis_value(self.ask(&["KEYS", "*"]).await).expect("names");
        keys.sort();
        let mut lines = String::new();
        for key in keys {
            let kind: String = redis::from_redis_value(self.ask(&["TYPE", &key]).await).expect("a kind");
            let content = match kind.as_str() {
                "hash" => self.ask(&["HGETALL", &key]).await,
                "stream" => self.ask(&["XRANGE", &key, "-", "+"]).await,
                _ => self.ask(&["GET", &key]).await,
            };
            let seconds: i64 = redis::from_redis_value(self.ask(&["TTL", &key]).await).expect("a number");
            // No two servers are equally fast.
            let lasts =
                if seconds < 0 { "for ever".to_owned() } else { format!("about {} s", (seconds + 5) / 10 * 10) };
            writeln!(lines, "  {key} ({lasts}): {content:?}").expect("a string");
        }
        self.lines.push_str(&lines);
    }
}

/// All of it.
pub async fn body(place: Place) -> String {
    let redis = client(place.tapped);
    let live = Live::new(redis.clone());
    let mut script = Script { lines: String::new(), looking: client(place.direct) };
    view(&mut script, &live).await;
    leases(&mut script, &live).await;
    streams(&mut script, &redis).await;
    ends(&mut script, &live, &redis).await;
    flushed(&mut script, &live, &redis, &place).await;
    // What follows a call that nobody waits for any longer.
    script.note("ping", redis.command::<String>(BOUND, &redis::cmd("PING")).await);
    // One whose caller went before it could load it.
    let mut unknown = redis::cmd("EVALSHA");
    unknown.arg("0".repeat(40)).arg(0);
    script.note("a script that it does not know", redis.command::<redis::Value>(BOUND, &unknown).await);
    for ailment in [&READONLY, &FULL] {
        // It forgets our scripts too.
        place.make(Control::Begin(FaultKind::of(&RESTART))).await;
        ill(&mut script, &live, &redis, "restarted").await;
        place.make(Control::Begin(FaultKind::of(&RESTART))).await;
        place.make(Control::Begin(FaultKind::of(ailment))).await;
        ill(&mut script, &live, &redis, ailment.word()).await;
        place.make(Control::End(FaultKind::of(ailment))).await;
        ill(&mut script, &live, &redis, "well again").await;
        held(&mut script, &live, &place, ailment).await;
    }
    script.lines
}

fn names(session: &str, run: &str) -> (SessionId, RunId) {
    (SessionId(session.into()), RunId(run.into()))
}

async fn view(script: &mut Script, live: &Live) {
    let (ann, run) = names("ann", "r1");
    script.note("an empty view", live.entries().await);
    for (fence, status) in [(0, Status::Queued), (2, Status::Running), (1, Status::Running), (2, Status::Queued)] {
        let shown = live.show(BOUND, &ann, &run, Fence(fence), status).await;
        script.note(&format!("show under {fence}"), shown);
        script.look().await;
    }
    script.note("look", live.look(&ann).await);
    script.note("look for nobody", live.look(&SessionId("bob".into())).await);
    let (bob, other) = names("bob", "r2");
    script.note("show another", live.show(BOUND, &bob, &other, Fence(0), Status::Queued).await);
    script.note("entries", live.entries().await);
    script.note("drop it", live.drop_entry(&bob).await);
    script.note("drop it again", live.drop_entry(&bob).await);
    script.note("another run of the session", live.show(BOUND, &ann, &other, Fence(1), Status::Running).await);
    script.look().await;
}

async fn leases(script: &mut Script, live: &Live) {
    let (ann, run) = names("ann", "r1");
    for fence in [2, 2, 1, 3] {
        script.note(&format!("lease under {fence}"), live.lease(&ann, &run, Fence(fence)).await);
    }
    script.note("is it leased", live.is_leased(&ann, &run).await);
    script.note("is another", live.is_leased(&ann, &RunId("r2".into())).await);
    script.note("is nobody's", live.is_leased(&SessionId("bob".into()), &run).await);
    script.note("release an old one", live.release(&ann, &run, Fence(2)).await);
    script.look().await;
    script.note("release it", live.release(&ann, &run, Fence(3)).await);
    script.note("lease of another run", live.lease(&ann, &RunId("r2".into()), Fence(1)).await);
    script.look().await;
}

async fn streams(script: &mut Script, redis: &Redis) {
    let (_, run) = names("ann", "r1");
    let frames = Frames::new(redis, &run, Fence(2));
    script.note("flush nothing", frames.flush(BOUND).await);
    for (turn, kind, text) in [
        (1, Kind::Token, "Hello, "),
        (1, Kind::Token, "w\u{f6}rld\r\n"),
        (1, Kind::TurnDone, ""),
        (2, Kind::TurnRestarted, ""),
    ] {
        frames.push(turn, kind, text);
    }
    script.note("flush", frames.flush(BOUND).await);
    script.look().await;
    // Another writer of the same frames: what is there already is refused, and what comes after it is taken.
    let again = Frames::new(redis, &run, Fence(2));
    again.push(1, Kind::Token, "late");
    script.note("flush what is there", again.flush(BOUND).await);
    (0..3).for_each(|_| again.push(2, Kind::Token, "x"));
    script.note("finish", again.finish(BOUND).await);
    let mut reader = StreamReader::open(redis, &run, Fence(2), FrameId::default()).await.expect("a reader");
    script.note("read", reader.next(true).await);
    script.note("read on", reader.next(false).await);
    let mut nobody = StreamReader::open(redis, &run, Fence(9), FrameId::whole(1)).await.expect("a reader");
    script.note("read nothing", nobody.next(false).await);
    again.push(3, Kind::Token, "news");
    let (read, said) = futures_util::join!(reader.next(true), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        again.flush(BOUND).await
    });
    script.note("read what comes", (read, said));
}

async fn ends(script: &mut Script, live: &Live, redis: &Redis) {
    let (ann, run) = names("ann", "r1");
    script.note("lease", live.lease(&ann, &run, Fence(2)).await);
    script.note("show", live.show(BOUND, &ann, &run, Fence(2), Status::Running).await);
    script.note("end of another", live.end(BOUND, &ann, &RunId("r3".into()), Fence(2), &End::cancelled()).await);
    script.look().await;
    for _ in 0..2 {
        script.note("end", live.end(BOUND, &ann, &run, Fence(2), &End::completed()).await);
        script.look().await;
    }
    script.note("show what is over", live.show(BOUND, &ann, &run, Fence(3), Status::Running).await);
    let late = Frames::new(redis, &run, Fence(2));
    late.push(9, Kind::Token, "after the end");
    script.note("say after the end", late.flush(BOUND).await);
    script.note("end once more", live.end(BOUND, &ann, &run, Fence(2), &End::completed()).await);
    script.look().await;
}

/// Every key is gone at once; connections, scripts and whoever waits for frames are not.
async fn flushed(script: &mut Script, live: &Live, redis: &Redis, place: &Place) {
    let (ann, run) = names("ann", "r11");
    script.note("show", live.show(BOUND, &ann, &run, Fence(1), Status::Running).await);
    script.note("lease", live.lease(&ann, &run, Fence(1)).await);
    let frames = Frames::new(redis, &run, Fence(1));
    frames.push(1, Kind::Token, "said");
    script.note("flush", frames.flush(BOUND).await);
    let loaded = script.ask(&["SCRIPT", "LOAD", "return 'known'"]).await;
    let loaded: String = redis::from_redis_value(loaded).expect("a hash");
    let mut reader = StreamReader::open(redis, &run, Fence(1), FrameId::default()).await.expect("a reader");
    script.note("read", reader.next(true).await);
    let (read, said) = futures_util::join!(reader.next(true), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        place.make(Control::Begin(FaultKind::of(&FLUSH))).await;
        let leased = live.is_leased(&ann, &run).await;
        frames.push(1, Kind::Token, "news");
        (leased, frames.flush(BOUND).await)
    });
    script.note("flushed: read what comes", (read, said));
    script.note("flushed: entries", live.entries().await);
    script.look().await;
    script.note("flushed: a script", script.ask(&["EVALSHA", &loaded, "0"]).await);
    script.note("flushed: show", live.show(BOUND, &ann, &run, Fence(1), Status::Running).await);
    script.note("flushed: end", live.end(BOUND, &ann, &run, Fence(1), &End::completed()).await);
    script.note("flushed: drop", live.drop_entry(&ann).await);
    script.look().await;
}

/// Everything that is done to it, while it is ill or after it was.
async fn ill(script: &mut Script, live: &Live, redis: &Redis, how: &str) {
    let (ann, run) = names("ann", "r9");
    script.note(&format!("{how}: show"), live.show(BOUND, &ann, &run, Fence(1), Status::Running).await);
    script.note(&format!("{how}: lease"), live.lease(&ann, &run, Fence(1)).await);
    script.note(&format!("{how}: is it leased"), live.is_leased(&ann, &run).await);
    let frames = Frames::new(redis, &run, Fence(1));
    frames.push(1, Kind::Token, "said");
    script.note(&format!("{how}: flush"), frames.flush(BOUND).await);
    let mut reader = StreamReader::open(redis, &run, Fence(1), FrameId::default()).await.expect("a reader");
    script.note(&format!("{how}: read"), reader.next(false).await);
    script.look().await;
    script.note(&format!("{how}: end"), live.end(BOUND, &ann, &run, Fence(1), &End::completed()).await);
    script.note(&format!("{how}: release"), live.release(&ann, &run, Fence(1)).await);
    script.note(&format!("{how}: drop"), live.drop_entry(&ann).await);
    script.look().await;
}

/// Falls ill when something is there already: a script that takes away before it adds, and one that only takes away.
async fn held(script: &mut Script, live: &Live, place: &Place, ailment: &'static FaultRow) {
    let (ann, run) = names("ann", "r10");
    let how = ailment.word();
    script.note("show", live.show(BOUND, &ann, &run, Fence(1), Status::Running).await);
    script.note("lease", live.lease(&ann, &run, Fence(1)).await);
    place.make(Control::Begin(FaultKind::of(ailment))).await;
    script.note(
        &format!("{how}, and something held: end"),
        live.end(BOUND, &ann, &run, Fence(1), &End::completed()).await,
    );
    script.note(&format!("{how}, and something held: release"), live.release(&ann, &run, Fence(1)).await);
    place.make(Control::End(FaultKind::of(ailment))).await;
    script.look().await;
}

#[test]
fn the_stand_in_says_what_redis_said() {
    crate::kept("redis", &crate::arms::stand_in(crate::arms::Service::Redis, body).0);
}

#[cfg(not(madsim))]
#[test]
#[ignore = "needs redis-server; `cargo sim conformance` runs it"]
fn redis_still_says_it() {
    let server = lychgate_sim::real::servers::redis::start();
    crate::kept(
        "redis",
        &crate::arms::real(crate::arms::Service::Redis, server.addr, crate::levers::redis(&server), body).0,
    );
}
