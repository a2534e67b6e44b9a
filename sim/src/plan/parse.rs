//! Reads a plan. Whatever is wrong is said with file, line, column and the nearest valid word, all of it at once; what a
//! plan cannot mean, it cannot say.
//!
//! ```toml
//! about = "Redis is wedged from mid-turn until after the run's end"
//! arms = ["no_zombies"]               # invariants that it must put to the test
//! must_reach = ["checkpointed"]       # events that must happen
//! [topology]                          # processes of each role; the product's usual number without
//! executor = 2
//! [config.all]                        # or [config.executor], or [config.executor-1]; the narrowest wins
//! LYCHGATE_TAKEOVER_AFTER = "330s"
//! [service.executor]                  # the service manager; or [service.executor-1]; the narrowest wins
//! grace = "30s"                       # SIGTERM to SIGKILL
//! restart_delay = "5s"                # an exit to the next boot
//! first_boot = "10m"                  # the beginning to the first boot; without: none has to wait
//! pre_stop = "10s"                    # the decision to stop to SIGTERM; the grace runs already
//! restart_max = "5m"                  # the restart delay doubles up to this while lives are short
//! probe = "10s"                       # how often it is asked for its /health: three misses, and it is killed
//! [[users]]                           # the product's own words
//! [[faults]]                          # any value may offer alternatives: `lasts = "<1m|61m>"` is 1m on seed 1
//! kind = "wedge"                      # each kind of fault is a row beside what it does; `list faults` shows all of them
//! target = "executor-1->redis"        # or a list; `executor-1` for a process; `provider/sk-a` for a caller; `redis` for
//!                                     # a service; `ann->gateway-1` for a user's link
//! on = { event = "turn_started", session = "ann/1", nth = 1, after = "5s" }
//!                                     # or at = "12s"
//!                                     # or on = { link = "executor-1->postgres", matches = "run.terminal", nth = 1 }
//! lasts = "30s"                       # or until = { event = "…" }, or until = "heal"; without: what the kind's row says.
//!                                     # `by`, `bytes`, `matches`, `status`, …: what the row says that it takes
//! every = "1m"                        # strikes again so long after its end, until everything heals
//! direction = "up"                    # of wedge, delay and trickle: towards the service alone; or "down"
//! only = "run.terminal"               # of these and close: only connections on which a request contains this while it
//!                                     # lasts, each from that request on
//! [expect]                            # without: passed
//! verdict = "violated"
//! invariant = "no_zombies"
//! [repro]                             # the seed it failed with, and where
//! seed = 7
//! ```

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::alternatives::Alternatives;
use super::errors::{PlanError, PlanErrors, nearest};
use super::faults::{Words, faults};
use super::section::{Diagnostics, Section, described, number, text};
use super::{Expect, Plan, Repro, ServiceManager, Vocabulary, Workload};

const KEYS: &[&str] =
    &["about", "arms", "must_reach", "topology", "config", "service", "users", "faults", "expect", "repro"];

/// Reads the plan in `source`; `path` is for messages.
///
/// # Errors
/// Everything that is wrong with it, in the order of the text.
pub fn parse<W: Workload>(path: &str, source: &str, valid: &Vocabulary) -> Result<Plan<W>, PlanErrors> {
    let table = DeTable::parse(source).map_err(|error| PlanErrors(vec![malformed(path, source, &error)]))?;
    let mut complaints = Diagnostics { path, text: source, errors: Vec::new() };
    let plan = plan(table.into_inner(), valid, &mut complaints);
    if complaints.errors.is_empty() {
        return Ok(plan);
    }
    complaints.errors.sort_by_key(|error| (error.line, error.column));
    Err(PlanErrors(complaints.errors))
}

/// Reads every plan that `source` offers, that of seed 1 first; see [`Alternatives`].
///
/// # Errors
/// Alternatives that cannot be read, or everything that is wrong with the first combination with which anything is. The
/// lines that are shown are those of that combination.
pub fn parse_all<W: Workload>(path: &str, source: &str, valid: &Vocabulary) -> Result<Vec<Plan<W>>, PlanErrors> {
    let offered = Alternatives::of(path, source)?;
    (0..offered.count()).map(|nth| parse(path, &offered.text(nth), valid)).collect()
}

