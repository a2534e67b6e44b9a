//! What is printed of a failure: at most [`LINES_MAX`] lines, the last of which replays it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::explore::spinner::seconds;
use crate::explore::sweep::Ground;
use crate::plan::duration;
use crate::trace::invariant::Floor;
use crate::trace::verdict::{Excuse, FaultReport, Report, Verdict};

/// A failure fits on one screen, or nobody reads it.
pub const LINES_MAX: usize = 40;

/// So many lines of the end of the story.
const STORY_LINES: usize = 12;

/// So many excuses.
const EXCUSES: usize = 5;

/// A longer line is cut: no line may wrap over a screen.
const LINE_CHARS: usize = 220;

/// What stands around a report.
#[derive(Clone, Debug, Default)]
pub struct Around<'a> {
    /// What the broken invariant promises.
    pub promise: Option<&'a str>,
    /// The line to paste that replays it, or shows where two runs of it part.
    pub replay: String,
    /// The smaller plan, if one was found: the line to paste that replays it, and its text.
    pub smaller: Option<(String, String)>,
}

/// The lines that tell of `report`, the replay line last.
pub fn failure(report: &Report, around: &Around<'_>) -> Vec<String> {
    let mut lines = vec![headline(report)];
    if let Some(promise) = around.promise {
        lines.push(format!("  promised: {promise}"));
    }
    if let Some(breach) = &report.breach {
        lines.extend(block("  broken:   ", &breach.says, 3));
        if let (Some(since), Some(due)) = (breach.since, breach.due) {
            let due = if due == Duration::MAX { "no deadline".to_owned() } else { at(due) };
            lines.push(format!("  due since {}, by {due} of virtual time", at(since)));
        }
    }
    lines.extend(report.because.iter().take(4).flat_map(|because| block("  because:  ", because, 4)));
    lines.truncate(LINES_MAX / 2 - 4);
    lines.extend(faults(report));
    lines.extend(excuses(report));
    let story = &report.story[report.story.len().saturating_sub(STORY_LINES)..];
    if !story.is_empty() {
        lines.push(format!("the end of the story ({} of {} lines):", story.len(), report.story.len()));
        lines.extend(story.iter().map(|line| format!("  {line}")));
    }
    let mut tail = Vec::new();
    if let Some((replay, text)) = &around.smaller {
        tail.extend(smaller(replay, text, LINES_MAX.saturating_sub(lines.len() + 1)));
    }
    let does = if report.verdict == Verdict::Nondeterministic { "see where" } else { "replay it" };
    tail.push(format!("{does}: {}", around.replay));
    lines.truncate(LINES_MAX - tail.len());
    lines.extend(tail);
    lines.iter().map(|line| cut(line)).collect()
}

/// As `violated no_zombies: swarm, seed 17`.
pub fn headline(report: &Report) -> String {
    let what = match &report.invariant {
        Some(invariant) => format!("{} {invariant}", word(report.verdict)),
        None => word(report.verdict).to_owned(),
    };
    format!("{what}: {}, seed {}", report.scenario, report.seed)
}

/// A verdict as people read it.
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Violated => "violated",
        Verdict::NoProgress => "no progress",
        Verdict::Panicked => "panicked",
        Verdict::Nondeterministic => "nondeterministic",
        Verdict::Vacuous => "vacuous",
        Verdict::Error => "error",
    }
}

fn faults(report: &Report) -> Vec<String> {
    let felt: Vec<_> = report.faults.iter().filter(|fault| fault.felt.is_some()).collect();
    let idle = report.faults.len() - felt.len();
    if felt.is_empty() {
        return vec![format!("no fault was felt ({idle} in the plan)")];
    }
    let mut lines = vec![match idle {
        0 => "faults that were felt:".to_owned(),
        idle => format!("faults that were felt ({idle} more were not):"),
    }];
    for fault in felt.iter().take(5) {
        let struck = struck(fault);
        let first = fault.felt.unwrap_or_default();
        let times = match fault.times_felt {
            1 => "once".to_owned(),
            times => format!("{times} times"),
        };
        let targets = fault.targets.join(" and ");
        lines.push(format!("  {} {targets}: {struck}first felt at {first:.1}s, {times} in all", fault.kind));
    }
    if felt.len() > 5 {
        lines.push(format!("  … and {} more", felt.len() - 5));
    }
    lines
}

