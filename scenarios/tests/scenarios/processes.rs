//! What strikes processes and callers, with the real product: who stands still or is gone loses its run to another, and
//! its peers find out as they would in production, by their own clocks.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::Tests;
use crate::sim::{edited, file, sim};

pub const TESTS: Tests = &[
    ("processes: a paused owner loses its run and is fenced", paused_owner),
    ("processes: the run of a lost host is taken over", lost_host),
    ("processes: a transaction that stands still holds nobody up", open_transaction),
    ("processes: a paused gateway keeps its user waiting, a lost one too", silent_gateway),
    ("processes: executors are restarted one after another", rolling_restart),
    ("processes: a subscription is refused, and served again", refused),
];

const STORY: &str = r#"about = "An owner is paused in the middle of a turn for longer than a takeover takes"
arms = ["one_live_executor", "terminal_once", "nothing_lost"]
must_reach = ["checkpointed", "ended", "saw_end"]

[topology]
executor = 2

[config.executor]
LYCHGATE_TAKEOVER_AFTER = "45s"

[[users]]
name = "ann"
[[users.says]]
at = "1s"
turns = 2
takes = "20s"
tokens = 10

[[faults]]
kind = "pause"
target = "executor-1"
on = { event = "called", session = "ann/1", after = "5s" }
lasts = "200s"
"#;

const KIND: &str = r#"kind = "pause""#;
const TARGET: &str = r#"target = "executor-1""#;
const LASTS: &str = "lasts = \"200s\"\n";
const ARMS: &str = r#"["one_live_executor", "terminal_once", "nothing_lost"]"#;
const ON: &str = r#"on = { event = "called", session = "ann/1", after = "5s" }"#;

/// Two executors, so that each claims the run on half of the seeds.
const SEEDS: u64 = 8;

/// What happened: when, at which process, what.
struct Trace(Vec<(f64, String, Value)>);

impl Trace {
    /// Of the first seed on which the fault meets whom it is meant for: which executor claims the run is chance.
    fn of(test: &str, edits: &[(&str, &str)]) -> Result<Trace, Failed> {
        let plan = file("processes", &format!("{test}.toml"), &edited(STORY, edits)?)?;
        let path = file("processes", &format!("{test}.jsonl"), "")?;
        for seed in 1..=SEEDS {
            let said = sim(["replay", &format!("{plan}@{seed}"), "--trace", &path])?;
            match said.code {
                Some(0) => return Trace::read(&path),
                Some(6) => {}
                _ => return Err(said.all().into()),
            }
        }
        Err(format!("on none of {SEEDS} seeds did {test} meet whom it is meant for").into())
    }

    fn read(path: &str) -> Result<Trace, Failed> {
        let event = |line: &str| {
            let line: Value = serde_json::from_str(line).ok()?;
            let at = line["at"]["secs"].as_f64()? + line["at"]["nanos"].as_f64()? / 1e9;
            Some((at, line["process"].as_str()?.to_owned(), line["what"].clone()))
        };
        Ok(Trace(std::fs::read_to_string(path)?.lines().filter_map(event).collect()))
    }

    /// The events of this name at this process; at any, if that is empty.
    fn all(&self, process: &str, event: &str) -> Vec<(f64, &Value)> {
        let wanted =
            |(_, at, what): &&(f64, String, Value)| (process.is_empty() || at == process) && what["event"] == event;
        self.0.iter().filter(wanted).map(|(at, _, what)| (*at, what)).collect()
    }

    /// When the first of them was.
    fn first(&self, process: &str, event: &str) -> Result<f64, Failed> {
        let first = self.all(process, event).first().map(|(at, _)| *at);
        first.ok_or_else(|| format!("there was no {event} at `{process}`").into())
    }

