//! Tells a scenario's story outside of the simulation: the binary's processes, signals, sockets, real servers.

use std::process::ExitCode;

#[cfg(madsim)]
fn main() -> ExitCode {
    eprintln!("built for simulation; use `cargo run -p lychgate-scenarios --bin real -- SCENARIO`");
    ExitCode::from(2)
}

#[cfg(not(madsim))]
fn main() -> ExitCode {
    outside::main()
}

#[cfg(not(madsim))]
mod outside {
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::sync::Arc;

    use lychgate_scenarios::real::known_bugs::{RealKnownBugs, Story};
    use lychgate_scenarios::real::{Proof, ServerRegistry, planned, print, stories, tell};
    use lychgate_sim::real::programs;
    use lychgate_sim::real::servers::INSTALL;
    use tokio::signal::unix::{SignalKind, signal};

    /// As a shell says of what SIGINT ended.
    const INTERRUPTED: i32 = 130;

    const HELP: &str = "\
Usage: cargo run -p lychgate-scenarios --bin real -- SCENARIO[@SEED] [--stand-ins] [--trace FILE]
       cargo run -p lychgate-scenarios --bin real -- --known-bugs [NAME...] [--stand-ins] [--json FILE]

Runs a scenario's plan in the real world: processes of target/debug/lychgate (`cargo build` makes it), SIGTERM,
SIGKILL and SIGSTOP, relays on loopback, and a fresh Redis, RabbitMQ and PostgreSQL, which it starts and ends itself.
The container engine and the model provider stay stand-ins; containers are processes.

  --stand-ins    stand-ins for the three servers too: nothing has to be installed
  --trace FILE   every event, as JSON lines
  --known-bugs   puts the patches of scenarios/known-bugs with these names, or all that are told outside, into a copy of
                 the tree, one at a time, builds the binary of each, and tells with it the story in which it must break
                 the invariant that it breaks in the simulation; the clean binary must pass the same story. Several
                 stories are told at once; one that slowness can explain is told once more
  --json FILE    what came of each, for machines

Verdicts on bugs: caught (the expected invariant fired, and the clean binary passes), wrong_invariant (something else
fired), missed (nothing fired, or the clean binary fails too), stale (the patch no longer applies or builds).

LYCHGATE_BINARY names another binary for a single scenario. Exit codes: 0 passed, or all caught; 1 violated, or not all
caught; 2 usage, or something is missing; 3 no progress; 6 vacuous; 130 interrupted, all servers ended.
";

    /// What is wished for.
    #[derive(Default)]
    struct Wish {
        /// Names of bugs, or one of a scenario.
        names: Vec<String>,
        known_bugs: bool,
        stand_ins: bool,
        trace: Option<PathBuf>,
        json: Option<PathBuf>,
    }

    pub fn main() -> ExitCode {
        match wish().and_then(grant) {
            Ok(code) => ExitCode::from(code),
            Err(says) => {
                eprintln!("{says}");
                ExitCode::from(2)
            }
        }
    }

    fn wish() -> Result<Wish, String> {
        let mut wish = Wish::default();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--help" | "-h" => return Err(help()),
                "--known-bugs" => wish.known_bugs = true,
                "--stand-ins" => wish.stand_ins = true,
                "--trace" => wish.trace = Some(words.next().ok_or("--trace wants a file")?.into()),
                "--json" => wish.json = Some(words.next().ok_or("--json wants a file")?.into()),
                word if word.starts_with('-') => return Err(format!("`{word}` is unknown; --help says more")),
                word => wish.names.push(word.to_owned()),
            }
        }
        match (wish.known_bugs, wish.names.len()) {
            (false, 0) => Err(help()),
            (false, 2..) => Err("one scenario at a time; names of bugs come with --known-bugs".into()),
            (true, _) if wish.trace.is_some() => Err("--trace goes with a single scenario".into()),
            (false, _) if wish.json.is_some() => Err("--json goes with --known-bugs".into()),
            _ => Ok(wish),
        }
    }

    fn help() -> String {
        let names: Vec<String> = stories().into_keys().collect();
        let told: Vec<String> =
            RealKnownBugs::load().told.iter().map(|(bug, story)| format!("{bug} ({story})")).collect();
        format!(
            "{HELP}In compressed time: {}. Any other scenario takes as long as its plan says.\n\
             Known bugs that are told: {}.\n{INSTALL}",
            names.join(", "),
            told.join(", ")
        )
    }

    /// A program that is told to stop ends the servers that it started.
    fn end_with_a_signal(house: Arc<ServerRegistry>) {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let Ok(runtime) = runtime else { return };
            let told = runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                tokio::select! {
                    _ = terminate.recv() => Ok(()),
                    told = tokio::signal::ctrl_c() => told,
                }
            });
            if told.is_ok() {
                house.close(INTERRUPTED);
            }
        });
    }

    fn grant(wish: Wish) -> Result<u8, String> {
        let house = Arc::new(ServerRegistry::default());
        end_with_a_signal(house.clone());
        if wish.known_bugs {
            return prove(&wish, &house);
        }
        let story: Story = wish.names[0].parse()?;
        let (seed, plan) = planned(&story)?;
        let binary = std::env::var_os("LYCHGATE_BINARY").map(PathBuf::from);
        let binary = binary.or_else(|| Some(std::env::current_exe().ok()?.with_file_name("lychgate")));
        let binary = binary.filter(|file| file.is_file()).ok_or("there is no binary: `cargo build` makes it")?;
        eprintln!("{} of seed {seed}, with {}", story.name, binary.display());
        let tell = |elsewhere| tell(&story.name, &plan, &binary, elsewhere, wish.trace);
        let report = if wish.stand_ins {
            tell([].into())
        } else {
            programs::installed()?;
            house.tell(tell)
        };
        print(&report);
        let invariant = report.invariant.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        println!("{:?}{invariant}: {} seed {seed}, in {:.0} s", report.verdict, story.name, report.wall_seconds);
        Ok(u8::try_from(report.verdict.exit_code()).unwrap_or(7))
    }

    fn prove(wish: &Wish, house: &ServerRegistry) -> Result<u8, String> {
        let proof = Proof::of(&wish.names, wish.stand_ins, house)?;
        if let Some(path) = &wish.json {
            proof.write(path)?;
        }
        Ok(u8::from(!proof.holds()))
    }
}
