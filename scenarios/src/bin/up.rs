//! The binary behind `cargo up`: the product on the production runtime, with stand-ins on loopback for everything that it
//! needs. It says how to talk to it, and drains on SIGINT or SIGTERM as the product does.

use std::process::ExitCode;

#[cfg(not(real))]
fn main() -> ExitCode {
    eprintln!("built for simulation; use `cargo up`");
    ExitCode::from(2)
}

#[cfg(real)]
fn main() -> ExitCode {
    up::main()
}

#[cfg(real)]
mod up {
    use std::net::SocketAddr;
    use std::process::ExitCode;
    use std::time::Duration;

    use lychgate::config::{self, Environment};
    use lychgate::mint::Mint;
    use lychgate::signal::{Exit, Signal};
    use lychgate_scenarios::loopback::{self, Loopback};
    use lychgate_scenarios::roles;
    use tokio::net::TcpStream;
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tracing_subscriber::EnvFilter;

    type Failure = Box<dyn std::error::Error>;

    const HELP: &str = "\
Usage: cargo up

Serves the product on loopback, with stand-ins for Postgres, Redis, RabbitMQ and the model provider: no server needed,
nothing is kept. It prints how to talk to it. Ctrl-C (or SIGTERM) drains it.

Environment: settings of the product (`cargo real run -p lychgate -- --help` lists them) override its own, so that
  LYCHGATE_LISTEN=127.0.0.1:8080 cargo up     serves on a port of your choice
RUST_LOG=info shows what the product logs, on stderr (default: warn).
";

    pub fn main() -> ExitCode {
        match std::env::args().nth(1).as_deref() {
            None => {}
            Some("--help" | "-h") => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            Some(other) => {
                eprintln!("`{other}` is unknown: `cargo up` takes no arguments; `cargo up --help` says more");
                return ExitCode::from(2);
            }
        }
        let served = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(Failure::from)
            .and_then(|runtime| runtime.block_on(serve()));
        match served {
            Ok(code) => ExitCode::from(code),
            Err(error) => {
                eprintln!("cargo up: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Serves until it is told to stop, and gives the worse exit code.
    async fn serve() -> Result<u8, Failure> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter).init();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut stand_ins = Loopback::start(loopback::REPLY).await?;
        stand_ins.start_agents().await?;

        let listen = loopback::free_port().await?;
        let gateway = config::Gateway::from(&environment("gateway", &stand_ins, listen))?;
        let executor = config::Executor::from(&environment("executor", &stand_ins, listen))?;
        let (greeted, token) = (gateway.listen, gateway.token.clone());
        let (tell_gateway, to_gateway) = mpsc::unbounded_channel();
        let (tell_executor, to_executor) = mpsc::unbounded_channel();
        let gateway = together(lychgate::gateway::serve(gateway, mint()?, to_gateway), &tell_executor);
        let executor = together(lychgate::executor::serve(executor, mint()?, to_executor), &tell_gateway);
        tokio::spawn(greet(greeted, token));

        let ends = futures_util::future::try_join(gateway, executor);
        tokio::pin!(ends);
        loop {
            tokio::select! {
                ended = &mut ends => {
                    let (gateway, executor) = ended?;
                    return Ok(gateway.code().max(executor.code()).try_into()?);
                }
                failure = stand_ins.fails() => return Err(failure.into()),
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            println!("draining: what is under way is finished first");
            for tell in [&tell_gateway, &tell_executor] {
                // A role that has ended hears no signals.
                let _ = tell.send(Signal::Terminate);
            }
        }
    }

    /// What a role reads: its own settings here, unless the environment says otherwise.
    fn environment(role: &str, stand_ins: &Loopback, listen: SocketAddr) -> Environment {
        let mut environment = roles::environment(role, &format!("{role}-1"), &stand_ins.links);
        environment.insert("LYCHGATE_LISTEN".into(), listen.to_string());
        let given = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        let given = given.filter(|(name, _)| name.starts_with("LYCHGATE_") && name != "LYCHGATE_PROCESS");
        environment.extend(given.map(|(name, value)| (name, value.to_string_lossy().into_owned())));
        environment
    }

    fn mint() -> Result<Mint, Failure> {
        let mut entropy = [0; 32];
        getrandom::fill(&mut entropy).map_err(|error| error.to_string())?;
        Ok(Mint::seeded(entropy))
    }

    /// A role in a task of its own. When it ends, the other one drains: half a product is of no use to anybody.
    fn together(
        serving: impl Future<Output = Exit> + Send + 'static,
        other: &mpsc::UnboundedSender<Signal>,
    ) -> JoinHandle<Exit> {
        let other = other.clone();
        tokio::spawn(async move {
            let exit = serving.await;
            // The other one may have ended before.
            let _ = other.send(Signal::Terminate);
            exit
        })
    }

    /// Says how to talk to the gateway, once it listens.
    async fn greet(address: SocketAddr, token: String) {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let ask = format!("curl -sS -H 'Authorization: Bearer {token}'");
        let field = |name: &str| format!(r#"$(echo "$SAID" | sed 's/.*"{name}":"\([^"]*\)".*/\1/')"#);
        let (events, session) = (field("events"), field("session"));
        let begin = "-H 'Content-Type: application/json' -H \"Idempotency-Key: $(date +%s)\" -d '{\"text\":\"Who goes there?\"}'";
        println!(
            "\
Lychgate is up at http://{address} (Ctrl-C drains it). Paste, one after the other:

# Begin a session with a message:
SAID=$({ask} {begin} http://{address}/sessions); echo \"$SAID\"

# Watch the answer come:
{ask} -N \"http://{address}{events}\"

# Look at the session:
{ask} \"http://{address}/sessions/{session}\"; echo
"
        );
    }
}