fn plan<W: Workload>(table: DeTable<'_>, valid: &Vocabulary, complaints: &mut Diagnostics<'_>) -> Plan<W> {
    let mut root = Section::new(table, 0..0, "a plan", KEYS);
    let about = root.need("about", complaints).and_then(|value| text(value, "about", complaints));
    let invariants: Vec<&str> = valid.invariants.iter().map(|(name, _)| *name).collect();
    let arms = known(root.words("arms", complaints), "invariant", &invariants, complaints);
    let must_reach = known(root.words("must_reach", complaints), "event", &valid.events, complaints);
    let topology = root.take("topology").map(|value| topology(value, valid, complaints)).unwrap_or_default();
    let config = root.take("config").map(|value| config(value, &topology, valid, complaints)).unwrap_or_default();
    let service = root.take("service").map(|value| service(value, &topology, valid, complaints));
    let service = service.unwrap_or_default();
    let users = root.take("users").map(|value| users::<W>(value, complaints));
    // Where the users could not be read, what is said about them cannot be judged.
    let readable = !matches!(users, Some(None));
    let users = users.flatten().unwrap_or_default();
    let waits = |role: &str, process: &str| ServiceManager::of(&service, role, process).first_boot.is_some();
    let managed = valid.managed(&topology).into_iter();
    let words = Words {
        managed: managed.map(|(role, process)| (process.clone(), (role, waits(role, &process)))).collect(),
        vocabulary: valid,
        processes: valid.processes(&topology),
        links: valid.links(&topology, &users.users()),
        sessions: readable.then(|| users.sessions()),
    };
    let faults = root.take("faults").map(|value| faults(value, &words, complaints)).unwrap_or_default();
    let expect = expect(root.take("expect"), &invariants, complaints);
    let repro = root.take("repro").and_then(|value| repro(value, complaints));
    root.end(complaints);
    Plan {
        about: about.map(Spanned::into_inner).unwrap_or_default(),
        arms,
        must_reach,
        topology,
        config,
        service,
        users,
        faults,
        expect,
        repro,
    }
}

/// Keeps the words that are among `valid` and complains of the others.
fn known(typed: Vec<Spanned<String>>, what: &str, valid: &[&str], complaints: &mut Diagnostics<'_>) -> Vec<String> {
    for word in &typed {
        if !valid.contains(&word.get_ref().as_str()) {
            complaints.unknown(&word.span(), what, word.get_ref(), valid.iter().copied());
        }
    }
    typed.into_iter().map(Spanned::into_inner).collect()
}

fn table_of<'t>(value: Spanned<DeValue<'t>>, name: &str, complaints: &mut Diagnostics<'_>) -> Option<DeTable<'t>> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Some(table),
        other => {
            complaints.wrong(&span, format!("`{name}` must be a table, not {}", described(&other)));
            None
        }
    }
}

fn topology(
    value: Spanned<DeValue<'_>>,
    valid: &Vocabulary,
    complaints: &mut Diagnostics<'_>,
) -> BTreeMap<String, usize> {
    let mut topology = BTreeMap::new();
    for (role, count) in table_of(value, "topology", complaints).unwrap_or_default() {
        if !valid.roles.iter().any(|known| known.name == role.get_ref().as_ref()) {
            complaints.unknown(&role.span(), "role", role.get_ref(), valid.roles.iter().map(|role| role.name));
            continue;
        }
        let name = role.into_inner().into_owned();
        let span = count.span();
        match number(count, &name, complaints).map(Spanned::into_inner) {
            // Names and ports are given out per process; a hundred of a kind is more than any plan has needed.
            Some(0) if let Some(says) = needed(&name, valid) => complaints.wrong(&span, says),
            Some(count @ 0..=100) => _ = topology.insert(name, count as usize),
            Some(count) => complaints.wrong(&span, format!("{count} processes of a role are too many: at most 100")),
            None => {}
        }
    }
    topology
}

/// Why a plan cannot do without processes of a role, if it cannot: users, or processes of another, reach nobody then.
fn needed(name: &str, valid: &Vocabulary) -> Option<String> {
    let role = valid.roles.iter().find(|role| role.name == name)?;
    let reached = |as_what: &str| valid.roles.iter().find(|other| other.services.contains(&as_what));
    let who = match &role.contained {
        Some(contained) => reached(contained.reached_as)?.name,
        None => role.port.map(|_| "users")?,
    };
    Some(format!(
        "{who} would reach no {name}: write `{name} = 1` or more, or leave it out for the usual {}",
        role.count
    ))
}

