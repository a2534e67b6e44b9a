//! Two transactions, interleaved at every boundary: each statement that decides anything, against each that could decide
//! otherwise. The stand-in runs one transaction at a time, which hides whatever READ COMMITTED allows; so the outcomes of
//! the real server are kept, and where the stand-in's differ, `interleavings.txt` must say why that is harmless.
//!
//! A boundary is a BEGIN, a statement, a COMMIT or ROLLBACK. A step of a connection that waits for a lock waits with all
//! that follows it there. `$` in a name is a number of the interleaving's own, so that none sees another's rows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_postgres::Client;

use crate::arms::Place;
use crate::statements::{Say, connect};

const BODY: &str = include_str!("interleavings.txt");

/// By pair, endings and order: what came of it.
type Outcomes = BTreeMap<(usize, &'static str, String), String>;

/// The endings of A and B. If neither commits there is nothing to see.
const ENDINGS: &[(&str, [&str; 2])] = &[
    ("both commit", ["commit", "commit"]),
    ("B rolls back", ["commit", "rollback"]),
    ("A rolls back", ["rollback", "commit"]),
];

/// Two transactions, where they start from and where to look after them.
#[derive(Debug, Default)]
struct Pair {
    name: String,
    scene: String,
    sides: [Vec<String>; 2],
    /// Why the stand-in may differ.
    differs: Option<String>,
}

/// What is there before, and what is asked after.
#[derive(Debug, Default)]
struct Scene {
    setup: Vec<String>,
    looks: Vec<String>,
}

fn read() -> (BTreeMap<String, Scene>, Vec<Pair>) {
    let (mut scenes, mut pairs) = (BTreeMap::<String, Scene>::new(), Vec::<Pair>::new());
    let mut scene = String::new();
    for line in BODY.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let pair = pairs.last_mut();
        match (word, pair) {
            ("scene", _) => {
                scene = rest.to_owned();
                scenes.insert(scene.clone(), Scene::default());
            }
            ("first", _) => scenes.get_mut(&scene).expect("a scene").setup.push(rest.to_owned()),
            ("then", _) => scenes.get_mut(&scene).expect("a scene").looks.push(rest.to_owned()),
            ("pair", _) => pairs.push(Pair { name: rest.to_owned(), scene: scene.clone(), ..Pair::default() }),
            ("A", Some(pair)) => pair.sides[0].push(rest.to_owned()),
            ("B", Some(pair)) => pair.sides[1].push(rest.to_owned()),
            ("differs:", Some(pair)) => pair.differs = Some(rest.to_owned()),
            _ => panic!("not a line: {line}"),
        }
    }
    (scenes, pairs)
}

/// Every order of `a` steps of A and `b` of B, as `AABABB`.
fn orders(a: usize, b: usize) -> Vec<String> {
    if a == 0 || b == 0 {
        return vec!["A".repeat(a) + &"B".repeat(b)];
    }
    let one = |who: char, rest: Vec<String>| rest.into_iter().map(move |rest| format!("{who}{rest}"));
    one('A', orders(a - 1, b)).chain(one('B', orders(a, b - 1))).collect()
}

/// How to know that whoever is not answered waits for a lock.
pub enum Patience {
    /// Virtual time: whatever does not wait has long been answered.
    #[cfg(madsim)]
    Sleep,
    /// Postgres says which processes wait.
    #[cfg(not(madsim))]
    Ask([i32; 2]),
}

/// A connection with a task that says one thing after the other on it.
struct Side {
    steps: UnboundedSender<String>,
    said: Arc<Mutex<Vec<String>>>,
    asked: usize,
}

impl Side {
    fn new(client: Arc<Client>) -> Side {
        let (steps, mut coming) = unbounded_channel::<String>();
        let said = Arc::new(Mutex::new(Vec::new()));
        let written = said.clone();
        tokio::spawn(async move {
            while let Some(step) = coming.recv().await {
                let answer = Say::parse(&step).to(&client).await;
                written.lock().expect("nothing panics while it holds it").push(answer);
            }
        });
        Side { steps, said, asked: 0 }
    }

