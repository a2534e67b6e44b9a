//! What people read, kept under `snapshots/` at the top: the story of each scenario, a drawn plan, the help. A change of
//! one is a change to what people read, and is reviewed as such (`cargo insta review`, or INSTA_UPDATE=always).

use libtest_mimic::{Failed, Trial};
use lychgate_scenarios::Lychgate;
use lychgate_sim::world::product::{Product, Source};

use crate::sim::{report, sim, workspace};

/// A test per snapshot.
pub fn trials() -> Vec<Trial> {
    let mut trials =
        vec![Trial::test("the plan that seed 1 draws", drawn_plan), Trial::test("the help of every command", help)];
    let stories = Lychgate::scenarios().into_iter().filter(|one| matches!(one.source, Source::File { .. }));
    trials.extend(stories.map(|one| Trial::test(format!("the story of {}", one.name), move || story(&one.name))));
    trials
}

fn story(name: &str) -> Result<(), Failed> {
    let report = report(name, 1)?;
    let lines = report["story"].as_array().ok_or("a report without a story")?;
    let lines: Vec<&str> = lines.iter().filter_map(|line| line.as_str()).collect();
    kept(&format!("story_{name}"), &told(&lines))
}

/// A story as people read it: of one that goes on for days its beginning and its end.
fn told(lines: &[&str]) -> String {
    const PART: usize = 40;
    match lines.len().checked_sub(2 * PART).filter(|left_out| *left_out > PART) {
        None => lines.join("\n"),
        Some(left_out) => {
            let (first, last) = (lines[..PART].join("\n"), lines[lines.len() - PART..].join("\n"));
            format!("{first}\n(and so on, for {left_out} lines)\n{last}")
        }
    }
}

fn drawn_plan() -> Result<(), Failed> {
    let said = sim(["plan", "swarm@1"])?;
    said.expect(0, &[])?;
    kept("plan_swarm_1", &said.out)
}

fn help() -> Result<(), Failed> {
    let main = sim(["--help"])?;
    main.expect(0, &["Commands:"])?;
    let listed = main.out.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A line that goes on with the one before is indented further.
    let listed = listed.filter(|line| !line.starts_with("   "));
    let commands: Vec<&str> =
        listed.filter_map(|line| line.split_whitespace().next()).filter(|command| *command != "help").collect();
    kept("help", &main.out)?;
    for command in commands {
        let said = sim([command, "--help"])?;
        said.expect(0, &["Usage: "])?;
        kept(&format!("help_{command}"), &said.out)?;
    }
    Ok(())
}

/// Compares; a difference panics with a diff, which fails the test.
fn kept(name: &str, text: &str) -> Result<(), Failed> {
    insta::with_settings!({
        snapshot_path => workspace().join("snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(name, text);
    });
    Ok(())
}