type Config = BTreeMap<String, BTreeMap<String, String>>;

fn config(
    value: Spanned<DeValue<'_>>,
    topology: &BTreeMap<String, usize>,
    valid: &Vocabulary,
    complaints: &mut Diagnostics<'_>,
) -> Config {
    let mut scopes = vec!["all".to_owned()];
    scopes.extend(valid.roles.iter().map(|role| role.name.to_owned()));
    scopes.extend(valid.agents(topology));
    scopes.extend(valid.processes(topology));
    let mut config = Config::new();
    for (scope, settings) in table_of(value, "config", complaints).unwrap_or_default() {
        if !scopes.iter().any(|known| known == scope.get_ref()) {
            let what = "scope in `[config]` (all, a role or a process of the topology)";
            complaints.unknown(&scope.span(), what, scope.get_ref(), scopes.iter().map(String::as_str));
            continue;
        }
        let mut chosen = BTreeMap::new();
        for (key, value) in table_of(settings, scope.get_ref(), complaints).unwrap_or_default() {
            if !valid.settings.contains(&key.get_ref().as_ref()) {
                complaints.unknown(&key.span(), "setting", key.get_ref(), valid.settings.iter().copied());
                continue;
            }
            let span = value.span();
            let value = match value.into_inner() {
                DeValue::String(text) => text.into_owned(),
                DeValue::Integer(number) => number.to_string(),
                DeValue::Boolean(truth) => truth.to_string(),
                other => {
                    let says = format!("`{}` must be a text in quotes, not {}", key.get_ref(), described(&other));
                    complaints.wrong(&span, says);
                    continue;
                }
            };
            chosen.insert(key.into_inner().into_owned(), value);
        }
        config.insert(scope.into_inner().into_owned(), chosen);
    }
    config
}

fn service(
    value: Spanned<DeValue<'_>>,
    topology: &BTreeMap<String, usize>,
    valid: &Vocabulary,
    complaints: &mut Diagnostics<'_>,
) -> BTreeMap<String, ServiceManager> {
    let mut scopes: Vec<String> = valid.roles.iter().map(|role| role.name.to_owned()).collect();
    scopes.extend(valid.processes(topology));
    // Their engine boots them.
    let contained: Vec<&str> =
        valid.roles.iter().filter(|role| role.contained.is_some()).map(|role| role.name).collect();
    let is_contained = |scope: &str| contained.iter().any(|role| scope.strip_prefix(role).is_some_and(is_numbered));
    // Only what listens can be asked.
    let asked: Vec<&str> = valid
        .roles
        .iter()
        .filter(|role| role.contained.is_none() && role.port.is_some())
        .map(|role| role.name)
        .collect();
    let is_asked = |scope: &str| asked.iter().any(|role| scope.strip_prefix(role).is_some_and(is_numbered));
    let mut managers = BTreeMap::new();
    for (scope, value) in table_of(value, "service", complaints).unwrap_or_default() {
        if !scopes.iter().any(|known| known == scope.get_ref()) {
            let what = "scope in `[service]` (a role or a process of the topology)";
            complaints.unknown(&scope.span(), what, scope.get_ref(), scopes.iter().map(String::as_str));
            continue;
        }
        let keys = ServiceManager::KEYS;
        let Some(mut section) = Section::of(value, "`[service.SCOPE]`", keys, complaints) else {
            continue;
        };
        let grace = section.duration("grace", complaints);
        let restart_delay = section.duration("restart_delay", complaints);
        let mut own = |key: &'static str, possible: bool, because: &str| {
            let value = section.duration(key, complaints);
            if value.is_some() && !possible {
                let says = format!("`{}` {because}: `{key}` cannot be said of it", scope.get_ref());
                complaints.wrong(&scope.span(), says);
            }
            value
        };
        let (ours, engines) = (!is_contained(scope.get_ref()), "is booted by its container engine");
        let first_boot = own("first_boot", ours, engines);
        let pre_stop = own("pre_stop", ours, engines);
        let restart_max = own("restart_max", ours, engines);
        let probe = own("probe", is_asked(scope.get_ref()), "is asked for its health by nobody");
        if probe == Some(Duration::ZERO) {
            complaints.wrong(&scope.span(), "`probe` must leave some time between two questions");
        }
        section.end(complaints);
        let manager = ServiceManager { grace, restart_delay, first_boot, pre_stop, probe, restart_max };
        managers.insert(scope.into_inner().into_owned(), manager);
    }
    managers
}

