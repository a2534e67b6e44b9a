//! The example, tried: the service as it is passes, with its bug it is caught. The test is the example's command line as
//! well, so that it never runs an example that was built before.

#[path = "../examples/tally/main.rs"]
mod tally;

#[cfg(not(madsim))]
fn main() {
    tally::main();
}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("run" | "one" | "replay" | "crash-points" | "check-determinism" | "stream") => return tally::main(),
        Some("--list") => println!("tally: test"),
        _ => {
            trials::passes();
            trials::is_caught();
            trials::is_deterministic();
            trials::is_caught_by_a_kill_after_each_event();
            println!("tally: ok");
        }
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(madsim)]
mod trials {
    use std::path::Path;
    use std::process::Command;

    /// The example's command line; its exit code and what it said.
    fn said(args: &[&str]) -> (Option<i32>, String) {
        let program = std::env::current_exe().expect("this program has a path");
        let output = Command::new(program).args(args).output().expect("it runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text.concat())
    }

    /// Whatever goes wrong, each order counts once.
    pub fn passes() {
        for scenario in ["calm", "killed_between", "reply_lost", "store_slow"] {
            let (code, text) = said(&["run", scenario, "--seeds", "1..11"]);
            assert!(code == Some(0) && text.contains("10 of 10 seeds passed"), "{scenario}: {text}");
        }
        let (code, text) = said(&["run", "swarm", "--seeds", "1..101", "--strict"]);
        assert!(code == Some(0) && text.contains("100 of 100 seeds passed"), "{text}");
    }

    /// Counting without a note is found out by either story, and the files that keep it say so.
    pub fn is_caught() {
        let stories = [
            ("killed_between", include_str!("../examples/tally/scenarios/killed_between.toml")),
            ("reply_lost", include_str!("../examples/tally/scenarios/reply_lost.toml")),
        ];
        for (name, story) in stories {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tally-{name}.toml"));
            let text = format!("{story}\n[config.worker]\nTALLY_BUG = \"count-then-ack\"\n");
            std::fs::write(&path, text).expect("the directory is there");
            let (code, text) = said(&["run", &path.display().to_string(), "--seed", "1"]);
            assert!(code == Some(1) && text.contains("violated counted_once"), "{name}: {text}");
            let (code, text) = said(&["run", &format!("bug_{name}")]);
            assert_eq!(code, Some(0), "{name}: {text}");
        }
        // What the object store shows is judged as well.
        let (code, text) = said(&["run", "bug_receipt_after_ack"]);
        assert_eq!(code, Some(0), "{text}");
    }

    /// Nobody has to know where the bug hurts: of the kills after each event of a calm day some break it, and each is kept as
    /// a plan that breaks it again. Without the bug none does.
    pub fn is_caught_by_a_kill_after_each_event() {
        let (code, text) = said(&["crash-points", "calm"]);
        assert!(code == Some(0) && text.contains("points pass"), "{text}");
        let story = include_str!("../examples/tally/scenarios/calm.toml");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tally-crash-points");
        std::fs::create_dir_all(&dir).expect("the directory above is there");
        let path = dir.join("calm_with_bug.toml");
        std::fs::write(&path, format!("{story}\n[config.worker]\nTALLY_BUG = \"count-then-ack\"\n"))
            .expect("so is this");
        let out = dir.join("found");
        let (path, out) = (path.display().to_string(), out.display().to_string());
        let (code, text) = said(&["crash-points", &path, "--out", &out]);
        assert!(code == Some(1) && text.contains("points break something"), "{text}");
        let broken: Vec<&str> = text.lines().filter(|line| line.contains("  counted_once  ")).collect();
        assert!(broken.iter().any(|line| line.starts_with("counted")), "{text}");
        for line in broken {
            let repro = line.rsplit(' ').next().expect("a line has a last word");
            let (code, text) = said(&["replay", repro]);
            assert!(code == Some(0) && text.contains("violated counted_once"), "{repro}: {text}");
        }
    }

    pub fn is_deterministic() {
        for seed in ["swarm@1", "swarm@2", "killed_between@3", "store_slow@1"] {
            let (code, text) = said(&["check-determinism", seed]);
            assert_eq!(code, Some(0), "{text}");
        }
    }
}
