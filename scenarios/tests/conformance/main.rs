//! What `src` says to Redis, RabbitMQ and Postgres, said to the stand-ins and to the real servers: one body with two
//! arms, transcripts equal and kept under `snapshots/`. The arm of the stand-in runs always, on both runtimes; that of
//! the real server needs it installed and the production runtime, and `cargo sim conformance` runs it.
//!
//! `snapshots/conformance_shapes.snap` names whatever the bodies say. A scenario in which a process says anything else
//! fails: nobody would know whether the stand-in's answer is the real one.
#![allow(missing_docs)]

mod amqp;
mod arms;
#[cfg(not(madsim))]
mod foreign;
mod interleavings;
#[cfg(not(madsim))]
mod levers;
#[cfg(not(madsim))]
mod rabbit_random;
mod redis;
mod shapes;
mod statements;

use std::path::Path;

/// Compares with what is kept; a difference panics with a diff.
fn kept(name: &str, text: &str) {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace");
    insta::with_settings!({
        snapshot_path => workspace.join("snapshots"),
        prepend_module_to_snapshot => false,
        omit_expression => true,
    }, {
        insta::assert_snapshot!(format!("conformance_{name}"), text);
    });
}
