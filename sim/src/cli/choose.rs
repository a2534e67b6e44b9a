//! Finds what was named on the command line: a scenario, or the file of a plan.

use std::path::Path;
use std::time::Duration;

use super::{Usage, seeds};
use crate::plan::seed::Seed;
use crate::plan::{self, Plan, Workload};
use crate::world::product::{Product, Scenario, Source};
use crate::world::words;

/// A scenario or file, ready to give a plan for each seed.
#[derive(Debug)]
pub(super) struct Chosen<W> {
    /// As in reports.
    pub(super) name: String,
    /// One sentence.
    pub(super) about: String,
    /// What is typed before a command.
    pub(super) command: &'static str,
    /// What the command line must name to run it again.
    pub(super) handle: String,
    pub(super) kind: Plans<W>,
}

/// The virtual time that a handful of seeds of one scenario may take: an hour costs about a quarter of a second.
const HANDFUL_MAX: Duration = Duration::from_secs(8 * 3600);

/// The virtual time that one seed may take in a run of every scenario: what is longer is run when its name is given.
const OVERVIEW_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where the plans come from.
#[derive(Debug)]
pub(super) enum Plans<W> {
    /// From a file: the plan of seed 1 and, if the file offers alternatives, of the seeds that follow. At least one.
    Written(Vec<Plan<W>>),
    /// Drawn from the seed.
    Drawn(fn(Seed) -> Plan<W>),
}

impl<W: Workload> Chosen<W> {
    /// The plan for `seed`.
    pub(super) fn plan(&self, seed: u64) -> Plan<W> {
        match &self.kind {
            Plans::Written(plans) => {
                let nth = seed.saturating_sub(1) % plans.len() as u64;
                plans[nth as usize].clone()
            }
            Plans::Drawn(draw) => draw(Seed(seed)),
        }
    }

    /// Whether each seed has a plan of its own.
    pub(super) fn drawn(&self) -> bool {
        matches!(self.kind, Plans::Drawn(_))
    }

    /// The seed that a repro failed with.
    pub(super) fn own_seed(&self) -> Option<u64> {
        match &self.kind {
            Plans::Written(plans) => plans[0].repro.as_ref().map(|repro| repro.seed),
            Plans::Drawn(_) => None,
        }
    }

    /// The line to paste that replays `seed`.
    pub(super) fn replay(&self, seed: u64) -> String {
        format!("{} replay {}@{seed}", self.command, self.handle)
    }

    /// The line to paste that shows where two runs of `seed` part.
    pub(super) fn check(&self, seed: u64) -> String {
        format!("{} check-determinism {}@{seed}", self.command, self.handle)
    }

    /// Whether a run of every scenario has the time for it.
    pub(super) fn is_short(&self) -> bool {
        match &self.kind {
            Plans::Drawn(_) => true,
            Plans::Written(plans) => plans[0].users.busy() <= OVERVIEW_MAX,
        }
    }

    /// So many seeds show what it is like: drawn plans differ, written ones differ in timing and in their alternatives. Of a
    /// written one that keeps its users busy for long, as many as fit into [`HANDFUL_MAX`].
    pub(super) fn handful(&self) -> seeds::Range {
        let count = match &self.kind {
            Plans::Drawn(_) => 20,
            Plans::Written(plans) => {
                let busy = plans[0].users.busy().as_secs().max(1);
                (plans.len() as u64).max(2).min(HANDFUL_MAX.as_secs() / busy).max(1)
            }
        };
        seeds::Range::counted(1, count)
    }
}

/// What `what` names.
pub(super) fn choose<P: Product>(what: &str) -> Result<Chosen<P::Workload>, Usage> {
    let mut scenarios = P::scenarios();
    if let Some(at) = scenarios.iter().position(|scenario| scenario.name == what) {
        return of_scenario::<P>(scenarios.swap_remove(at));
    }
    if what.ends_with(".toml") || what.contains('/') {
        return of_file::<P>(what);
    }
    let names: Vec<&str> = scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
    let nearest = plan::nearest(what, names.iter().copied());
    let hint = nearest.map(|name| format!(": did you mean `{name}`?")).unwrap_or_default();
    let list = match names.len() {
        0 => "there are none".to_owned(),
        1..=12 => format!("there are `{}`", names.join("`, `")),
        count => format!("`{} list` shows all {count}", P::command()),
    };
    Err(Usage(format!("unknown scenario `{what}`{hint}\n  {list}; the file of a plan ends in .toml")))
}

/// All scenarios; those whose file is malformed give their errors.
pub(super) fn all<P: Product>() -> Vec<Result<Chosen<P::Workload>, Usage>> {
    P::scenarios().into_iter().map(of_scenario::<P>).collect()
}

fn of_scenario<P: Product>(scenario: Scenario<P::Workload>) -> Result<Chosen<P::Workload>, Usage> {
    let handle = scenario.name.clone();
    match scenario.source {
        Source::Drawn { about, draw } => {
            let (about, kind) = (about.to_owned(), Plans::Drawn(draw));
            Ok(Chosen { name: scenario.name, about, command: P::command(), handle, kind })
        }
        Source::File { path, text } => {
            let plans = words::parse_all::<P>(&path, &text)?;
            let (about, kind) = (plans[0].about.clone(), Plans::Written(plans));
            Ok(Chosen { name: scenario.name, about, command: P::command(), handle, kind })
        }
    }
}

fn of_file<P: Product>(path: &str) -> Result<Chosen<P::Workload>, Usage> {
    let text = std::fs::read_to_string(path).map_err(|error| Usage(format!("{path}: {error}")))?;
    let plans = words::parse_all::<P>(path, &text)?;
    let file = Path::new(path).file_name().map_or(path.into(), |name| name.to_string_lossy());
    let name = file.strip_suffix(".toml").unwrap_or(&file);
    let name = name.strip_suffix(".repro").unwrap_or(name).to_owned();
    let (about, kind) = (plans[0].about.clone(), Plans::Written(plans));
    Ok(Chosen { name, about, command: P::command(), handle: path.to_owned(), kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::test_product::TestProduct;

    #[test]
    fn scenarios_are_found_by_name() {
        let quiet = choose::<TestProduct>("quiet").unwrap();
        assert!(!quiet.drawn() && quiet.about == "Nothing goes wrong");
        assert_eq!(quiet.replay(3), "cargo sim replay quiet@3");
        assert!(choose::<TestProduct>("swarm").unwrap().drawn());
    }

    #[test]
    fn each_seed_has_the_plan_of_its_alternatives() {
        let text = "about = \"<one|other>\"\n".to_owned();
        let source = Source::File { path: "x.toml".into(), text };
        let chosen = of_scenario::<TestProduct>(Scenario { name: "x".into(), source }).unwrap();
        let abouts: Vec<_> = [0, 1, 2, 3, 4, u64::MAX].map(|seed| chosen.plan(seed).about).into();
        assert_eq!(abouts, ["one", "one", "other", "one", "other", "one"]);
        assert!(!chosen.drawn());
    }

    #[test]
    fn what_is_unknown_is_told_what_was_meant() {
        let Usage(says) = choose::<TestProduct>("swamr").unwrap_err();
        assert!(says.contains("did you mean `swarm`?"), "{says}");
        let Usage(says) = choose::<TestProduct>("nowhere.toml").unwrap_err();
        assert!(says.starts_with("nowhere.toml: "), "{says}");
    }
}
