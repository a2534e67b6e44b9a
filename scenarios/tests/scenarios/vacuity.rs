//! Green without reach is red: a story whose fault strikes nothing that matters proves nothing, and says so.

use libtest_mimic::{Failed, Trial};
use lychgate_scenarios::Lychgate;
use lychgate_sim::world::product::{Product, Source};

use crate::Tests;
use crate::sim::{file, sim, wedged_redis};

const FAULT: &str = r#"
[[faults]]
kind = "wedge"
target = "executor-1->redis"
on = { event = "called", session = "ann/1", after = "10s" }
until = { event = "ended", session = "ann/1", after = "30s" }
"#;
const ON: &str = r#"on = { event = "called", session = "ann/1", after = "10s" }"#;
const UNTIL: &str = r#"until = { event = "ended", session = "ann/1", after = "30s" }"#;

const UNFELT: &str = "fault 1 (wedge on executor-1->redis) was not felt by any live work";

pub const TESTS: Tests = &[
    ("vacuous: nothing, before any edit", as_it_is),
    ("vacuous: the fault removed", removed),
    ("vacuous: the fault zero long", zero_long),
    ("vacuous: the fault on a link that nobody uses", unused_link),
    ("vacuous: the fault after the last message", too_late),
    ("vacuous: the fault whose trigger does not come", never),
    ("vacuous: an event that is not reached", unreached),
    ("vacuous: a violation that is expected and does not come", expected_violation),
];

/// Each story without its faults, on its first seed.
pub fn without_faults() -> Vec<Trial> {
    let faulty = |text: &str| text.contains("[[faults]]");
    let stories = Lychgate::scenarios().into_iter().filter_map(|scenario| match scenario.source {
        Source::File { text, .. } if faulty(&text) => Some(scenario.name),
        _ => None,
    });
    let trial = |name: String| Trial::test(format!("vacuous: {name} without its faults"), move || faultless(&name));
    stories.map(trial).collect()
}

fn faultless(name: &str) -> Result<(), Failed> {
    let plan = sim(["plan", &format!("{name}@1")])?;
    plan.expect(0, &["[[faults]]"])?;
    let blocks = plan.out.split("\n\n").filter(|block| !block.trim_start().starts_with("[[faults]]"));
    let file = file("vacuity", &format!("{name}_faultless.toml"), &blocks.collect::<Vec<_>>().join("\n\n"))?;
    sim(["run", &file, "--seed", "1"])?.expect(6, &["vacuous: "])
}

fn vacuous(test: &str, edits: &[(&str, &str)], because: &[&str]) -> Result<(), Failed> {
    let file = file("vacuity", &format!("{test}.toml"), &wedged_redis(edits)?)?;
    let says = format!("vacuous: {test}, seed 1");
    sim(["run", &file, "--seed", "1"])?.expect(6, &[&[says.as_str()], because].concat())
}

/// Else the others would show nothing.
fn as_it_is() -> Result<(), Failed> {
    let file = file("vacuity", "as_it_is.toml", &wedged_redis(&[])?)?;
    sim(["run", &file, "--seed", "1"])?.expect(0, &["1 of 1 seeds passed"])
}

fn removed() -> Result<(), Failed> {
    vacuous("removed", &[(FAULT, "")], &["no_zombies was not put to the test", "no fault was felt (0 in the plan)"])
}

fn zero_long() -> Result<(), Failed> {
    vacuous("zero_long", &[(UNTIL, r#"lasts = "0s""#)], &[UNFELT])
}

fn unused_link() -> Result<(), Failed> {
    let later = "executor = 2\n[service.executor-2]\nfirst_boot = \"5s\"";
    let edits = [("executor = 1", later), ("executor-1->redis", "executor-2->redis")];
    // The only run is the first executor's, who was there alone: the second one's Redis is nobody's.
    let because = ["executor-1 claims ann/1#1", "fault 1 (wedge on executor-2->redis) was not felt by any live work"];
    vacuous("unused_link", &edits, &because)
}

fn too_late() -> Result<(), Failed> {
    let edits = [(ON, r#"on = { event = "saw_end", session = "ann/1", after = "30s" }"#), (UNTIL, r#"lasts = "40s""#)];
    vacuous("too_late", &edits, &[UNFELT, "no_zombies was not put to the test"])
}

fn never() -> Result<(), Failed> {
    let edits = [(ON, r#"on = { event = "called", session = "ann/1", nth = 9 }"#), (UNTIL, r#"lasts = "40s""#)];
    vacuous("never", &edits, &["fault 1 (wedge on executor-1->redis) never struck: its trigger did not come"])
}

fn unreached() -> Result<(), Failed> {
    let edits = [(r#"must_reach = ["#, r#"must_reach = ["handed_back", "#)];
    vacuous("unreached", &edits, &["handed_back must be reached and was not"])
}

fn expected_violation() -> Result<(), Failed> {
    let expect = format!("{FAULT}\n[expect]\nverdict = \"violated\"\ninvariant = \"no_zombies\"\n");
    let because = ["the plan expects a violation of `no_zombies`, and nothing was violated"];
    vacuous("expected_violation", &[(FAULT, &expect)], &because)
}
