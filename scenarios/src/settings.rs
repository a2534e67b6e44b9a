//! What a plan's settings make of one process: the promises that depend on them ask here.

use std::collections::BTreeMap;
use std::time::Duration;

use lychgate::limits::{self, Limits};
use lychgate_sim::plan::Plan;

use crate::roles;
use crate::users::LychgateWorkload;

/// The settings of a plan, by scope and name.
#[derive(Clone, Debug, Default)]
pub struct Settings(BTreeMap<String, BTreeMap<String, String>>);

impl Settings {
    /// The settings of a plan.
    pub fn of(plan: &Plan<LychgateWorkload>) -> Self {
        Settings(plan.config.clone())
    }

    /// A setting of a process: its own, its role's, or everybody's, the narrowest winning.
    fn text(&self, process: &str, name: &str) -> Option<&str> {
        let role = process.rsplit_once('-').map_or(process, |(role, _)| role);
        [process, role, "all"].iter().find_map(|scope| self.0.get(*scope)?.get(name)).map(String::as_str)
    }

    fn duration(&self, process: &str, name: &str, default: Duration) -> Duration {
        self.text(process, name).and_then(|text| lychgate_sim::plan::duration::parse(text).ok()).unwrap_or(default)
    }

    /// Whether it ends its runs when it is told to stop, rather than wait for them.
    pub fn interrupts(&self, process: &str) -> bool {
        self.text(process, "LYCHGATE_DRAIN_POLICY") == Some("interrupt")
    }

    /// How long it waits for its runs.
    pub fn drain_grace(&self, process: &str) -> Duration {
        if self.interrupts(process) {
            return Duration::ZERO;
        }
        self.duration(process, "LYCHGATE_DRAIN_GRACE", Limits::default().drain_grace)
    }

    /// The names of the subscriptions, in the order in which they are chosen.
    pub fn subscriptions(&self) -> Vec<String> {
        self.pairs().map(|(name, _)| name.to_owned()).collect()
    }

    /// The token of each subscription, by its name.
    pub fn tokens(&self) -> BTreeMap<String, String> {
        self.pairs().map(|(name, token)| (name.to_owned(), token.to_owned())).collect()
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let set = self.0.values().find_map(|settings| settings.get("LYCHGATE_SUBSCRIPTIONS"));
        let pairs = set.map_or(roles::SUBSCRIPTIONS, String::as_str).split(',');
        pairs.filter_map(|pair| pair.split_once('=')).map(|(name, token)| (name.trim(), token.trim()))
    }

    /// The model that agents ask: they have it from executors.
    pub fn model(&self) -> String {
        self.text("executor", "LYCHGATE_MODEL").unwrap_or("default").to_owned()
    }

    /// So many messages an agent keeps: they have that from executors.
    pub fn history_limit(&self) -> Option<i64> {
        self.text("executor", "AGENT_HISTORY_LIMIT")?.parse().ok()
    }

    /// The longest silence of a model: executors and agents have the same.
    pub fn model_silence(&self) -> Duration {
        let set = self.0.values().find_map(|settings| settings.get("LYCHGATE_MODEL_SILENCE"));
        set.and_then(|text| lychgate_sim::plan::duration::parse(text).ok()).unwrap_or(limits::MODEL_SILENCE)
    }

    /// For how long it leaves a run to an owner that says nothing.
    pub fn takeover_after(&self, process: &str) -> Duration {
        self.duration(process, "LYCHGATE_TAKEOVER_AFTER", Limits::default().takeover_after)
    }

    /// How often it says that it lives.
    pub fn beat_every(&self, process: &str) -> Duration {
        self.duration(process, "LYCHGATE_BEAT_EVERY", Limits::default().beat_every)
    }

    /// From its first SIGTERM to its exit, at most.
    pub fn shutdown(&self, process: &str) -> Duration {
        if process.starts_with("gateway-") {
            return limits::GATEWAY_DRAIN + limits::CLOSES;
        }
        if process.starts_with("agent-") {
            return limits::STOP_GRACE;
        }
        limits::MARK + self.drain_grace(process) + limits::CANCEL_GRACE + limits::REPAIR_OUTER + limits::CLOSES
    }
}
