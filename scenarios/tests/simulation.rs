//! The tests of the simulated runtime, as one test of the production runtime: `cargo test` builds for production, and this
//! target has cargo build and run the workspace once more with `--cfg madsim`. What `cargo test` is asked for after its
//! own options (`cargo test swarm`, `cargo test -- --nocapture`) is asked of those tests too.

use std::path::Path;
use std::process::{Command, ExitCode};

/// How the variables begin that another cargo must not see: flags in place of those which the simulation needs, and what
/// `cargo test` tells its child about the package that it tests.
const HIDDEN: [&str; 9] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_TARGET",
    "CARGO_PKG_",
    "CARGO_MANIFEST",
    "CARGO_BIN",
    "CARGO_CRATE",
    "CARGO_PRIMARY",
];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    // Of the simulated tests this is none, and a list of tests has only what can be run by its name.
    if cfg!(madsim) || asked.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["madsim", "test", "--"]).args(asked);
    for (name, _) in std::env::vars_os() {
        if HIDDEN.iter().any(|hidden| name.to_string_lossy().starts_with(hidden)) {
            cargo.env_remove(name);
        }
    }
    println!("\nthe tests of the simulated runtime: cargo madsim test");
    match cargo.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo does not start: {error}");
            ExitCode::FAILURE
        }
    }
}
