//! Another service in the same world, small enough to copy: orders come in over TCP, wait in RabbitMQ and are counted in
//! Redis, each once; a receipt of each is kept in an object store.
//!
//! ```sh
//! cargo run -p lychgate-sim --example tally                               # every scenario on a handful of seeds
//! cargo run -p lychgate-sim --example tally -- run swarm --seeds 1..101
//! cargo run -p lychgate-sim --example tally -- replay killed_between@1
//! ```
//!
//! The service is `till`, `worker`, `count`, `receipts` and `amqp`: they would run in production as they stand, and know of no
//! simulation. The binding is the rest; read it in this order:
//!
//! 1. `product`: the processes, the stand-ins that they talk to, how each boots;
//! 2. `customers`: who uses it, as data that a plan can print and shrink;
//! 3. `events`: what happened, as the judge sees it, read from what RabbitMQ and Redis did;
//! 4. `counted_once` and `receipted`: what must hold;
//! 5. `scenarios/` and `swarm`: what goes wrong, written down or drawn from the seed;
//! 6. `objects`: a stand-in of its own, for a service that the world does not bring along.

#[cfg(madsim)]
mod amqp;
#[cfg(madsim)]
mod count;
#[cfg(madsim)]
mod counted_once;
#[cfg(madsim)]
mod customers;
#[cfg(madsim)]
mod events;
#[cfg(madsim)]
mod objects;
#[cfg(madsim)]
mod product;
#[cfg(madsim)]
mod receipted;
#[cfg(madsim)]
mod receipts;
#[cfg(madsim)]
mod swarm;
#[cfg(madsim)]
mod till;
#[cfg(madsim)]
mod worker;

/// The command line is the world's own; all it needs is the product.
#[cfg(madsim)]
pub fn main() -> std::process::ExitCode {
    lychgate_sim::cli::main::<product::Tally>(&lychgate_sim::cli::Built {
        manifest_dir: env!("CARGO_MANIFEST_DIR"),
        package: env!("CARGO_PKG_NAME"),
        binary: "tally",
        known_bugs: None,
    })
}

/// On the production runtime nothing is simulated.
#[cfg(not(madsim))]
pub fn main() {
    eprintln!("built for the production runtime, on which nothing is simulated; build it with `--cfg madsim`");
}
