//! Settings come from the environment; a wrong one stops the process at start-up, naming itself and what it may be.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::limits::{AGENT_HISTORY, Limits};

/// Every setting by name, what it is, and its default. `--help` prints it; an unknown `LYCHGATE_…` is an error.
pub const SETTINGS: &[(&str, &str, &str)] = &[
    ("LYCHGATE_PROCESS", "this process's name, unique and the same after a restart", "required"),
    ("LYCHGATE_POSTGRES", "postgres://USER:PASSWORD@HOST:PORT/DATABASE", "required"),
    ("LYCHGATE_REDIS", "redis://HOST:PORT/DATABASE", "required"),
    ("LYCHGATE_RABBITMQ", "amqp://USER:PASSWORD@HOST:PORT/VHOST", "required"),
    (
        "LYCHGATE_PROVIDER",
        "http://HOST:PORT of an OpenAI-compatible provider (agent; an executor hands it on)",
        "required",
    ),
    ("LYCHGATE_MODEL", "the model to ask for (agent; an executor hands it on)", "default"),
    ("LYCHGATE_TOKEN", "the bearer token that users send (gateway)", "required"),
    ("LYCHGATE_OPERATOR_TOKEN", "the bearer token that operators send; without it nobody is one (gateway)", "none"),
    ("LYCHGATE_LISTEN", "where to serve HTTP (gateway, agent)", "127.0.0.1:8080"),
    ("LYCHGATE_ENGINE", "http://HOST:PORT of a Docker-compatible container engine (executor)", "required"),
    ("LYCHGATE_AGENT_HOST", "the host at which the ports of containers are reached (executor)", "the engine's host"),
    ("LYCHGATE_AGENT_IMAGE", "the image of agents, one that runs `lychgate agent` (executor)", "lychgate"),
    (
        "LYCHGATE_AGENTS",
        "AGENT,AGENT: all agents; a session without a wish gets the first (gateway, executor)",
        "agent-1",
    ),
    (
        "LYCHGATE_SUBSCRIPTIONS",
        "NAME=TOKEN,NAME=TOKEN: in the order of choice (executor); NAME,NAME: what operators may assign (gateway)",
        "required by executors",
    ),
    ("LYCHGATE_AGENT", "the agent's name (agent)", "required"),
    ("LYCHGATE_EPOCH", "the serial of its assignment (agent)", "required"),
    ("LYCHGATE_SUBSCRIPTION", "the name of its subscription (agent)", "required"),
    ("LYCHGATE_SUBSCRIPTION_TOKEN", "the token that its subscription shows the provider (agent)", "required"),
    (HISTORY_LIMIT, "messages that an agent keeps in memory (agent; an executor hands it on)", "1000"),
    ("LYCHGATE_SLOTS", "runs at once (executor)", "4"),
    ("LYCHGATE_KILL_WINDOW", "time from SIGTERM to SIGKILL in this deployment (executor)", "required"),
    ("LYCHGATE_RUN_MAX", "the longest legal run", "5h 45m"),
    ("LYCHGATE_CONSUMER_TIMEOUT", "the broker's consumer timeout", "6h"),
    ("LYCHGATE_STUCK_AFTER", "a run that has not moved for so long is ended", "6h 5m"),
    ("LYCHGATE_BEAT_EVERY", "how often an owner says that it lives", "5s"),
    ("LYCHGATE_TAKEOVER_AFTER", "a run without a beat for so long is anybody's", "5m 30s"),
    ("LYCHGATE_QUEUED_CLAIM_AFTER", "a run that no hint reached is claimed after this", "1m"),
    ("LYCHGATE_SWEEP_MIN", "the shortest pause between sweeps", "5s"),
    ("LYCHGATE_SWEEP_MAX", "the longest pause between sweeps", "30s"),
    ("LYCHGATE_FRESHNESS", "a run without a sign of life for longer is not resumed", "1h"),
    ("LYCHGATE_DRAIN_GRACE", "how long a draining executor waits for its runs", "5h 45m"),
    (MODEL_SILENCE, "a model without a sign of life for so long is asked again (agent; an executor hands it on)", "2m"),
    ("LYCHGATE_DRAIN_POLICY", "`finish`: wait for the runs that are going; `interrupt`: end them", "finish"),
];