/// What had no deadline for a while, and which faults stood meanwhile.
pub fn excuses(report: &Report) -> Vec<String> {
    let one = |excuse: &Excuse| {
        let by = if excuse.by.is_empty() { "no fault".to_owned() } else { excuse.by.join(", ") };
        format!("  {}: {} ({}; {by})", excuse.invariant, excuse.says, seconds(excuse.seconds))
    };
    let shown = report.excuses.iter().take(EXCUSES).map(one);
    let head = (!report.excuses.is_empty())
        .then(|| "what had no deadline for the longest, and what was amiss meanwhile:".to_owned());
    head.into_iter().chain(shown).collect()
}

/// When a fault struck: once, or first, last and how often.
fn struck(fault: &FaultReport) -> String {
    match (fault.struck, fault.last_struck) {
        (Some(first), Some(last)) if fault.strikes > 1 => {
            format!("struck first at {first:.1}s and last at {last:.1}s, {} times, ", fault.strikes)
        }
        (Some(first), _) => format!("struck at {first:.1}s, "),
        (None, _) => String::new(),
    }
}

fn smaller(replay: &str, text: &str, room: usize) -> Vec<String> {
    let body: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let mut lines = vec![format!("a smaller plan does the same ({replay}):")];
    let shown = if body.len() < room { body.len() } else { room.saturating_sub(2) };
    lines.extend(body.iter().take(shown).map(|line| format!("  {line}")));
    if shown < body.len() {
        lines.push(format!("  … {} more lines in that file", body.len() - shown));
    }
    lines
}

/// `text` behind `label`, further lines indented as deep, at most `max`.
fn block(label: &str, text: &str, max: usize) -> Vec<String> {
    let indent = " ".repeat(label.chars().count());
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .take(max)
        .enumerate()
        .map(|(nth, line)| format!("{}{line}", if nth == 0 { label } else { &indent }))
        .collect()
}

/// A moment of virtual time, to the millisecond.
fn at(moment: Duration) -> String {
    duration::print(Duration::from_millis(moment.as_millis().try_into().unwrap_or(u64::MAX)))
}

fn cut(line: &str) -> String {
    if line.chars().count() <= LINE_CHARS {
        return line.to_owned();
    }
    let kept: String = line.chars().take(LINE_CHARS - 1).collect();
    format!("{kept}…")
}

/// What machines read of the runs, in the order given; of the work in them that nothing disturbed; and of why that makes the
/// sweep void, if it does.
pub fn json(reports: &[Report], floors: &BTreeMap<String, Ground>, void: &[String]) -> serde_json::Value {
    let run = |report: &Report| {
        serde_json::json!({
            "scenario": report.scenario,
            "seed": report.seed,
            "verdict": report.verdict,
            "invariant": report.invariant,
            "digest": report.digest,
            "events": report.events,
            "virtual_seconds": report.virtual_seconds,
            "wall_seconds": report.wall_seconds,
            "breach": report.breach.as_ref().map(|breach| serde_json::json!({
                "says": breach.says,
                "since_seconds": breach.since.map(|since| since.as_secs_f64()),
                "due_seconds": breach.due.filter(|due| *due != Duration::MAX).map(|due| due.as_secs_f64()),
            })),
            "because": report.because,
            "faults": report.faults,
            "repro": report.repro,
        })
    };
    let floors: BTreeMap<&String, &Floor> = floors.iter().map(|(name, ground)| (name, &ground.floor)).collect();
    serde_json::json!({ "runs": reports.iter().map(run).collect::<Vec<_>>(), "floors": floors, "void": void })
}

