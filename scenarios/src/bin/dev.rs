//! The binary behind `cargo dev`: the product on the production runtime, with stand-ins on loopback for everything that it
//! needs. It says how to talk to it, and drains on SIGINT or SIGTERM as the product does.

use std::process::ExitCode;

#[cfg(madsim)]
fn main() -> ExitCode {
    eprintln!("built for simulation; use `cargo dev`");
    ExitCode::from(2)
}

#[cfg(not(madsim))]
fn main() -> ExitCode {
    up::main()
}

#[cfg(not(madsim))]
mod up {
    use std::net::SocketAddr;
    use std::process::ExitCode;
    use std::time::Duration;

    use lychgate::config::{self, Environment};
    use lychgate::ids::Mint;
    use lychgate::signal::{Exit, Signal};
    use lychgate_scenarios::dev::{self, Loopback};
    use lychgate_scenarios::{fault_admin, roles};
    use tokio::net::TcpStream;
    use tokio::signal::unix::{SignalKind, signal};
    use tokio::sync::mpsc;
    use tokio::task::JoinHandle;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::prelude::*;

    type Failure = Box<dyn std::error::Error>;

    const HELP: &str = "\
Usage: cargo dev

Serves the product on loopback, with stand-ins for Postgres, Redis, RabbitMQ, the container engine and the model provider:
no server needed, nothing is kept. It prints how to talk to it, and how to make a subscription fail. Ctrl-C (or SIGTERM)
drains it.

Environment: settings of the product (`cargo run -p lychgate -- --help` lists them) override its own, so that
  LYCHGATE_LISTEN=127.0.0.1:8080 cargo dev     serves on a port of your choice
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
                eprintln!("`{other}` is unknown: `cargo dev` takes no arguments; `cargo dev --help` says more");
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
                eprintln!("cargo dev: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Serves until it is told to stop, and gives the worse exit code.
    async fn serve() -> Result<u8, Failure> {
        let filter = std::env::var("RUST_LOG").ok().and_then(|filter| filter.parse().ok());
        let filter: Targets = filter.unwrap_or_else(|| Targets::new().with_default(tracing::Level::WARN));
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        tracing_subscriber::registry().with(lines.with_filter(filter)).init();
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let mut stand_ins = Loopback::start(dev::REPLY).await?;
        stand_ins.start_agents().await?;

        let listen = dev::free_port().await?;
        let gateway = config::Gateway::from(&environment("gateway", &stand_ins, listen))?;
        let executor = config::Executor::from(&environment("executor", &stand_ins, listen))?;
        stand_ins.start_levers(executor.subscriptions.iter().map(|each| each.token.clone()).collect()).await?;
        let greeting = Greeting {
            gateway: gateway.listen,
            token: gateway.token.clone(),
            operator_token: gateway.operator_token.clone(),
            subscription: executor.subscriptions[0].token.clone(),
            engine: executor.engine.host.clone(),
            levers: stand_ins.links[fault_admin::NAME],
        };
        let (tell_gateway, to_gateway) = mpsc::unbounded_channel();
        let (tell_executor, to_executor) = mpsc::unbounded_channel();
        let gateway = together(lychgate::gateway::serve(gateway, mint()?, to_gateway), &tell_executor);
        let executor = together(lychgate::executor::serve(executor, mint()?, to_executor), &tell_gateway);
        tokio::spawn(greeting.say());

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

    /// What a person needs in order to talk to all of it.
    struct Greeting {
        gateway: SocketAddr,
        token: String,
        operator_token: Option<String>,
        /// The token of the first subscription.
        subscription: String,
        engine: String,
        levers: SocketAddr,
    }

    impl Greeting {
        /// Says it, once the gateway listens.
        async fn say(self) {
            while TcpStream::connect(self.gateway).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let Greeting { gateway, levers, engine, subscription, .. } = &self;
            println!("Lychgate is up at http://{gateway} (Ctrl-C drains it). Paste, one after the other:\n");
            self.say_how_to_talk();
            println!(
                "\
# Make the provider refuse the agent's subscription: the next turn moves the agent to another one. Do it while an answer
# comes, or say more afterwards.
curl -sS -X POST 'http://{levers}/subscriptions/{subscription}/fail?status=429'

# What to watch: lychgate-agent-1-1 goes, lychgate-agent-1-2 comes; the label lychgate.subscription says on what it lives.
curl -sS 'http://{engine}/containers/json?all=1'; echo

# Heal it:
curl -sS -X POST 'http://{levers}/subscriptions/{subscription}/heal'
"
            );
            self.say_how_to_operate();
        }

        fn say_how_to_talk(&self) {
            let Greeting { gateway, token, .. } = self;
            let ask = format!("curl -sS -H 'Authorization: Bearer {token}'");
            let say = |text: &str| {
                format!(
                    "{ask} -H 'Content-Type: application/json' -H \"Idempotency-Key: $(date +%s)\" -d '{{\"text\":\"{text}\"}}'"
                )
            };
            let (events, session) = (said("events"), said("session"));
            println!(
                "\
# Begin a session with a message:
SAID=$({begin} http://{gateway}/sessions); SESSION={session}; echo \"$SAID\"

# Watch the answer come:
{ask} -N \"http://{gateway}{events}\"

# Look at the session:
{ask} \"http://{gateway}/sessions/$SESSION\"; echo

# Say more, and watch as before:
SAID=$({more} \"http://{gateway}/sessions/$SESSION/messages\"); echo \"$SAID\"
",
                begin = say("Who goes there?"),
                more = say("And what for?"),
            );
        }

        fn say_how_to_operate(&self) {
            let Some(token) = &self.operator_token else { return };
            let ask = format!("curl -sS -H 'Authorization: Bearer {token}'");
            println!(
                "\
# As an operator, hold the session, whatever it is at (messages are answered 423), and let it go again:
{ask} -H 'Content-Type: application/json' -d '{{\"reason\":\"We look into it.\"}}' \"http://{gateway}/sessions/$SESSION/suspend\"; echo
{ask} -X POST \"http://{gateway}/sessions/$SESSION/unsuspend\"; echo
",
                gateway = self.gateway
            );
        }
    }

    /// Shell for a field of what the gateway said last.
    fn said(field: &str) -> String {
        format!(r#"$(echo "$SAID" | sed 's/.*"{field}":"\([^"]*\)".*/\1/')"#)
    }
}