/// The one setting with a name of its own: agents have had it under this one before.
const HISTORY_LIMIT: &str = "AGENT_HISTORY_LIMIT";

/// The setting that an executor needs for its own bounds, too.
pub(crate) const MODEL_SILENCE: &str = "LYCHGATE_MODEL_SILENCE";

/// The environment, or what a world gives in its place.
pub type Environment = BTreeMap<String, String>;

/// The settings that every role needs.
#[derive(Clone, Debug)]
pub struct Stores {
    /// The process's name: unique, and the same after a restart.
    pub process: String,
    /// Postgres: the truth.
    pub postgres: Address,
    /// Redis: the live view.
    pub redis: Address,
    /// RabbitMQ: hints.
    pub rabbitmq: Address,
}

/// A server and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `HOST:PORT`.
    pub host: String,
    /// Empty where the server wants none.
    pub user: String,
    /// Empty where the server wants none.
    pub password: String,
    /// The database, the virtual host; empty for the server's default.
    pub path: String,
}

/// A gateway's settings.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// The stores' addresses.
    pub stores: Stores,
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// The bearer token that users send.
    pub token: String,
    /// The bearer token that operators send; without one there are none.
    pub operator_token: Option<String>,
    /// The agents that a session may name; the first for one that names none.
    pub agents: Vec<String>,
    /// The names of the subscriptions that operators may assign to agents.
    pub subscriptions: Vec<String>,
}

/// The policy of an executor that is told to stop for the runs that are going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainPolicy {
    /// Waits for them, up to the drain grace.
    Finish,
    /// Cancels them at once.
    Interrupt,
}

/// An executor's settings.
#[derive(Clone, Debug)]
pub struct Executor {
    /// The stores' addresses.
    pub stores: Stores,
    /// The container engine's address.
    pub engine: Address,
    /// The host at which containers' published ports are reached.
    pub agent_host: String,
    /// The image of agents' containers.
    pub image: String,
    /// The agents.
    pub agents: Vec<String>,
    /// The subscriptions, in the order of choice.
    pub subscriptions: Vec<Subscription>,
    /// The model provider's address, as agents read it.
    pub provider: String,
    /// The model to ask for.
    pub model: String,
    /// The history limit to hand on to agents, if any.
    pub history_limit: Option<String>,
    /// The bounds that this deployment tuned.
    pub limits: Limits,
    /// The policy for the runs that are going when it is told to stop.
    pub drain_policy: DrainPolicy,
}

/// The credential by which an agent reaches its model.
#[derive(Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The name, in rows and logs.
    pub name: String,
    /// The token that the provider is sent.
    pub token: String,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Subscription({})", self.name)
    }
}

/// An agent's settings.
#[derive(Clone, Debug)]
pub struct Agent {
    /// The agent's name.
    pub agent: String,
    /// The serial of its assignment.
    pub epoch: i64,
    /// The agent's subscription.
    pub subscription: Subscription,
    /// Where the model is.
    pub provider: Address,
    /// The model to ask for.
    pub model: String,
    /// Where to serve HTTP.
    pub listen: SocketAddr,
    /// Messages that it keeps in memory.
    pub history_limit: usize,
    /// The longest silence of its model.
    pub model_silence: Duration,
}

/// A setting that is missing or wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{name}: {problem}")]
pub struct Invalid {
    /// The setting.
    pub name: String,
    /// The fault, and what the value may be.
    pub problem: String,
}

fn invalid(name: &str, problem: impl Into<String>) -> Invalid {
    Invalid { name: name.to_string(), problem: problem.into() }
}

impl Gateway {
    /// Reads a gateway's settings.
    ///
    /// # Errors
    /// The first setting that is missing, unknown or wrong.
    pub fn from(environment: &Environment) -> Result<Self, Invalid> {
        let settings = Settings::new(environment)?;
        Ok(Gateway {
            stores: settings.stores()?,
            listen: settings.listen()?,
            token: settings.text("LYCHGATE_TOKEN")?,
            operator_token: settings.given("LYCHGATE_OPERATOR_TOKEN"),
            agents: settings.agents()?,
            subscriptions: settings.subscription_names()?,
        })
    }
}

