//! `list`: the words that plans and command lines may use.

use clap::ValueEnum;

use super::{Outcome, Usage, choose};
use crate::cli::table::{Table, cut};
use crate::plan::words;
use crate::trace::event::{EventWord, ProductEvent, WorldEvent};
use crate::world::product::Product;

/// What can be listed.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(super) enum What {
    /// The stories that can be run.
    #[default]
    Scenarios,
    /// What can go wrong.
    Faults,
    /// What triggers and `must_reach` may name.
    Events,
    /// What must hold in every run.
    Invariants,
    /// What `[config.*]` may override.
    Settings,
}

/// Each kind of fault: the word, where it strikes, what it does.
const FAULTS: &[(&str, &str, &str)] = &[
    ("wedge", "link", "bytes are accepted and not carried, in either direction; connecting succeeds"),
    ("close", "link", "every connection is closed once; with `lasts` or `until`, new ones are closed too until then"),
    (
        "connection_refused",
        "link",
        "new connections are refused as by a port on which nobody listens; those that stand go on",
    ),
    ("reply_lost", "link", "the next request (that `matches`) is carried out, its answer dropped with the connection"),
    ("delay", "link", "every chunk is carried later, `by` this much"),
    (
        "half_open",
        "link",
        "connections that stand say nothing more to either side, and close at its end; new ones work",
    ),
    ("trickle", "link", "so many `bytes` are carried at a time, the next `by` so much later"),
    (
        "cut",
        "link",
        "the next answer (to what `matches`) is carried up to half of its first bytes; then its connection ends",
    ),
    (
        "answer",
        "link",
        "to HTTP: the next request (that `matches`) is answered with `status` by something in between, and not carried",
    ),
    ("sigterm", "process", "SIGTERM; killed after the role's grace, then booted again"),
    ("sigkill", "process", "SIGKILL, then booted again"),
    ("host_loss", "process", "its machine is gone: no further step, nothing closes, peers hear nothing; booted again"),
    ("pause", "process", "SIGSTOP, and SIGCONT at the end: connections stay open, bytes wait"),
    (
        "rolling_restart",
        "process",
        "SIGTERM to the first target; to the next once that one has booted again, and so on",
    ),
    (
        "lost_signal",
        "process",
        "it is to stop and does not hear of it: killed after the role's grace, then booted again",
    ),
    ("panic", "process", "its main panics: no further step, everything closes at once, exit code 101; booted again"),
    ("scale_up", "process", "one that waits for its first boot (`[service.PROCESS]`, `first_boot`) boots now"),
    ("scale_down", "process", "SIGTERM, and it does not come back"),
    (
        "reconfigure",
        "process",
        "the second target, which waits for its first boot, boots; then the first goes for good",
    ),
    ("refuse", "caller", "calls of `SERVICE/NAME` are answered with `status` (and `retry_after`) meanwhile"),
    ("stall", "caller", "answers to `SERVICE/NAME` stop in the middle of an event, and go on at its end"),
    ("truncate", "caller", "answers to `SERVICE/NAME` end before their last event meanwhile"),
    ("malformed", "caller", "answers to `SERVICE/NAME` have an event that is not JSON meanwhile"),
    ("restart", "service", "it is down, then up again: redis empty, others with what is on disk; containers live on"),
    ("readonly", "service", "redis: writes are answered with READONLY"),
    ("loading", "service", "redis: commands are answered with LOADING"),
    ("full", "service", "redis: OOM to writes; rabbitmq: publishers are blocked; postgres: 53100 to writes"),
    ("failover", "service", "redis: what is written meanwhile is lost at the end, and every connection"),
    ("evict", "service", "redis: every key with a TTL is gone"),
    ("flush", "service", "redis: an operator's FLUSHALL: every key is gone; connections and scripts stay"),
    ("purge", "service", "rabbitmq: what is ready in any queue is gone"),
    ("serialization_failure", "service", "postgres: commits of changes are refused with 40001"),
    ("too_many_connections", "service", "postgres: new connections are refused with 53300"),
    ("slow_commit", "service", "postgres: commits of changes take longer, `by` this much"),
    ("table_lock", "service", "postgres: an ALTER TABLE has every table to itself; statements wait"),
    ("clock_ahead", "service", "redis, postgres: its clock goes ahead, `by` this much (60s at most)"),
    ("clock_behind", "service", "redis, postgres: its clock is set back, `by` this much (60s at most)"),
    ("slow_stop", "service", "engine: what is stopped does not hear it, and is killed `by` this much after its grace"),
    ("failed_create", "service", "engine: creations are answered with 500"),
    ("not_ready", "service", "engine: what is started hangs until the fault heals"),
    ("stale_handle", "service", "engine: each kind of change of each container by id is once answered with 404"),
];