    /// When `link` was closed by that side after `since`.
    fn closed(&self, link: &str, by: &str, since: f64) -> Option<f64> {
        let closed = self.all("", "link_closed");
        let mut closed =
            closed.into_iter().filter(|(at, what)| *at > since && what["link"] == link && what["by"] == by);
        closed.next().map(|(at, _)| at)
    }
}

fn within(what: &str, seconds: f64, least: f64, most: f64) -> Result<(), Failed> {
    if (least..=most).contains(&seconds) {
        return Ok(());
    }
    Err(format!("{what}: {seconds:.3} s, not {least} to {most}").into())
}

fn paused_owner() -> Result<(), Failed> {
    let trace = Trace::of("paused_owner", &[])?;
    let (paused, resumed) = (trace.first("executor-1", "paused")?, trace.first("executor-1", "resumed")?);
    within("it is paused", resumed - paused, 200.0, 200.1)?;
    let other = trace.first("executor-2", "claimed")?;
    within("another takes over", other - paused, 40.0, 80.0)?;
    let still = trace.0.iter().find(|(at, process, what)| {
        // What its peers do is told as its own: its model answers, others hang up, the broker takes back a delivery.
        let of_peers =
            ["answered", "answered_late", "link_closed", "settled"].iter().any(|event| what["event"] == *event);
        *at > paused && *at < resumed && process == "executor-1" && !of_peers
    });
    if let Some((at, _, what)) = still {
        return Err(format!("at {at} it did {what} while it was paused").into());
    }
    // RabbitMQ hangs up after three heartbeats of 30 s without a word, and gives the delivery to another.
    let hung_up = trace.closed("executor-1->rabbitmq", "service", paused).ok_or("RabbitMQ did not hang up")?;
    within("RabbitMQ hangs up", hung_up - paused, 60.0, 92.0)?;
    // When it goes on it asks for its run, and it is no longer its own.
    let beats = trace.all("executor-1", "beat");
    let beat = beats.iter().find(|(at, beat)| *at > resumed && beat["named"][0][0] == "ann/1#1");
    let (_, beat) = beat.ok_or("it did not ask for its run")?;
    if beat["confirmed"] != Value::Array(Vec::new()) {
        return Err(format!("the run was still its own: {beat}").into());
    }
    match trace.all("executor-1", "checkpointed").first() {
        Some((at, _)) => Err(format!("it wrote a checkpoint at {at}").into()),
        None => Ok(()),
    }
}

const DELAY: &str = "\n[service.executor]\nrestart_delay = \"10m\"\n";