impl Executor {
    /// Reads an executor's settings and checks that its bounds fit together.
    ///
    /// # Errors
    /// The first setting that is missing, unknown or wrong, or the relation that does not hold.
    pub fn from(environment: &Environment) -> Result<Self, Invalid> {
        let settings = Settings::new(environment)?;
        let limits = settings.limits()?;
        limits.check().map_err(|says| invalid("limits", says))?;
        let drain_policy = settings.drain_policy()?;
        budget(&limits, drain_policy, settings.duration("LYCHGATE_KILL_WINDOW")?)?;
        let engine = settings.address("LYCHGATE_ENGINE", "http", 2375)?;
        let engine_host = engine.host.rsplit_once(':').map_or(engine.host.as_str(), |(host, _)| host).to_string();
        // Read here as its agents will read it: a wrong one is told now.
        settings.address("LYCHGATE_PROVIDER", "http", 80)?;
        Ok(Executor {
            stores: settings.stores()?,
            agent_host: settings.given("LYCHGATE_AGENT_HOST").unwrap_or(engine_host),
            engine,
            image: settings.text("LYCHGATE_AGENT_IMAGE")?,
            agents: settings.agents()?,
            subscriptions: settings.subscriptions()?,
            provider: settings.text("LYCHGATE_PROVIDER")?,
            model: settings.text("LYCHGATE_MODEL")?,
            history_limit: settings.given(HISTORY_LIMIT),
            limits,
            drain_policy,
        })
    }
}

/// Checks that a drain ends before its process is killed, whatever is wedged.
fn budget(limits: &Limits, policy: DrainPolicy, window: Duration) -> Result<(), Invalid> {
    use crate::limits::{CANCEL_GRACE, CLOSES, MARK, REPAIR_OUTER};
    let wait = (policy == DrainPolicy::Finish).then_some(("drain grace", limits.drain_grace));
    let terms = [("mark", MARK)].into_iter().chain(wait);
    let terms: Vec<_> =
        terms.chain([("cancel grace", CANCEL_GRACE), ("terminal repair", REPAIR_OUTER), ("closes", CLOSES)]).collect();
    let needed: Duration = terms.iter().map(|(_, length)| *length).sum();
    if needed < window {
        return Ok(());
    }
    let told = |length: Duration| humantime::format_duration(length).to_string();
    let terms: Vec<String> = terms.iter().map(|(term, length)| format!("{term} {}", told(*length))).collect();
    let says = format!(
        "{} must be longer than a drain, which is {} = {}; lengthen it, or shorten LYCHGATE_DRAIN_GRACE and \
         LYCHGATE_RUN_MAX",
        told(window),
        terms.join(" + "),
        told(needed)
    );
    Err(invalid("LYCHGATE_KILL_WINDOW", says))
}

impl Agent {
    /// Reads an agent's settings.
    ///
    /// # Errors
    /// The first setting that is missing, unknown or wrong; a wrong history limit is none, it means the default.
    pub fn from(environment: &Environment) -> Result<Self, Invalid> {
        let settings = Settings::new(environment)?;
        let epoch = settings.text("LYCHGATE_EPOCH")?;
        let history_limit = settings.given(HISTORY_LIMIT).and_then(|text| text.trim().parse().ok());
        Ok(Agent {
            agent: settings.text("LYCHGATE_AGENT")?,
            epoch: epoch
                .parse()
                .map_err(|_| invalid("LYCHGATE_EPOCH", format!("`{epoch}` is no whole number, as 1")))?,
            subscription: Subscription {
                name: settings.text("LYCHGATE_SUBSCRIPTION")?,
                token: settings.text("LYCHGATE_SUBSCRIPTION_TOKEN")?,
            },
            provider: settings.address("LYCHGATE_PROVIDER", "http", 80)?,
            model: settings.text("LYCHGATE_MODEL")?,
            listen: settings.listen()?,
            history_limit: history_limit.filter(|limit| *limit > 0).unwrap_or(AGENT_HISTORY),
            model_silence: settings.duration(MODEL_SILENCE)?,
        })
    }
}

struct Settings<'a>(&'a Environment);

impl<'a> Settings<'a> {
    fn new(environment: &'a Environment) -> Result<Self, Invalid> {
        let known = |name: &str| SETTINGS.iter().any(|(known, ..)| *known == name);
        match environment.keys().find(|name| name.starts_with("LYCHGATE_") && !known(name)) {
            None => Ok(Settings(environment)),
            Some(name) => Err(invalid(name, "no such setting; `lychgate --help` lists them")),
        }
    }

