//! How each role boots: the settings that an operator would put into its environment, made of what the world gives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lychgate::config::{self, Environment};
use lychgate::ids::Mint;
use lychgate::limits;
use lychgate::signal::{Exit, Signal};
use lychgate_sim::world::product::{Boot, Contained, Role};
use tokio::sync::mpsc;

/// The bearer token of every user.
pub const TOKEN: &str = "let-me-in";
/// The bearer token of every operator.
pub const OPERATOR_TOKEN: &str = "let-me-hold";
/// What agents may be assigned, in the order of choice.
pub const SUBSCRIPTIONS: &str = "a=sk-a,b=sk-b,c=sk-c";
/// Where a gateway listens.
pub const GATEWAY_PORT: u16 = 8080;

/// Gateways before executors, as they boot.
pub const ROLES: &[Role] = &[
    Role {
        name: "gateway",
        services: &["postgres", "redis", "rabbitmq"],
        port: Some(GATEWAY_PORT),
        count: 1,
        grace: Duration::from_secs(30),
        restart_delay: Duration::from_secs(5),
        contained: None,
    },
    Role {
        name: "executor",
        services: &["postgres", "redis", "rabbitmq", "engine", "agents"],
        port: None,
        count: 1,
        grace: KILL_WINDOW,
        restart_delay: Duration::from_secs(5),
        contained: None,
    },
    Role {
        name: "agent",
        services: &["provider"],
        port: Some(lychgate::agent::PORT),
        count: 1,
        grace: limits::STOP_GRACE,
        restart_delay: Duration::ZERO,
        contained: Some(Contained {
            engine: "engine",
            // The old container, the new one, and one that somebody has left behind.
            slots: 3,
            label: lychgate::engine::LABEL_AGENT,
            reached_as: "agents",
        }),
    },
];

/// From SIGTERM to SIGKILL: the longest legal run, and what follows it.
const KILL_WINDOW: Duration = Duration::from_secs(6 * 3600 + 10 * 60);

/// The environment of a process whose services are at `links`.
pub fn environment(role: &str, process: &str, links: &BTreeMap<&'static str, SocketAddr>) -> Environment {
    let at = |service: &str| links.get(service).map(ToString::to_string).unwrap_or_default();
    let mut settings = vec![
        ("LYCHGATE_PROCESS", process.to_string()),
        ("LYCHGATE_POSTGRES", format!("postgres://lychgate:open-sesame@{}/lychgate", at("postgres"))),
        ("LYCHGATE_REDIS", format!("redis://{}", at("redis"))),
        ("LYCHGATE_RABBITMQ", format!("amqp://guest:guest@{}", at("rabbitmq"))),
    ];
    match role {
        "gateway" => settings.extend([
            ("LYCHGATE_TOKEN", TOKEN.to_string()),
            ("LYCHGATE_OPERATOR_TOKEN", OPERATOR_TOKEN.to_string()),
            ("LYCHGATE_SUBSCRIPTIONS", SUBSCRIPTIONS.to_string()),
        ]),
        _ => settings.extend([
            ("LYCHGATE_ENGINE", format!("http://{}", at("engine"))),
            ("LYCHGATE_AGENT_HOST", links.get("agents").map(|link| link.ip().to_string()).unwrap_or_default()),
            ("LYCHGATE_SUBSCRIPTIONS", SUBSCRIPTIONS.to_string()),
            ("LYCHGATE_PROVIDER", provider(links)),
            ("LYCHGATE_KILL_WINDOW", format!("{}s", KILL_WINDOW.as_secs())),
        ]),
    }
    settings.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Where the model is. In the world each container has a link of its own to it, and is told which.
fn provider(links: &BTreeMap<&'static str, SocketAddr>) -> String {
    links.get("provider").map_or_else(|| "http://provider".into(), |provider| format!("http://{provider}"))
}

/// The environment of an agent: its container's, but for where it is.
pub fn in_container(
    mut environment: Environment,
    listen: SocketAddr,
    links: &BTreeMap<&'static str, SocketAddr>,
) -> Environment {
    environment.insert("LYCHGATE_LISTEN".into(), listen.to_string());
    environment.insert("LYCHGATE_PROVIDER".into(), provider(links));
    environment
}

/// Threads of a process of the world: it has one. On loopback it is the host's to count.
fn one_thread() -> usize {
    1
}

/// The environment of one life of one process.
pub fn environment_of(boot: &Boot) -> Environment {
    match (boot.role, boot.listen) {
        ("agent", Some(listen)) => in_container(boot.config.clone(), listen, &boot.links),
        _ => {
            let mut environment = environment(boot.role, &boot.process, &boot.links);
            environment.extend(boot.listen.map(|listen| ("LYCHGATE_LISTEN".to_string(), listen.to_string())));
            environment.extend(boot.config.clone());
            environment
        }
    }
}

/// One life of one process, as `main` would run it.
pub async fn boot(mut boot: Boot) -> i32 {
    let environment = environment_of(&boot);
    let mint = Mint::seeded(boot.entropy);
    let (forward, signals) = mpsc::unbounded_channel();
    let relay = async move {
        while let Some(()) = boot.signals.recv().await {
            // A process that has ended hears no signals.
            let _ = forward.send(Signal::Terminate);
        }
        std::future::pending::<()>().await;
    };
    let serve = async {
        match boot.role {
            "gateway" => match config::Gateway::from(&environment) {
                Ok(config) => lychgate::gateway::serve(config, mint, signals).await,
                Err(error) => panic!("{error}"),
            },
            "agent" => match config::Agent::from(&environment) {
                Ok(config) => lychgate::agent::serve(config, one_thread, signals).await,
                Err(error) => panic!("{error}"),
            },
            _ => match config::Executor::from(&environment) {
                Ok(config) => lychgate::executor::serve(config, mint, signals).await,
                Err(error) => panic!("{error}"),
            },
        }
    };
    let exit: Exit = tokio::select! {
        exit = serve => exit,
        () = relay => unreachable!("it waits for ever"),
    };
    exit.code()
}