    fn ask(&mut self, step: String) {
        self.asked += 1;
        self.steps.send(step).expect("its task lives as long as this");
    }

    fn is_answered(&self) -> bool {
        self.said.lock().expect("nothing panics while it holds it").len() == self.asked
    }

    fn take(&mut self) -> Vec<String> {
        self.asked = 0;
        std::mem::take(&mut *self.said.lock().expect("nothing panics while it holds it"))
    }
}

struct Stage {
    control: Arc<Client>,
    sides: [Side; 2],
    patience: Patience,
    number: u32,
}

impl Stage {
    /// Returns when each side is answered or waits for the other.
    async fn settle(&self) {
        match &self.patience {
            #[cfg(madsim)]
            Patience::Sleep => tokio::time::sleep(Duration::from_millis(50)).await,
            #[cfg(not(madsim))]
            Patience::Ask(pids) => loop {
                let waiting = "SELECT DISTINCT pid FROM pg_locks WHERE NOT granted";
                let rows = self.control.query_typed(waiting, &[]).await.expect("an answer");
                let waiting: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
                let settled = |(side, pid): (&Side, &i32)| side.is_answered() || waiting.contains(pid);
                if self.sides.iter().zip(pids).all(settled) {
                    return;
                }
                tokio::time::sleep(Duration::from_micros(200)).await;
            },
        }
    }

    async fn play(&mut self, scene: &Scene, pair: &Pair, ends: [&str; 2], order: &str) -> String {
        self.number += 1;
        let own = format!("-{}.", self.number);
        let filled = |line: &String| line.replace('$', &own);
        for line in &scene.setup {
            let said = Say::parse(&filled(line)).to(&self.control).await;
            assert!(said.starts_with(" 1 of them"), "{}: {line}:{said}", pair.name);
        }
        let steps = |side: usize| {
            let middle = pair.sides[side].iter().map(filled);
            std::iter::once("begin".to_owned()).chain(middle).chain([ends[side].to_owned()]).collect::<Vec<_>>()
        };
        let mut coming = [steps(0).into_iter(), steps(1).into_iter()];
        for who in order.bytes() {
            let side = usize::from(who == b'B');
            self.sides[side].ask(coming[side].next().expect("as many as the order says"));
            self.settle().await;
        }
        let wait = async {
            while !self.sides.iter().all(Side::is_answered) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let answered = tokio::time::timeout(Duration::from_secs(20), wait).await;
        answered.unwrap_or_else(|_| panic!("{}, {order}: somebody waits for ever", pair.name));
        let mut outcome = Vec::new();
        for (side, name) in ["A", "B"].into_iter().enumerate() {
            let said = self.sides[side].take();
            let middle = &said[1..said.len() - 1];
            outcome.push(format!("{name}:{}", middle.iter().map(|said| brief(said)).collect::<String>()));
        }
        for look in &scene.looks {
            outcome.push(format!("then:{}", brief(&Say::parse(&filled(look)).to(&self.control).await)));
        }
        outcome.join("; ").replace(&own, "$")
    }
}

/// On one line, without what is null or a time.
fn brief(said: &str) -> String {
    let words = said.split_whitespace().filter(|word| !word.ends_with("=null") && !word.ends_with("=T"));
    let words = words.collect::<Vec<_>>().join(" ");
    format!(" [{}]", words.strip_suffix(" of them").unwrap_or(&words).replace(" of them ", ": "))
}

pub async fn body(place: Place) -> Outcomes {
    let [control, a, b] = [(); 3].map(|()| connect(place.direct));
    let (control, a, b) = (Arc::new(control.await), Arc::new(a.await), Arc::new(b.await));
    Say::parse("migrate").to(&control).await;
    #[cfg(madsim)]
    let patience = Patience::Sleep;
    #[cfg(not(madsim))]
    let patience = {
        let mut pids = [0; 2];
        for (pid, client) in pids.iter_mut().zip([&a, &b]) {
            *pid = client.query_typed("SELECT pg_backend_pid()", &[]).await.expect("an answer")[0].get(0);
        }
        Patience::Ask(pids)
    };
    let mut stage = Stage { control, sides: [Side::new(a), Side::new(b)], patience, number: 0 };
    let (scenes, pairs) = read();
    let mut outcomes = Outcomes::new();
    for (number, pair) in pairs.iter().enumerate() {
        for (name, ends) in ENDINGS {
            for order in orders(pair.sides[0].len() + 2, pair.sides[1].len() + 2) {
                let outcome = stage.play(&scenes[&pair.scene], pair, *ends, &order).await;
                outcomes.insert((number, *name, order), outcome);
            }
        }
    }
    outcomes
}

#[cfg(not(madsim))]
/// A line for each pair, its endings and what came of it, with the orders in which it did.
fn told(outcomes: &Outcomes) -> String {
    let (_, pairs) = read();
    let mut lines: BTreeMap<(usize, &str, &String), Vec<&str>> = BTreeMap::new();
    for ((pair, ends, order), outcome) in outcomes {
        lines.entry((*pair, ends, outcome)).or_default().push(order);
    }
    let line = |((pair, ends, outcome), orders): ((usize, &str, &String), Vec<&str>)| {
        format!("{} | {ends} | {outcome} | {}", pairs[pair].name, orders.join(" "))
    };
    lines.into_iter().map(line).collect::<Vec<_>>().join("\n")
}

/// What is kept, as [`told`] wrote it: by the name of the pair, endings and order.
#[cfg(madsim)]
fn kept() -> BTreeMap<(String, String, String), String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshots/conformance_interleavings.snap");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
        panic!(
            "{path}: {error}; INSTA_UPDATE=always \
        cargo sim conformance writes what PostgreSQL does"
        )
    });
    let mut kept = BTreeMap::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(" | ").collect();
        let [pair, ends, outcome, orders] = fields[..] else { continue };
        for order in orders.split(' ') {
            kept.insert((pair.to_owned(), ends.to_owned(), order.to_owned()), outcome.to_owned());
        }
    }
    kept
}