    fn text(&self, name: &'static str) -> Result<String, Invalid> {
        let (_, what, default) = SETTINGS.iter().find(|(known, ..)| *known == name).expect("a listed setting");
        match self.0.get(name).filter(|text| !text.is_empty()) {
            Some(text) => Ok(text.clone()),
            None if default.starts_with("required") => Err(invalid(name, format!("not set; it is {what}"))),
            None => Ok((*default).to_string()),
        }
    }

    fn drain_policy(&self) -> Result<DrainPolicy, Invalid> {
        let name = "LYCHGATE_DRAIN_POLICY";
        match self.text(name)?.as_str() {
            "finish" => Ok(DrainPolicy::Finish),
            "interrupt" => Ok(DrainPolicy::Interrupt),
            other => Err(invalid(name, format!("`{other}` is neither `finish` nor `interrupt`"))),
        }
    }

    /// A setting that may be absent.
    fn given(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|text| !text.is_empty()).cloned()
    }

    fn listen(&self) -> Result<SocketAddr, Invalid> {
        let listen = self.text("LYCHGATE_LISTEN")?;
        let wrong = |_| invalid("LYCHGATE_LISTEN", format!("`{listen}` is no IP:PORT, as 0.0.0.0:8080"));
        listen.parse().map_err(wrong)
    }

    fn agents(&self) -> Result<Vec<String>, Invalid> {
        let wrong = |problem: String| invalid("LYCHGATE_AGENTS", problem);
        let mut agents: Vec<String> = Vec::new();
        for agent in self.text("LYCHGATE_AGENTS")?.split(',').map(str::trim) {
            if !is_name(agent) {
                return Err(wrong(format!("`{agent}` is no agent's name: {NAME}, as agent-1,agent-2")));
            }
            if agents.iter().any(|known| known == agent) {
                return Err(wrong(format!("names `{agent}` twice")));
            }
            agents.push(agent.to_string());
        }
        Ok(agents)
    }

    /// Tokens are secrets: no message shows one.
    fn subscriptions(&self) -> Result<Vec<Subscription>, Invalid> {
        let wrong = |problem: String| invalid("LYCHGATE_SUBSCRIPTIONS", problem);
        let mut subscriptions: Vec<Subscription> = Vec::new();
        for (place, pair) in (1..).zip(self.text("LYCHGATE_SUBSCRIPTIONS")?.split(',')) {
            let (name, token) =
                pair.split_once('=').map_or((pair.trim(), ""), |(name, token)| (name.trim(), token.trim()));
            if token.is_empty() {
                return Err(wrong(format!("number {place} is not NAME=TOKEN, as in a=TOKEN,b=TOKEN")));
            }
            if !is_name(name) {
                return Err(wrong(format!("`{name}` is no subscription's name: {NAME}")));
            }
            if let Some(known) = subscriptions.iter().find(|known| known.name == name || known.token == token) {
                let problem = match known.name == name {
                    true => format!("names `{name}` twice"),
                    false => format!("`{}` and `{name}` have the same token", known.name),
                };
                return Err(wrong(problem));
            }
            subscriptions.push(Subscription { name: name.to_string(), token: token.to_string() });
        }
        Ok(subscriptions)
    }

    /// The names of the subscriptions, for a gateway: it reads no token. An absent setting is an empty list.
    fn subscription_names(&self) -> Result<Vec<String>, Invalid> {
        let Some(text) = self.given("LYCHGATE_SUBSCRIPTIONS") else { return Ok(Vec::new()) };
        let names = (1..).zip(text.split(',')).map(|(place, pair)| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name).trim();
            // It may be a token that stands where no token should.
            let wrong = || invalid("LYCHGATE_SUBSCRIPTIONS", format!("number {place} has no name: {NAME}"));
            if is_name(name) { Ok(name.to_string()) } else { Err(wrong()) }
        });
        names.collect()
    }

    fn duration(&self, name: &'static str) -> Result<Duration, Invalid> {
        let text = self.text(name)?;
        let duration = humantime::parse_duration(&text)
            .map_err(|why| invalid(name, format!("`{text}` is no duration ({why}); write 90s, 5m or 1h 30m")))?;
        if duration.is_zero() { Err(invalid(name, "must be longer than nothing")) } else { Ok(duration) }
    }

    fn address(&self, name: &'static str, scheme: &str, port: u16) -> Result<Address, Invalid> {
        let text = self.text(name)?;
        let wrong =
            |why: &str| invalid(name, format!("`{text}` {why}; it is {scheme}://[USER:PASSWORD@]HOST[:PORT][/PATH]"));
        let rest = text.strip_prefix(scheme).and_then(|rest| rest.strip_prefix("://"));
        let rest = rest.ok_or_else(|| wrong("has another scheme"))?;
        let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let host = match host.rsplit_once(':') {
            Some((_, digits)) if digits.parse::<u16>().is_ok() => host.to_string(),
            Some(_) => return Err(wrong("has no port number after its colon")),
            None => format!("{host}:{port}"),
        };
        if host.starts_with(':') {
            return Err(wrong("names no host"));
        }
        Ok(Address { host, user: user.to_string(), password: password.to_string(), path: path.to_string() })
    }

    fn stores(&self) -> Result<Stores, Invalid> {
        Ok(Stores {
            process: self.text("LYCHGATE_PROCESS")?,
            postgres: self.address("LYCHGATE_POSTGRES", "postgres", 5432)?,
            redis: self.address("LYCHGATE_REDIS", "redis", 6379)?,
            rabbitmq: self.address("LYCHGATE_RABBITMQ", "amqp", 5672)?,
        })
    }

    fn limits(&self) -> Result<Limits, Invalid> {
        let slots = self.text("LYCHGATE_SLOTS")?;
        Ok(Limits {
            run_max: self.duration("LYCHGATE_RUN_MAX")?,
            consumer_timeout: self.duration("LYCHGATE_CONSUMER_TIMEOUT")?,
            stuck_after: self.duration("LYCHGATE_STUCK_AFTER")?,
            beat_every: self.duration("LYCHGATE_BEAT_EVERY")?,
            takeover_after: self.duration("LYCHGATE_TAKEOVER_AFTER")?,
            queued_claim_after: self.duration("LYCHGATE_QUEUED_CLAIM_AFTER")?,
            sweep_min: self.duration("LYCHGATE_SWEEP_MIN")?,
            sweep_max: self.duration("LYCHGATE_SWEEP_MAX")?,
            freshness: self.duration("LYCHGATE_FRESHNESS")?,
            drain_grace: self.duration("LYCHGATE_DRAIN_GRACE")?,
            model_silence: self.duration(MODEL_SILENCE)?,
            slots: slots
                .parse()
                .map_err(|_| invalid("LYCHGATE_SLOTS", format!("`{slots}` is no whole number, as 4")))?,
        })
    }
}

