//! The binary behind `cargo sim`.

use std::process::ExitCode;

/// A fifth of a run is spent on allocating: this one takes half of what the system's takes. No digest depends on it.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(madsim)]
fn main() -> ExitCode {
    lychgate_sim::cli::main::<lychgate_scenarios::Lychgate>(&lychgate_sim::cli::Built {
        manifest_dir: env!("CARGO_MANIFEST_DIR"),
        package: env!("CARGO_PKG_NAME"),
        binary: "sim",
        known_bugs: Some("scenarios/known-bugs"),
    })
}

#[cfg(not(madsim))]
fn main() -> ExitCode {
    eprintln!("built for the production runtime, on which nothing is simulated; use `cargo sim`");
    ExitCode::from(2)
}
