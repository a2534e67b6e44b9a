//! Tells a scenario's story outside of the simulation: the binary's processes, signals, sockets, real servers.

use std::process::ExitCode;

#[cfg(not(real))]
fn main() -> ExitCode {
    eprintln!("built for simulation; use `cargo real run -p lychgate-scenarios --bin outside -- SCENARIO`");
    ExitCode::from(2)
}

#[cfg(real)]
fn main() -> ExitCode {
    outside::main()
}

#[cfg(real)]
mod outside {
    use std::path::PathBuf;
    use std::process::ExitCode;
    use std::sync::{Arc, Mutex, PoisonError};

    use lychgate_scenarios::outside::{Servers, plan, stories, tell};
    use lychgate_sim::outside::servers::INSTALL;
    use tokio::signal::unix::{SignalKind, signal};

    /// As a shell says of what SIGINT ended.
    const INTERRUPTED: i32 = 130;

    const HELP: &str = "\
Usage: cargo real run -p lychgate-scenarios --bin outside -- SCENARIO[@SEED] [--stand-ins] [--trace FILE]

Runs a scenario's plan in the real world: processes of target/real/debug/lychgate (`cargo real build` makes it), SIGTERM,
SIGKILL and SIGSTOP, relays on loopback, and a fresh Redis, RabbitMQ and PostgreSQL, which it starts and ends itself.
The container engine and the model provider stay stand-ins; containers are processes.

  --stand-ins    stand-ins for the three servers too: nothing has to be installed
  --trace FILE   every event, as JSON lines

LYCHGATE_BINARY names another binary. Exit codes: 0 passed, 1 violated, 2 usage, 3 no progress, 6 vacuous.
";

    struct Wish {
        name: String,
        seed: Option<usize>,
        stand_ins: bool,
        trace: Option<PathBuf>,
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
        let mut wish = Wish { name: String::new(), seed: None, stand_ins: false, trace: None };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            match word.as_str() {
                "--help" | "-h" => return Err(help()),
                "--stand-ins" => wish.stand_ins = true,
                "--trace" => wish.trace = Some(words.next().ok_or("--trace wants a file")?.into()),
                word if word.starts_with('-') => return Err(format!("`{word}` is unknown; --help says more")),
                word => {
                    let (name, seed) = word.split_once('@').map_or((word, None), |(name, seed)| (name, Some(seed)));
                    wish.name = name.to_owned();
                    let seed = seed.map(|seed| seed.parse().map_err(|_| format!("`{seed}` is no seed")));
                    wish.seed = seed.transpose()?;
                }
            }
        }
        if wish.name.is_empty() { Err(help()) } else { Ok(wish) }
    }

    fn help() -> String {
        let names: Vec<String> = stories().into_keys().collect();
        format!(
            "{HELP}In compressed time: {}. Any other scenario takes as long as its plan says.\n{INSTALL}",
            names.join(", ")
        )
    }

    /// Whoever is told to stop ends the servers that it started.
    fn end_with_a_signal(servers: Arc<Mutex<Option<Servers>>>) {
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
                end(&servers);
                std::process::exit(INTERRUPTED);
            }
        });
    }

    fn end(servers: &Mutex<Option<Servers>>) {
        drop(servers.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn grant(wish: Wish) -> Result<u8, String> {
        let outside = stories().remove(&wish.name).unwrap_or_default();
        let seed = wish.seed.or(outside.seeds.first().copied()).unwrap_or(1);
        let plan = plan(&wish.name, seed, &outside)?;
        let binary = std::env::var_os("LYCHGATE_BINARY").map(PathBuf::from);
        let binary = binary.or_else(|| Some(std::env::current_exe().ok()?.with_file_name("lychgate")));
        let binary = binary.filter(|file| file.is_file()).ok_or("there is no binary: `cargo real build` makes it")?;
        eprintln!("{} of seed {seed}, with {}", wish.name, binary.display());
        let servers = (!wish.stand_ins).then(Servers::start);
        let elsewhere = servers.as_ref().map(Servers::elsewhere).unwrap_or_default();
        let servers = Arc::new(Mutex::new(servers));
        end_with_a_signal(servers.clone());
        let report = tell(&wish.name, &plan, &binary, elsewhere, wish.trace);
        end(&servers);
        report.story.iter().for_each(|line| println!("  {line}"));
        report.because.iter().for_each(|because| println!("because: {because}"));
        if let Some(breach) = &report.breach {
            println!("broken: {}", breach.says);
        }
        let invariant = report.invariant.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        println!("{:?}{invariant}: {} seed {seed}, in {:.0} s", report.verdict, wish.name, report.wall_seconds);
        Ok(u8::try_from(report.verdict.exit_code()).unwrap_or(7))
    }
}
