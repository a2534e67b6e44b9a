//! One plan, run outside of the simulation.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::plan::seed::Seed;
use crate::plan::{Plan, TargetKind};
use crate::trace::recorder::Recorder;
use crate::trace::verdict::{Report, Verdict};
use crate::world;
use crate::world::dispatcher::Dispatcher;
use crate::world::monitor::Monitor;
use crate::world::nemesis::Nemesis;
use crate::world::product::{Boot, Product, System};
use crate::world::report::{Lived, blank, build_report};
use crate::world::taps::{RealServer, RealWorld};

/// What a run outside of the simulation needs besides its plan.
pub struct Options {
    /// The real servers, by the name of the service whose stand-in each replaces. Their wire is listened to.
    pub servers: BTreeMap<&'static str, RealServer>,
    /// The command line of one life of a process, with its environment.
    pub command: Box<dyn Fn(&Boot) -> Command + Send + Sync>,
    /// Where to write the trace as JSON lines.
    pub trace: Option<PathBuf>,
    /// How long all of it may take.
    pub wall_max: Duration,
}

/// Why a plan cannot be run with these servers, if it cannot: a stand-in does what a fault of a service asks, a server not.
fn unfit<W>(plan: &Plan<W>, servers: &BTreeMap<&'static str, RealServer>) -> Option<String> {
    plan.faults.iter().enumerate().find_map(|(index, fault)| {
        let inside = |target: &String| match fault.kind.target {
            TargetKind::Service => Some(target.clone()),
            TargetKind::Caller => target.split_once('/').map(|(service, _)| service.to_owned()),
            _ => None,
        };
        let mut inside = fault.targets.iter().filter_map(inside);
        let real = inside.find(|service| servers.contains_key(service.as_str()))?;
        let (number, kind) = (index + 1, fault.kind.word());
        Some(format!(
            "fault {number}: nothing here does `{kind}` to a real {real}; its stand-in can, so leave it in place"
        ))
    })
}

/// Runs a plan with processes, signals, sockets and seconds of this machine, on this thread. A verdict is strict: what
/// proves nothing is vacuous.
pub fn run<P: Product>(scenario: &str, plan: &Plan<P::Workload>, options: Options) -> Report {
    let began = Instant::now();
    let seed = Seed(1);
    let Options { servers, command, trace, wall_max } = options;
    if let Some(why) = unfit(plan, &servers) {
        return blank(scenario, seed, Verdict::Error, why);
    }
    let recorder = match Recorder::new(trace.as_deref(), scenario, seed.0) {
        Ok(recorder) => recorder,
        Err(error) => return blank(scenario, seed, Verdict::Error, format!("the trace cannot be written: {error}")),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return blank(scenario, seed, Verdict::Error, format!("no runtime: {error}")),
    };
    let slot = OnceLock::new();
    let lived = runtime.block_on(async {
        let System { actors, judges } = System::of::<P>(plan, seed);
        let nemesis = Nemesis::new(&plan.faults, actors.links(&plan.topology));
        let monitor = Monitor::new(recorder, nemesis, judges.invariants, judges.reader, judges.moments);
        let dispatcher = slot.get_or_init(|| Dispatcher::new(monitor, RealWorld::new(servers, command))).clone();
        let lived = tokio::time::timeout(wall_max, world::live(dispatcher.clone(), actors, plan, seed)).await;
        dispatcher.look(|monitor| monitor.close());
        lived.unwrap_or_else(|_| vec![format!("it has not ended after {} s", wall_max.as_secs())])
    });
    // With its tasks the processes end, and with the stand-ins' tasks what they have kept.
    drop(runtime);
    let dispatcher: &Arc<Dispatcher<P::Event>> = slot.get().expect("it was made before anything lived");
    let mut report = build_report(dispatcher, scenario, plan, seed, true, Lived::Settled(lived));
    report.wall_seconds = began.elapsed().as_secs_f64();
    report
}