/// A line a run, `SCENARIO SEED DIGEST`, sorted: equal for equal runs in whatever order they came.
pub fn digests(reports: &[Report]) -> String {
    let lines: BTreeMap<(&str, u64), &str> =
        reports.iter().map(|report| ((report.scenario.as_str(), report.seed), report.digest.as_str())).collect();
    lines.iter().map(|((scenario, seed), digest)| format!("{scenario} {seed} {digest}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::invariant::Breach;
    use crate::trace::verdict::tests::report;

    #[test]
    fn tells_what_a_reader_asks() {
        let report = report("swarm", 17, Verdict::Violated);
        let around = Around {
            promise: Some("what ended is shown as ended"),
            replay: "cargo sim replay swarm@17".into(),
            smaller: Some((
                "cargo sim replay target/sim/findings/swarm-17.repro.toml".into(),
                "about = \"x\"\n\n[repro]\nseed = 17\n".into(),
            )),
        };
        let expected = "\
violated no_zombies: swarm, seed 17
  promised: what ended is shown as ended
  broken:   ann/1 is shown as running
  due since 12s345ms, by 1m12s of virtual time
faults that were felt (1 more were not):
  wedge executor-1->redis: struck at 2.0s, first felt at 2.5s, 3 times in all
the end of the story (2 of 2 lines):
  ann says hello
  the run is claimed
a smaller plan does the same (cargo sim replay target/sim/findings/swarm-17.repro.toml):
  about = \"x\"
  [repro]
  seed = 17
replay it: cargo sim replay swarm@17";
        assert_eq!(failure(&report, &around).join("\n"), expected);
    }

    fn excuse(seconds: f64) -> Excuse {
        let (says, by) = ("ann/1 leaves the live view".to_owned(), vec!["wedge executor-1->redis".to_owned()]);
        Excuse { invariant: "no_zombies".into(), says, seconds, by }
    }

    #[test]
    fn what_was_excused_is_said() {
        let mut report = report("swarm", 17, Verdict::Passed);
        assert_eq!(excuses(&report), [""; 0]);
        report.excuses = vec![excuse(31.5), Excuse { by: Vec::new(), ..excuse(2.0) }];
        report.excuses.resize(9, excuse(1.0));
        let lines = excuses(&report);
        assert_eq!(lines.len(), 1 + EXCUSES);
        assert_eq!(lines[1], "  no_zombies: ann/1 leaves the live view (31.5 s; wedge executor-1->redis)");
        assert!(lines[2].ends_with("(2.0 s; no fault)"), "{lines:?}");
    }

    #[test]
    fn never_more_than_forty_lines_and_the_replay_line_last() {
        for (story, faults, because, plan) in
            [(0, 0, 0, 0), (500, 50, 50, 500), (12, 5, 2, 14), (500, 0, 0, 30), (3, 50, 0, 9)]
        {
            let mut report = report("swarm", 17, Verdict::Violated);
            report.story = vec!["x".repeat(1000); story];
            report.faults = vec![report.faults[0].clone(); faults];
            report.excuses = vec![excuse(30.0); faults];
            report.because = vec!["a\nb\nc\nd\ne\nf".into(); because];
            report.breach = Some(Breach::now("broken\n".repeat(100)));
            let smaller = (plan > 0).then(|| ("f.repro.toml".to_owned(), "line\n".repeat(plan)));
            let lines =
                failure(&report, &Around { promise: Some("p"), replay: "cargo sim replay swarm@17".into(), smaller });
            assert!(lines.len() <= LINES_MAX, "{} lines", lines.len());
            assert_eq!(lines.last().unwrap(), "replay it: cargo sim replay swarm@17");
            assert!(lines.iter().all(|line| line.chars().count() <= LINE_CHARS && !line.contains('\n')));
        }
    }

    #[test]
    fn json_has_the_shape_that_machines_know() {
        let floors = [("done".to_owned(), Ground { floor: Floor { promised: 3, kept: 2 }, unkept: Some(17) })].into();
        let run = Report { faults: Vec::new(), ..report("swarm", 17, Verdict::NoProgress) };
        let json = json(&[run], &floors, &["nothing was done".to_owned()]);
        assert_eq!(
            json.to_string(),
            r#"{"floors":{"done":{"kept":2,"promised":3}},"runs":[{"because":[],"breach":null,"digest":"d17","events":9,"faults":[],"invariant":null,"repro":null,"scenario":"swarm","seed":17,"verdict":"no_progress","virtual_seconds":61.5,"wall_seconds":0.02}],"void":["nothing was done"]}"#
        );
    }

    #[test]
    fn digests_are_the_same_in_any_order() {
        let (a, b) = (report("a", 10, Verdict::Passed), report("a", 9, Verdict::Passed));
        assert_eq!(digests(&[a.clone(), b.clone()]), digests(&[b, a]));
    }
}
