//! The health report of an agent. It waits for nothing, so it answers whatever is stuck; every gauge is counted at the
//! moment of the call.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::Agent;
use crate::limits;

pub(super) async fn health(State(agent): State<Arc<Agent>>) -> Json<Value> {
    let [history, history_bytes, history_limit, history_bytes_limit] = agent.history().size();
    let (sessions, sessions_limit) = {
        let order = agent.order();
        (order.len(), order.limit())
    };
    Json(json!({
        "status": "ok",
        "role": "agent",
        "agent": agent.config.agent,
        "epoch": agent.config.epoch,
        "subscription": agent.config.subscription.name,
        "draining": agent.draining.is_cancelled(),
        "threads": (agent.threads)(),
        "tasks": agent.tasks.len(),
        "runs": agent.runs(),
        "runs_limit": limits::AGENT_TURNS,
        "history": history,
        "history_limit": history_limit,
        "history_bytes": history_bytes,
        "history_bytes_limit": history_bytes_limit,
        "sessions": sessions,
        // One more for each turn that is going: such a session is not forgotten.
        "sessions_limit": sessions_limit,
    }))
}
