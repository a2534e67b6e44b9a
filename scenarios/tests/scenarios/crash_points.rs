//! `crash-points`: a story once for each of its events, with a process struck directly after it.

use libtest_mimic::Failed;

use crate::Tests;
use crate::sim::{file, sim};

pub const TESTS: Tests = &[
    ("crash points: each event of a window is one, for each process that lives", each_event),
    ("crash points: a cut, and a signal with a kill after it", other_kinds),
    ("crash points: whoever asks for what is not there is told what is", bad_input),
];

fn each_event() -> Result<(), Failed> {
    let json = file("crash_points", "points.json", "")?;
    let window = ["--window", "claimed:ann/1..called:ann/1", "--jobs", "1"];
    let line = ["crash-points", "calm", "--seed", "3", "--target", "executor-1", "--json", &json];
    sim(line.iter().chain(&window))?.expect(0, &["calm, seed 3: ", "passed: all ", " points pass"])?;
    let said: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&json)?)?;
    let points = said["points"].as_array().ok_or("no points")?;
    let faults: Vec<&str> = points.iter().filter_map(|point| point["faults"].as_str()).collect();
    let ends = (faults.first().copied(), faults.last().copied());
    let expected = ("sigkill executor-1, on claimed of ann/1", "sigkill executor-1, on called of ann/1");
    if ends != (Some(expected.0), Some(expected.1)) || said["verdict"] != "passed" {
        return Err(format!("{expected:?} were expected, not {ends:?}, in {said}").into());
    }
    // No two of them are the same run.
    let mut digests: Vec<&str> = points.iter().filter_map(|point| point["digest"].as_str()).collect();
    let all = digests.len();
    digests.sort_unstable();
    digests.dedup();
    if digests.len() == all { Ok(()) } else { Err(format!("{all} points, {} runs", digests.len()).into()) }
}

fn other_kinds() -> Result<(), Failed> {
    let cut = ["crash-points", "calm", "--kind", "cut", "--lasts", "1m", "--at-most", "5"];
    sim(cut)?.expect(0, &["5 of ", " points are tried, spread evenly", "passed: all 5 points pass"])?;
    let pair = ["crash-points", "calm", "--kind", "pair", "--window", "claimed..ended", "--at-most", "9"];
    sim(pair)?.expect(0, &["3 of ", " signals are tried, each with at most 3 of the ", "passed: all "])
}

fn bad_input() -> Result<(), Failed> {
    let says = |args: &[&str], words: &[&str]| sim(["crash-points"].iter().chain(args))?.expect(2, words);
    says(&["clam"], &["unknown scenario `clam`: did you mean `calm`?"])?;
    says(&["calm", "--target", "executer"], &["calm has no `executer` to strike; did you mean `executor`?"])?;
    says(&["calm", "--window", "claimed"], &["`claimed` is no window", "as in `--window signalled..exited`"])?;
    says(&["calm", "--window", "claimd.."], &["unknown event `claimd`; did you mean `claimed`?", "list events"])?;
    says(&["calm", "--window", "..ended:zoe/1"], &["unknown session `zoe/1`", "the story has ann/1"])?;
    let never = ["`--window`: signalled never comes in calm@1", "try another `--seed`, or one of", "claimed"];
    says(&["calm", "--window", "signalled..exited"], &never)?;
    says(&["calm", "--window", "phase..phase:1", "--target", "agent"], &["phase never comes"])?;
    says(&["calm", "--lasts", "5s"], &["add `--kind cut`"])?;
    says(&["calm", "--kind", "crush"], &["[possible values: kill, cut, pair]"])
}