#[cfg(madsim)]
#[test]
fn the_stand_in_comes_to_what_postgres_came_to() {
    let (outcomes, _) = crate::arms::stand_in(crate::arms::Service::Postgres, body);
    let (_, pairs) = read();
    let mut real = kept();
    let mut differing: BTreeMap<usize, BTreeMap<String, Vec<String>>> = BTreeMap::new();
    for ((number, ends, order), fake) in outcomes {
        let found = real.remove(&(pairs[number].name.clone(), ends.to_owned(), order.clone()));
        let found = found.unwrap_or_else(|| "not asked yet".to_owned());
        if found != fake {
            let how = format!("  {ends}:\n    PostgreSQL {found}\n    stand-in   {fake}\n");
            differing.entry(number).or_default().entry(how).or_default().push(order);
        }
    }
    assert!(real.is_empty(), "these are asked no more: {:?}", real.keys().collect::<Vec<_>>());
    let (mut table, mut wrong) = (String::new(), String::new());
    for (number, pair) in pairs.iter().enumerate() {
        let how = differing.remove(&number).unwrap_or_default();
        let lines = how.iter().map(|(how, orders)| format!("{how}    {}\n", orders.join(" "))).collect::<String>();
        match &pair.differs {
            None if !how.is_empty() => wrong.push_str(&format!("{}, without a reason:\n{lines}", pair.name)),
            Some(_) if how.is_empty() => wrong.push_str(&format!("{}: nothing differs any more\n", pair.name)),
            Some(reason) => table.push_str(&format!("{}: {reason}.\n{lines}", pair.name)),
            None => {}
        }
    }
    assert!(wrong.is_empty(), "the stand-in comes to something else than PostgreSQL:\n{wrong}");
    crate::kept("differences", &table);
}

#[cfg(not(madsim))]
#[test]
#[ignore = "needs postgres; `cargo sim conformance` runs it"]
fn postgres_still_comes_to_it() {
    let server = lychgate_sim::real::servers::postgres::start();
    let (outcomes, _) = crate::arms::real(crate::arms::Service::Postgres, server.addr, crate::arms::untouched(), body);
    crate::kept("interleavings", &told(&outcomes));
}