/// The characters of names.
const NAME: &str = "1 to 40 of a-z, 0-9 and -";

/// Whether it can stand in a container's name and in a list.
fn is_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=40).contains(&text.len()) && text.bytes().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let pairs = [
            ("LYCHGATE_PROCESS", "executor-1"),
            ("LYCHGATE_POSTGRES", "postgres://me:secret@127.0.0.1:5432/lychgate"),
            ("LYCHGATE_REDIS", "redis://127.0.0.1"),
            ("LYCHGATE_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672/"),
            ("LYCHGATE_PROVIDER", "http://127.0.0.1:8081"),
            ("LYCHGATE_ENGINE", "http://10.0.0.9:2375"),
            ("LYCHGATE_SUBSCRIPTIONS", "a=sk-a, b=sk-b"),
            ("LYCHGATE_KILL_WINDOW", "6h 30m"),
        ];
        pairs.map(|(name, value)| (name.to_string(), value.to_string())).into()
    }

    #[test]
    fn defaults_are_the_limits_defaults() {
        let executor = Executor::from(&environment()).unwrap();
        assert_eq!(executor.limits, Limits::default());
        assert_eq!(executor.stores.redis.host, "127.0.0.1:6379");
        assert_eq!(executor.stores.postgres.password, "secret");
        assert_eq!(executor.agent_host, "10.0.0.9");
        assert_eq!(executor.agents, ["agent-1"]);
        assert_eq!(executor.subscriptions[1].token, "sk-b");
    }

    #[test]
    fn a_wrong_setting_names_itself_and_what_it_may_be() {
        let with = |name: &str, value: &str| {
            let mut environment = environment();
            environment.insert(name.to_string(), value.to_string());
            Executor::from(&environment).unwrap_err().to_string()
        };
        assert!(with("LYCHGATE_BEAT_EVERY", "5 lightyears").contains("write 90s"));
        assert!(with("LYCHGATE_BEATS", "5s").contains("--help"));
        assert!(with("LYCHGATE_REDIS", "http://x").contains("redis://"));
        assert!(with("LYCHGATE_SLOTS", "many").contains("whole number"));
        let sum = "1h must be longer than a drain, which is mark 5s + drain grace 5h 45m + cancel grace 5s + \
                   terminal repair 12s + closes 8s = 5h 45m 30s";
        assert!(with("LYCHGATE_KILL_WINDOW", "1h").contains(sum), "{}", with("LYCHGATE_KILL_WINDOW", "1h"));
        assert!(with("LYCHGATE_DRAIN_POLICY", "hurry").contains("`finish`"));
        assert!(with("LYCHGATE_PROCESS", "").contains("not set"));
        assert!(with("LYCHGATE_SUBSCRIPTIONS", "").contains("not set"));
        assert!(with("LYCHGATE_SUBSCRIPTIONS", "a=x,a=y").contains("`a` twice"));
        assert!(with("LYCHGATE_SUBSCRIPTIONS", "a=x,b=x").contains("`a` and `b` have the same token"));
        assert!(with("LYCHGATE_SUBSCRIPTIONS", "a=x,sk-secret").contains("number 2"));
        assert!(!with("LYCHGATE_SUBSCRIPTIONS", "a=x,sk-secret=").contains("secret"));
        assert!(with("LYCHGATE_AGENTS", "a,b,a").contains("`a` twice"));
        assert!(with("LYCHGATE_AGENTS", "a,,b").contains("no agent's name"));
    }

    #[test]
    fn a_gateway_knows_subscriptions_by_name_and_no_token() {
        let named = |text: &str| {
            let mut environment = environment();
            environment.extend([("LYCHGATE_TOKEN".into(), "let-me-in".into())]);
            environment.insert("LYCHGATE_SUBSCRIPTIONS".into(), text.into());
            Gateway::from(&environment).map(|gateway| gateway.subscriptions).map_err(|error| error.to_string())
        };
        assert_eq!(named("a=sk-a, b=sk-b"), Ok(vec!["a".to_string(), "b".to_string()]));
        assert_eq!(named("a,b"), named("a=sk-a,b=sk-b"));
        assert_eq!(named(""), Ok(Vec::new()));
        assert!(named("a,SECRET").is_err_and(|says| says.contains("number 2") && !says.contains("SECRET")));
    }

    #[test]
    fn a_history_limit_that_is_none_means_the_default() {
        let limit = |text: &str| {
            let pairs = [
                ("LYCHGATE_AGENT", "agent-1"),
                ("LYCHGATE_EPOCH", "1"),
                ("LYCHGATE_SUBSCRIPTION", "a"),
                ("LYCHGATE_SUBSCRIPTION_TOKEN", "sk-a"),
                ("LYCHGATE_PROVIDER", "http://127.0.0.1:8081"),
                (HISTORY_LIMIT, text),
            ];
            let environment = pairs.map(|(name, value)| (name.to_string(), value.to_string())).into();
            Agent::from(&environment).unwrap().history_limit
        };
        for nonsense in ["", "0", "-5", "many", "1.5"] {
            assert_eq!(limit(nonsense), 1000, "{nonsense:?}");
        }
        assert_eq!(limit("42"), 42);
    }

    #[test]
    fn who_interrupts_does_not_wait_and_needs_no_time_for_it() {
        let mut environment = environment();
        environment.insert("LYCHGATE_KILL_WINDOW".into(), "31s".into());
        environment.insert("LYCHGATE_DRAIN_POLICY".into(), "interrupt".into());
        assert_eq!(Executor::from(&environment).unwrap().drain_policy, DrainPolicy::Interrupt);
        environment.insert("LYCHGATE_KILL_WINDOW".into(), "30s".into());
        assert!(Executor::from(&environment).is_err());
    }
}
