//! What a story needs around it: stand-ins on loopback, and a gateway's address. The processes are the story's own.

use lychgate::config::Environment;
use lychgate_scenarios::dev::{Loopback, Reply, free_port};
use lychgate_scenarios::roles;

use crate::process::Process;
use crate::user::User;

pub struct Stage {
    pub stand_ins: Loopback,
    pub user: User,
}

impl Stage {
    /// The model answers `reply` to anything.
    pub async fn set(reply: Reply) -> Self {
        let mut stand_ins = Loopback::start(reply).await.expect("loopback is free");
        stand_ins.start_agents().await.expect("loopback is free");
        let user = User { gateway: free_port().await.expect("a port is free") };
        Stage { stand_ins, user }
    }

    /// A life of the first process of `role`, with these settings beside its own.
    pub fn start(&self, role: &str, settings: &[(&str, &str)]) -> Process {
        let mut environment: Environment = roles::environment(role, &format!("{role}-1"), &self.stand_ins.links);
        environment.insert("LYCHGATE_LISTEN".into(), self.user.gateway.to_string());
        environment.extend(settings.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        Process::start(role, &environment)
    }
}
