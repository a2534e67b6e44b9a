//! What runs containers: a container engine asks a runner for a process, and the runner makes one, of the world or of a
//! task on loopback.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Shared};

use crate::plan::FaultRow;
use crate::trace::fault::FaultKind;

/// The first port that is published, as Docker takes them from Linux's range of ephemeral ports.
pub const FIRST_PUBLISHED: u16 = 32768;
/// The exit code of what SIGKILL ended, as a shell tells it.
pub const KILLED: i32 = 137;

/// A container that is started hangs before it does anything, until the fault heals.
pub static NOT_READY: FaultRow = FaultRow {
    kind: FaultKind { word: "not_ready", struck: Some("what {} starts hangs"), ..FaultRow::SERVICE.kind },
    help: "what is started hangs until the fault heals",
    ..FaultRow::SERVICE
};

/// A container as it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// 64 lower-case hex digits.
    pub id: String,
    /// Without the slash that Docker shows before it.
    pub name: String,
    /// What it is made of; the stand-in has every image.
    pub image: String,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The port on which it listens inside.
    pub port: u16,
}

/// What runs containers. Its answer is a message for Docker's 500 if the container cannot start.
pub struct Runner(pub Box<dyn Fn(Spec) -> BoxFuture<'static, Result<Running, String>> + Send + Sync>);

/// A container that runs. Clones are the same one.
#[derive(Clone)]
pub struct Running {
    /// The process that it is, as the world calls it.
    pub process: String,
    /// The port of the host at which its own is reached.
    pub published: u16,
    /// Where its port is reached from inside, for the health probe.
    pub inside: SocketAddr,
    /// The exit code once it has ended. (Not tokio's `watch`: it wakes waiters in an order that no seed rules.)
    pub exit: Shared<BoxFuture<'static, i32>>,
    /// SIGTERM.
    pub terminate: Arc<dyn Fn() + Send + Sync>,
    /// SIGKILL.
    pub kill: Arc<dyn Fn() + Send + Sync>,
}
