//! `check-determinism` and the checks of a sweep, on a toy that can be told to look past its seed, or to do nothing. The test
//! is the command line of that toy as well: the processes that are compared are started from it.

#[cfg(madsim)]
mod test_product;

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("check-determinism" | "run" | "one" | "stream") => {
            return lychgate_sim::cli::main::<test_product::Toys>(&lychgate_sim::cli::Built {
                manifest_dir: env!("CARGO_MANIFEST_DIR"),
                package: env!("CARGO_PKG_NAME"),
                binary: "determinism",
                known_bugs: None,
            });
        }
        Some("--list") => println!("determinism: test"),
        _ => {
            checks::equal();
            checks::causes();
            checks::misuse();
            checks::sweeps();
            checks::void();
            println!("determinism: ok");
        }
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(madsim)]
mod checks {
    use std::path::PathBuf;
    use std::process::Command;

    /// The toy's command line; its exit code and what it said.
    fn said(args: &[&str]) -> (Option<i32>, String) {
        let program = std::env::current_exe().expect("this program has a path");
        let output = Command::new(program).args(args).output().expect("it runs");
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), text.concat())
    }

    /// The file of a plan in which the toy has this quirk.
    fn plan(quirk: &str) -> String {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("determinism-{quirk}.toml"));
        let text = format!("about = \"a toy\"\n[users]\nsteps = 3\nquirks = [\"{quirk}\"]\n");
        std::fs::write(&path, text).expect("the directory is there");
        path.display().to_string()
    }

    /// What follows from the seed is the same in both, even where a map's keys or a select decide.
    pub fn equal() {
        let json = plan("equal") + ".json";
        let (code, text) = said(&["check-determinism", &format!("{}@7", plan("chance")), "--json", &json]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("equal") && text.contains("both passed"), "{text}");
        let json = std::fs::read_to_string(json).expect("it was written");
        let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(json["equal"], true, "{json}");
        assert_eq!(json["digest"].as_str().map(str::len), Some(64), "{json}");
        // Whoever watches changes nothing: a run that nobody compares has the same digest.
        let (_, report) = said(&["one", &plan("chance"), "--seed", "7"]);
        let report: serde_json::Value = serde_json::from_str(&report).expect("it is JSON");
        assert_eq!(report["digest"], json["digest"]);
        // A run that goes wrong, but always in the same way, follows from its seed.
        for (quirk, word) in [("evil", "both violated"), ("unlucky", "both panicked")] {
            let (code, text) = said(&["check-determinism", &format!("{}@7", plan(quirk))]);
            assert_eq!(code, Some(0), "{text}");
            assert!(text.contains(word), "{text}");
        }
    }

    /// Each way to look past the seed is caught and named.
    pub fn causes() {
        let causes = [
            ("entropy", "entropy", "getrandom 0.2"),
            ("time", "clock", "wall clock"),
            ("order", "order", "hash map"),
            ("delay", "clock", "wall clock"),
            ("pid", "surroundings", "process id"),
            ("pointer", "address", "pointer"),
        ];
        for (quirk, cause, hint) in causes {
            let json = plan("cause") + ".json";
            let (code, text) = said(&["check-determinism", &format!("{}@7", plan(quirk)), "--json", &json]);
            assert_eq!(code, Some(5), "{quirk}: {text}");
            let told = ["nondeterministic", "the same in both until then", "the second process goes on", hint];
            assert!(told.iter().all(|word| text.contains(word)), "{quirk}: {text}");
            let json = std::fs::read_to_string(json).expect("it was written");
            let json: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
            assert_eq!(json["cause"], cause, "{quirk}: {json}");
        }
    }

    pub fn misuse() {
        let (code, text) = said(&["check-determinism", "nothing@1"]);
        assert!(code == Some(2) && text.contains("unknown scenario"), "{code:?} {text}");
        let (code, text) = said(&["check-determinism", "nothing@x"]);
        assert!(code == Some(2) && text.contains("NAME@SEED"), "{code:?} {text}");
    }

    /// A sweep checks one run in a hundred by itself, and says what to type where one differs.
    pub fn sweeps() {
        let (file, wild) = (plan("chance"), plan("entropy"));
        for jobs in ["1", "2"] {
            let (code, text) = said(&["run", &file, "--seeds", "1..102", "--jobs", jobs, "--past-vacuous"]);
            assert!(code == Some(0) && text.contains("2 checked for determinism"), "{code:?} {text}");
            let (code, text) = said(&["run", &wild, "--seeds", "4..6", "--jobs", jobs, "--past-vacuous"]);
            let line = format!("check-determinism {wild}@4");
            assert!(code == Some(5) && text.contains(&line), "{code:?} {text}");
        }
    }

    /// Every seed passes where nothing is done: there is nothing to be late with. The sweep says that it shows nothing.
    pub fn void() {
        let json = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("void.json").display().to_string();
        let swept = |scenario: &str, seeds: &str| {
            let (code, text) = said(&["run", scenario, "--seeds", seeds, "--json", &json]);
            let json: serde_json::Value =
                serde_json::from_str(&std::fs::read_to_string(&json).expect("it was written")).expect("it is JSON");
            (code, text, json)
        };
        let (code, text, json) = swept("busy", "1..21");
        assert!(code == Some(0) && text.contains("as promptness sees it: 20 of 20 done"), "{code:?} {text}");
        assert_eq!((&json["floors"]["promptness"]["kept"], &json["void"]), (&20.into(), &serde_json::json!([])));
        let (code, text, json) = swept("lazy", "1..21");
        let told =
            ["void: every seed has passed", "of 20 pieces of work", "0 were done", "replay lazy@1", "20 of 20 seeds"];
        assert!(code == Some(6) && told.iter().all(|word| text.contains(word)), "{code:?} {text}");
        assert_eq!(
            (&json["floors"]["promptness"]["promised"], json["void"].as_array().map(Vec::len)),
            (&20.into(), Some(1))
        );
        let (code, text, _) = swept("unasked", "1..100");
        assert_eq!(code, Some(0), "of a few seeds none may have work that is left alone: {text}");
        let (code, text, _) = swept("unasked", "1..101");
        assert!(code == Some(6) && text.contains("in 100 runs there was no work"), "{code:?} {text}");
    }
}