/// Whether this is what follows a role in the name of a process of it, or nothing.
fn is_numbered(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('-')
}

/// The product's own part. `None` if it could not be read.
fn users<W: Workload>(value: Spanned<DeValue<'_>>, complaints: &mut Diagnostics<'_>) -> Option<W> {
    let span = value.span();
    match W::deserialize(ValueDeserializer::from(value)) {
        Ok(users) => Some(users),
        Err(error) => {
            let (offset, nearest) = named_in(complaints.text, &error.span().unwrap_or(span), error.message());
            let says = format!("in `users`: {}", error.message().trim());
            complaints.errors.push(PlanError::at(complaints.path, complaints.text, offset, says, nearest));
            None
        }
    }
}

/// For serde's "unknown field `x`, expected one of `a`, `b`": where `x` stands inside `span`, and which was meant.
fn named_in(source: &str, span: &Range<usize>, message: &str) -> (usize, Option<String>) {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (Some((typed, valid)), true) = (quoted.split_first(), message.starts_with("unknown")) else {
        return (span.start, None);
    };
    let inside = source.get(span.clone()).unwrap_or("");
    let alone = |at: usize| {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        !inside[..at].ends_with(word) && !inside[at + typed.len()..].starts_with(word)
    };
    let place = inside.match_indices(typed).map(|(at, _)| at).find(|at| alone(*at)).unwrap_or(0);
    (span.start + place, nearest(typed, valid.iter().copied()))
}

fn expect(value: Option<Spanned<DeValue<'_>>>, invariants: &[&str], complaints: &mut Diagnostics<'_>) -> Expect {
    let passed = Expect { verdict: "passed".to_owned(), invariant: None };
    let Some(value) = value else { return passed };
    let Some(mut section) = Section::of(value, "`[expect]`", &["verdict", "invariant"], complaints) else {
        return passed;
    };
    let verdict = section.text("verdict", complaints);
    let invariant = section.text("invariant", complaints);
    let verdict = match verdict {
        Some(verdict) => {
            let valid = ["passed", "violated"];
            if !valid.contains(&verdict.get_ref().as_str()) {
                complaints.unknown(&verdict.span(), "verdict", verdict.get_ref(), valid);
            }
            verdict.into_inner()
        }
        None => passed.verdict,
    };
    match &invariant {
        Some(name) => {
            if !invariants.contains(&name.get_ref().as_str()) {
                complaints.unknown(&name.span(), "invariant", name.get_ref(), invariants.iter().copied());
            }
            if verdict == "passed" {
                let says =
                    "`invariant` says what must break, but the verdict is `passed`: add `verdict = \"violated\"`";
                complaints.wrong(&name.span(), says);
            }
        }
        None if verdict == "violated" => {
            complaints.wrong(&section.span, "`[expect]` needs `invariant` with `verdict = \"violated\"`");
        }
        None => {}
    }
    section.end(complaints);
    Expect { verdict, invariant: invariant.map(Spanned::into_inner) }
}

fn repro(value: Spanned<DeValue<'_>>, complaints: &mut Diagnostics<'_>) -> Option<Repro> {
    let mut section = Section::of(value, "`[repro]`", &["seed", "commit", "toolchain", "lock"], complaints)?;
    let seed = section.need("seed", complaints).and_then(|value| number(value, "seed", complaints));
    let mut origin = |key| section.text(key, complaints).map(Spanned::into_inner).unwrap_or_default();
    let (commit, toolchain, lock) = (origin("commit"), origin("toolchain"), origin("lock"));
    section.end(complaints);
    Some(Repro { seed: seed?.into_inner(), commit, toolchain, lock })
}

/// What the TOML parser says, with the end of the file named where the text was cut off.
fn malformed(path: &str, source: &str, error: &toml::de::Error) -> PlanError {
    let offset = error.span().map_or(source.len(), |span| span.start);
    let mut says = error.message().trim().replace('\n', ", ");
    if offset >= source.trim_end().len() {
        says.push_str(" (the file ends here)");
    }
    PlanError::at(path, source, offset, says, None)
}