/// Prints the list.
pub(super) fn list<P: Product>(what: What) -> Outcome {
    match what {
        What::Scenarios => return scenarios::<P>(),
        What::Faults => {
            let mut table = Table::new(&["kind", "target", "what it does"]);
            FAULTS
                .iter()
                .for_each(|(kind, target, does)| table.row([kind, target, does].map(|cell| (*cell).to_owned())));
            table.print();
            println!(
                "\nA fault begins `at = \"12s\"`, `on = {{ event = \"…\", session = \"…\", nth = 1, after = \"5s\" }}` or\n\
                 `on = {{ link = \"…\", matches = \"…\" }}`. It ends when it `lasts = \"30s\"`, `until = {{ event = \"…\" }}` or\n\
                 `until = \"heal\"`, which is what `wedge`, `connection_refused`, `delay`, `trickle` and what befalls a caller do\n\
                 unless they say otherwise. With `every = \"1m\"` it strikes again so long after its end.\n\
                 `direction = \"up\"` (towards the service) or `\"down\"` is for `wedge`, `delay` and `trickle`; `only = \"BYTES\"`,\n\
                 for these and `close`, strikes only connections on which a request contains that, from that request on.\n\
                 Any value in the file of a plan may offer alternatives, `lasts = \"<1m|61m>\"`: seed 1 takes the first."
            );
        }
        What::Events => events::<P::Event>().print(),
        What::Invariants => {
            let mut table = Table::new(&["invariant", "promises"]);
            words::invariants::<P>().into_iter().for_each(|(name, says)| table.row([name.to_owned(), says.to_owned()]));
            table.print();
        }
        What::Settings => P::settings().iter().for_each(|name| println!("{name}")),
    }
    Ok(0)
}

/// Each name once: a trigger that uses a name which the world and the product share is set off by both.
fn events<E: ProductEvent>() -> Table {
    let described = |words: &[EventWord], name: &str| words.iter().find(|word| word.name == name).copied();
    let of_product = E::NAMES.iter().filter(|name| !WorldEvent::NAMES.contains(name));
    let mut table = Table::new(&["event", "whose", "fields", "says"]);
    for name in WorldEvent::NAMES.iter().chain(of_product) {
        let world = described(WorldEvent::WORDS, name);
        let whose = match (world, E::NAMES.contains(name)) {
            (Some(_), true) => "the world's, the product's",
            (Some(_), false) => "the world's",
            (None, _) => "the product's",
        };
        let words: Vec<EventWord> = [world, described(E::WORDS, name)].into_iter().flatten().collect();
        let says: Vec<&str> = words.iter().map(|word| word.about.trim()).collect();
        let fields: Vec<String> = words.iter().map(|word| word.fields.join(", ")).collect();
        table.row([(*name).to_owned(), whose.to_owned(), fields.join(" / "), says.join(" / ")]);
    }
    table
}

fn scenarios<P: Product>() -> Outcome {
    let mut table = Table::new(&["scenario", "plan", "about"]);
    let mut malformed = Vec::new();
    for chosen in choose::all::<P>() {
        match chosen {
            Ok(chosen) => {
                let plan = if chosen.drawn() { "drawn" } else { "written" };
                table.row([chosen.name.clone(), plan.to_owned(), cut(&chosen.about, 90)]);
            }
            Err(Usage(says)) => malformed.push(says),
        }
    }
    table.print();
    if malformed.is_empty() { Ok(0) } else { Err(Usage(malformed.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Kind;

    #[test]
    fn every_kind_of_fault_is_explained() {
        assert!(FAULTS.iter().map(|(kind, ..)| *kind).eq(Kind::NAMES.iter().copied()));
    }
}
