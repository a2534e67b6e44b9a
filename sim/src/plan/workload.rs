//! What the users of a product do, as its plans say it.

use std::fmt::Debug;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What users do: data, so that it can be printed, shrunk and replayed.
pub trait Workload: Clone + Debug + Default + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The labels of its sessions, for validating triggers.
    fn sessions(&self) -> Vec<String>;
    /// The names of its users, for validating link targets such as `ann->gateway-1`.
    fn users(&self) -> Vec<String>;
    /// How long its users are busy at least, in virtual time, if nothing goes wrong. Zero where that is not known.
    fn busy(&self) -> Duration {
        Duration::ZERO
    }
    /// Smaller workloads to try when a failing plan is shrunk, most drastic first.
    fn smaller(&self) -> Vec<Self>;
}