fn lost_host() -> Result<(), Failed> {
    let edits = [(KIND, r#"kind = "host_loss""#), (LASTS, DELAY)];
    let trace = Trace::of("lost_host", &edits)?;
    let lost = trace.first("executor-1", "killed")?;
    within("another takes over", trace.first("executor-2", "claimed")? - lost, 40.0, 80.0)?;
    let again = trace.all("executor-1", "booted")[1].0;
    within("the service manager waits", again - lost, 600.0, 600.1)
}

/// The request that opens the transaction's changes is carried out; its answer finds nobody, and Postgres waits 5 s.
fn open_transaction() -> Result<(), Failed> {
    let ben = "[[users]]\nname = \"ben\"\n[[users.says]]\nat = \"23s\"\ntakes = \"2s\"\ntokens = 2\n\n[[faults]]";
    let on = r#"on = { link = "executor-1->postgres", matches = "run.checkpoint" }"#;
    for (kind, length) in [("pause", LASTS), ("host_loss", "")] {
        let kind_is = format!("kind = \"{kind}\"");
        // One executor: the first commit of a turn is of ann's run.
        let one = ("executor = 2", "executor = 1");
        let edits = [(KIND, kind_is.as_str()), ("[[faults]]", ben), (ON, on), (LASTS, length), (ARMS, "[]"), one];
        let trace = Trace::of(&format!("open_transaction_{kind}"), &edits)?;
        let (struck, said) = (trace.first("", "fault_struck")?, trace.all("ben", "said")[0].0);
        within("ben speaks meanwhile", said - struck, 0.0, 4.9)?;
        let accepted = trace.all("", "accepted")[1].0;
        within(&format!("{kind}: ben waits for the end of the transaction"), accepted - struck, 5.0, 5.5)?;
    }
    Ok(())
}

fn silent_gateway() -> Result<(), Failed> {
    let gateway = r#"target = "gateway-1""#;
    // It works on no run, but somebody reads along.
    let seen = |test: &str, edits: &[(&str, &str)]| -> Result<String, Failed> {
        let plan = file("processes", &format!("{test}.toml"), &edited(STORY, edits)?)?;
        let said = sim(["replay", &plan])?;
        said.expect(0, &[])?;
        Ok(said.out)
    };
    let paused = seen("paused_gateway", &[(TARGET, gateway), (ARMS, "[]")])?;
    let lost = seen("lost_gateway", &[(TARGET, gateway), (ARMS, "[]"), (KIND, r#"kind = "host_loss""#), (LASTS, "")])?;
    for (story, words) in [
        (
            paused,
            [
                "gateway-1 is paused",
                "ann/1#1 is completed",
                "gateway-1 goes on",
                "the user sees that ann/1#1 is completed",
            ],
        ),
        (
            lost,
            [
                "the machine of gateway-1 is gone",
                "gateway-1 boots again",
                "ann/1#1 is completed",
                "the user sees that ann/1#1 is completed",
            ],
        ),
    ] {
        let mut rest = story.as_str();
        for word in words {
            rest = match rest.split_once(word) {
                Some((_, rest)) => rest,
                None => return Err(format!("`{word}` was expected, in this order, in:\n{story}").into()),
            };
        }
    }
    Ok(())
}

fn rolling_restart() -> Result<(), Failed> {
    let targets = r#"target = ["executor-2", "executor-1"]"#;
    let edits = [(KIND, r#"kind = "rolling_restart""#), (TARGET, targets), (LASTS, ""), (ARMS, r#"["fair_drain"]"#)];
    let trace = Trace::of("rolling_restart", &edits)?;
    let told = [trace.first("executor-2", "signalled")?, trace.first("executor-1", "signalled")?];
    let again = trace.all("executor-2", "booted")[1].0;
    if told[1] != again {
        return Err(format!("executor-1 was told at {}, executor-2 was there again at {again}", told[1]).into());
    }
    match trace.all("", "killed").first() {
        Some((at, _)) => Err(format!("one was killed at {at}").into()),
        None => Ok(()),
    }
}

/// A run that cannot be answered fails, and the next of its user is served. What a failed subscription comes to is told in
/// stories of its own.
fn refused() -> Result<(), Failed> {
    let refuse = "target = \"provider/sk-a\"\nstatus = 500\nretry_after = \"1s\"";
    let next = "tokens = 10\n[[users.says]]\nsession = 1\nat = \"1m\"\ntakes = \"1s\"\ntokens = 1\n";
    let edits = [
        (KIND, r#"kind = "refuse""#),
        (TARGET, refuse),
        (ON, r#"on = { event = "claimed", session = "ann/1" }"#),
        (LASTS, "lasts = \"40s\"\n"),
        (ARMS, "[]"),
        ("tokens = 10\n", next),
    ];
    let trace = Trace::of("refused", &edits)?;
    let felt = trace.first("", "fault_felt")?;
    within("the first call feels it", felt - trace.first("", "called")?, 0.0, 0.001)?;
    let plan = file("processes", "refused.toml", &edited(STORY, &edits)?)?;
    for seed in 1..=3 {
        let told = sim(["replay", &format!("{plan}@{seed}")])?;
        let fault = "refuse with 500 provider/sk-a";
        told.expect(0, &[fault, "provider/sk-a is let in again", "ann/1#1 is failed", "ann/1#2 is completed"])?;
    }
    Ok(())
}
