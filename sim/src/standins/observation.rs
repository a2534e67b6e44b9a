//! What a stand-in or a process shows to the outside. The judge sees nothing else.
//!
//! A stand-in calls its [`Tap`] once for each thing that it did, after it took effect and before the answer leaves. Each
//! stand-in has a type of its own for that; all of them travel in one envelope, [`Observation`].

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Where a stand-in says what it did. Called in the order in which things took effect.
pub type Tap = Arc<dyn Fn(Observation) + Send + Sync>;

/// A tap for stand-ins that nobody watches, as on loopback.
pub fn untapped() -> Tap {
    Arc::new(|_| {})
}

/// A type of what a stand-in does or sees.
pub trait Observed: Any + fmt::Debug + Send + Sync {
    /// The connection that it is about, as the stand-in sees its other end; `None` if it is about none.
    fn peer(&self) -> Option<SocketAddr>;

    /// The fault of the service that has changed an answer, if this says that one has.
    fn fault_felt(&self) -> Option<FaultFelt> {
        None
    }
}

/// One thing that a stand-in did, or that a process logged.
pub struct Observation {
    /// The service, as in `executor-1->redis`: the world writes it in. Empty of what a process logged.
    pub service: &'static str,
    what: Box<dyn Observed>,
}

impl<T: Observed> From<T> for Observation {
    fn from(what: T) -> Observation {
        Observation { service: "", what: Box::new(what) }
    }
}

impl fmt::Debug for Observation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl Observation {
    /// The same, of this service.
    pub(crate) fn at(self, service: &'static str) -> Observation {
        Observation { service, ..self }
    }

    /// What was observed, if it is of this type.
    pub fn of<T: Observed>(&self) -> Option<&T> {
        let what: &dyn Any = &*self.what;
        what.downcast_ref()
    }

    /// What was observed, taken out of its envelope.
    ///
    /// # Errors
    /// The observation, if it is of another type.
    pub fn take<T: Observed>(self) -> Result<T, Observation> {
        if self.of::<T>().is_none() {
            return Err(self);
        }
        let what: Box<dyn Any> = self.what;
        Ok(*what.downcast().expect("its type was looked at"))
    }

    /// The connection that it is about, as the stand-in sees its other end.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.what.peer()
    }

    /// The fault of the service that has changed an answer, if this says that one has.
    pub fn fault_felt(&self) -> Option<FaultFelt> {
        self.what.fault_felt()
    }
}

/// A fault of a service that a caller has felt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultFelt {
    /// The fault, by its word in plans.
    pub fault: &'static str,
    /// The name with which the caller authenticates, if the fault is one of `SERVICE/NAME`.
    pub caller: Option<String>,
    /// Bytes of the request, or what is known of it: enough to find out whom it was about.
    pub request: Vec<u8>,
}

/// The peer of what suffered without having been asked for.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A request that was answered otherwise than by a healthy service.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultObserved {
    /// The connection, as the stand-in sees its other end.
    pub peer: SocketAddr,
    /// The service, as `redis`.
    pub service: &'static str,
    /// What ails it, as plans say it.
    pub ailment: &'static str,
    /// Bytes of the request, or what is known of it: enough to find out whom it was about.
    pub request: Vec<u8>,
}

impl Observed for FaultObserved {
    fn peer(&self) -> Option<SocketAddr> {
        Some(self.peer)
    }

    fn fault_felt(&self) -> Option<FaultFelt> {
        Some(FaultFelt { fault: self.ailment, caller: None, request: self.request.clone() })
    }
}

/// A `tracing` event of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// The process that logged.
    pub process: String,
    /// The incarnation, counted by the world from 1.
    pub incarnation: u32,
    /// `ERROR`, `WARN`, `INFO`, …
    pub level: &'static str,
    /// The message.
    pub message: String,
    /// The fields, as text.
    pub fields: BTreeMap<String, String>,
}

impl Observed for Log {
    fn peer(&self) -> Option<SocketAddr> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_gives_out_what_was_put_in_and_nothing_else() {
        let fault = FaultObserved { peer: NOBODY, service: "redis", ailment: "full", request: b"SET k".to_vec() };
        let observation = Observation::from(fault.clone());
        assert_eq!(observation.peer(), Some(NOBODY));
        assert_eq!(observation.fault_felt().map(|felt| (felt.fault, felt.caller)), Some(("full", None)));
        assert!(observation.of::<Log>().is_none());
        let observation = observation.take::<Log>().expect_err("it is no line of a log");
        assert_eq!(observation.take::<FaultObserved>().expect("it is one"), fault);
    }
}
