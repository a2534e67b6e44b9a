//! `list`: the words that plans and command lines may use.

use clap::ValueEnum;

use super::{Outcome, Usage, choose};
use crate::cli::table::{Table, cut};
use crate::plan::{Course, FaultRow, Reach, TargetKind, Vocabulary};
use crate::trace::event::{EventWord, ProductEvent, WorldEvent};
use crate::world::product::Product;
use crate::world::words;

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

/// Prints the list.
pub(super) fn list<P: Product>(what: What) -> Outcome {
    match what {
        What::Scenarios => return scenarios::<P>(),
        What::Faults => {
            let mut table = Table::new(&["kind", "target", "what it does"]);
            let vocabulary = words::vocabulary::<P>();
            for row in vocabulary.kinds() {
                table.row([row.word().to_owned(), row.target.name().to_owned(), help(row, &vocabulary)]);
            }
            table.print();
            let named = |wanted: fn(&FaultRow) -> bool| {
                let rows = vocabulary.kinds().into_iter().filter(|row| wanted(row));
                rows.map(|row| format!("`{}`", row.word())).collect::<Vec<_>>().join(", ")
            };
            let until_heal = named(|row| row.course == Course::UntilHeal);
            let directed = named(|row| row.reach == Reach::Directions);
            let selective = named(|row| row.reach != Reach::Whole);
            println!(
                "\nA fault begins `at = \"12s\"`, `on = {{ event = \"…\", session = \"…\", nth = 1, after = \"5s\" }}` or\n\
                 `on = {{ link = \"…\", matches = \"…\" }}`. It ends when it `lasts = \"30s\"`, `until = {{ event = \"…\" }}` or\n\
                 `until = \"heal\"`; without any of these, when everything heals: {until_heal}.\n\
                 With `every = \"1m\"` it strikes again so long after its end.\n\
                 `direction = \"up\"` (towards the service) or `\"down\"`: {directed}.\n\
                 `only = \"BYTES\"`, only connections that send a request with this in it, from that request on: {selective}.\n\
                 Any value in the file of a plan may offer alternatives, `lasts = \"<1m|61m>\"`: seed 1 takes the first."
            );
        }
        What::Events => events::<P::Event>().print(),
        What::Invariants => {
            let mut table = Table::new(&["invariant", "promises"]);
            words::invariants::<P>().into_iter().for_each(|(name, says)| table.row([name.to_owned(), says.to_owned()]));
            table.print();
        }
        What::Settings => {
            let mut table = Table::new(&["setting", "default", "what it sets"]);
            P::settings().iter().for_each(|one| table.row([one.name, one.default, one.says].map(str::to_owned)));
            table.print();
        }
    }
    Ok(0)
}

/// What a kind of fault does; one of services in each of them.
fn help(row: &FaultRow, vocabulary: &Vocabulary) -> String {
    let rows = vocabulary.rows().into_iter().filter(|(service, other)| service.is_some() && *other == row);
    let mut by_help: Vec<(Vec<&str>, &str)> = Vec::new();
    for (service, row) in rows.filter(|(_, row)| row.target == TargetKind::Service) {
        match by_help.last_mut().filter(|(_, help)| *help == row.help) {
            Some((services, _)) => services.extend(service),
            None => by_help.push((service.into_iter().collect(), row.help)),
        }
    }
    let told: Vec<_> = by_help.iter().map(|(services, help)| format!("{}: {help}", services.join(", "))).collect();
    if told.is_empty() { row.help.to_owned() } else { told.join("; ") }
}

/// The world's and the product's; of a product that says no more than names, these.
fn events<E: ProductEvent>() -> Table {
    let described = |words: &[EventWord], name: &str| words.iter().find(|word| word.name == name).copied();
    let mut table = Table::new(&["event", "whose", "fields", "says"]);
    for (whose, names, words) in
        [("the world's", WorldEvent::NAMES, WorldEvent::WORDS), ("the product's", E::NAMES, E::WORDS)]
    {
        for name in names {
            let (fields, says) =
                described(words, name).map_or_else(Default::default, |word| (word.fields.join(", "), word.about));
            table.row([(*name).to_owned(), whose.to_owned(), fields, says.trim().to_owned()]);
        }
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
