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
        Some("run" | "one" | "check-determinism" | "stream") => return tally::main(),
        Some("--list") => println!("tally: test"),
        _ => {
            trials::passes();
            trials::is_caught();
            trials::is_deterministic();
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

    pub fn is_deterministic() {
        for seed in ["swarm@1", "swarm@2", "killed_between@3", "store_slow@1"] {
            let (code, text) = said(&["check-determinism", seed]);
            assert_eq!(code, Some(0), "{text}");
        }
    }
}
