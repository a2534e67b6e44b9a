//! How plans and traces name things, and the only place that takes such a name apart: a process is `ROLE-NUMBER`
//! (`executor-1`), a container's `AGENT.SLOT` (`agent-1.2`), a link `NEAR->FAR` (`executor-1->redis`), a session `USER/NUMBER`
//! (`ann/1`), a run `SESSION#NUMBER` (`ann/1#2`). Users and services have names without a number.

/// What a process of the product is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `gateway-1`.
    Gateway,
    /// `executor-1`.
    Executor,
    /// `agent-1`, as an agent, or `agent-1.2`, as a container of it.
    Agent,
}

/// The role of a process; `None` for a user, a service or a link.
pub fn role(name: &str) -> Option<Role> {
    let roles = [("executor-", Role::Executor), ("gateway-", Role::Gateway), ("agent-", Role::Agent)];
    // Asked for every process at every event: no search for the arrow.
    roles.into_iter().find_map(|(prefix, role)| {
        let number = name.strip_prefix(prefix)?;
        number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.').then_some(role)
    })
}

/// The two ends of a link: the one that connects, and the one that it connects to.
pub fn ends(link: &str) -> Option<(&str, &str)> {
    link.split_once("->")
}

/// The end of a link that connects. Of any other target, the target.
pub fn near(target: &str) -> &str {
    ends(target).map_or(target, |(near, _)| near)
}

/// The end of a link that is connected to. Of any other target, the target.
pub fn far(target: &str) -> &str {
    ends(target).map_or(target, |(_, far)| far)
}

/// The user of a session or a run.
pub fn user_of(label: &str) -> &str {
    label.split('/').next().unwrap_or(label)
}

/// The session of a run.
pub fn session_of(label: &str) -> String {
    label.split('#').next().unwrap_or(label).to_string()
}

/// The agent that a container is of.
pub fn agent_of(container: &str) -> &str {
    container.split('.').next().unwrap_or(container)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_taken_apart_as_it_is_put_together() {
        assert_eq!(
            ["executor-1", "gateway-2", "agent-1.2"].map(role),
            [Some(Role::Executor), Some(Role::Gateway), Some(Role::Agent)]
        );
        assert_eq!(["ann", "redis", "executor-1->redis"].map(role), [None; 3]);
        assert_eq!((near("executor-1->redis"), far("executor-1->redis")), ("executor-1", "redis"));
        assert_eq!((near("redis"), far("redis")), ("redis", "redis"));
        assert_eq!(
            (user_of("ann/1#2"), session_of("ann/1#2").as_str(), agent_of("agent-1.2")),
            ("ann", "ann/1", "agent-1")
        );
    }
}
