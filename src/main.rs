//! The binary: one process of one role, on the production runtime. It turns what the operating system gives (arguments,
//! environment, entropy, signals) into what a role takes, and a role's end into an exit code.
//!
//! The only file that knows that there is another runtime: a build for the simulation says so and stops, so that nobody
//! ships one.

use std::process::ExitCode;

#[cfg(madsim)]
fn main() -> ExitCode {
    eprintln!(
        "built for the simulated runtime, on which no server can be reached: build it without `--cfg madsim`, as `cargo build` does"
    );
    ExitCode::from(2)
}

#[cfg(not(madsim))]
fn main() -> ExitCode {
    process::main()
}

#[cfg(not(madsim))]
mod process {
    use std::fmt::Write as _;
    use std::process::ExitCode;

    use lychgate::config::{self, Environment, SETTINGS};
    use lychgate::ids::Mint;
    use lychgate::signal::{Exit, Signal};
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::prelude::*;

    /// Wrong usage, or a wrong setting.
    const USAGE: u8 = 2;

    /// A role with its settings.
    enum Role {
        Gateway(config::Gateway),
        Executor(Box<config::Executor>),
        Agent(config::Agent),
    }

    pub fn main() -> ExitCode {
        let arguments: Vec<_> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words[..] {
            ["--help" | "-h" | "help"] => {
                print!("{}", help());
                ExitCode::SUCCESS
            }
            ["--version" | "-V"] => {
                println!("lychgate {}", env!("CARGO_PKG_VERSION"));
                ExitCode::SUCCESS
            }
            _ => match prepare(&words) {
                Ok(role) => run(role),
                Err(problem) => {
                    eprintln!("lychgate: {problem}");
                    ExitCode::from(USAGE)
                }
            },
        }
    }

    fn help() -> String {
        let mut help = "\
Usage: lychgate ROLE

Roles:
  gateway    accepts what users say, shows what became of it, streams answers (HTTP)
  executor   takes runs that wait and works on each to its end, and keeps the agents up
  agent      answers turns on one subscription; lives in a container that an executor makes (HTTP)

Settings are read from the environment:
"
        .to_string();
        let width = SETTINGS.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        for (name, what, default) in SETTINGS {
            let default = if *default == "required" { "required".into() } else { format!("default: {default}") };
            writeln!(help, "  {name:width$}  {what} [{default}]").expect("a String takes everything");
        }
        help.push_str(
            "
Logs are lines of JSON on stdout; RUST_LOG chooses them (default: info).
SIGTERM and SIGINT begin a drain: nothing new is taken, what is under way is finished or handed back.
Exit codes: 0 everything was finished or handed back, 1 it could not start or not finish, 2 wrong usage or setting.
",
        );
        help
    }

    /// Everything that can be wrong before anything has begun.
    fn prepare(words: &[&str]) -> Result<Role, String> {
        let environment = environment()?;
        let role = match words {
            ["gateway"] => Role::Gateway(config::Gateway::from(&environment).map_err(|error| error.to_string())?),
            ["executor"] => {
                Role::Executor(Box::new(config::Executor::from(&environment).map_err(|error| error.to_string())?))
            }
            ["agent"] => Role::Agent(config::Agent::from(&environment).map_err(|error| error.to_string())?),
            [] => {
                return Err("which role? `lychgate gateway`, `executor` or `agent`; `lychgate --help` says more".into());
            }
            [other] => {
                return Err(format!("`{other}` is no role: gateway, executor or agent; `lychgate --help` says more"));
            }
            [_, other, ..] => {
                return Err(format!(
                    "`{other}` is too much: a role takes no arguments, its settings are in the environment"
                ));
            }
        };
        log()?;
        Ok(role)
    }

    /// The variables of the environment that are ours.
    fn environment() -> Result<Environment, String> {
        let ours = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let ours = ours.filter(|(name, _)| name.starts_with("LYCHGATE_") || name == "AGENT_HISTORY_LIMIT");
        ours.map(|(name, value)| match value.into_string() {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(format!("{name}: is not UTF-8")),
        })
        .collect()
    }

    fn log() -> Result<(), String> {
        let filter = match std::env::var("RUST_LOG") {
            Ok(text) if !text.is_empty() => text,
            _ => "info".to_string(),
        };
        let filter = filter.parse::<Targets>().map_err(|why| format!("RUST_LOG: `{filter}` is no filter ({why})"))?;
        let lines = tracing_subscriber::fmt::layer().json().flatten_event(true);
        tracing_subscriber::registry().with(lines.with_filter(filter)).init();
        Ok(())
    }

    fn run(role: Role) -> ExitCode {
        match start(role) {
            Ok(exit) => ExitCode::from(u8::try_from(exit.code()).expect("exit codes are small")),
            Err(error) => {
                tracing::error!(%error, "the operating system refuses what a process needs");
                ExitCode::FAILURE
            }
        }
    }

    fn start(role: Role) -> std::io::Result<Exit> {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|error| std::io::Error::other(error.to_string()))?;
        let mint = Mint::seeded(entropy);
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let exit = runtime.block_on(async {
            let signals = signals()?;
            Ok::<_, std::io::Error>(match role {
                Role::Gateway(config) => lychgate::gateway::serve(config, mint, signals).await,
                Role::Executor(config) => lychgate::executor::serve(*config, mint, signals).await,
                Role::Agent(config) => lychgate::agent::serve(config, threads, signals).await,
            })
        });
        // A name that is still being looked up must not hold up the exit.
        runtime.shutdown_background();
        exit
    }

    /// The number of threads of this process; 0 where the system does not say.
    fn threads() -> usize {
        std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
    }

    /// Passes on every SIGTERM and SIGINT.
    fn signals() -> std::io::Result<mpsc::UnboundedReceiver<Signal>> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let (forward, signals) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                // A role that has ended hears no signals.
                let _ = forward.send(Signal::Terminate);
            }
        });
        Ok(signals)
    }
}
