//! The tests of the simulated runtime, as one test of the production runtime: `cargo test` builds for production, and this
//! target has cargo build and run the workspace once more with `--cfg madsim`. What `cargo test` is asked for after its
//! own options (`cargo test swarm`, `cargo test -- --nocapture`) is asked of those tests too.

use std::path::Path;
use std::process::{Command, ExitCode};

/// Replaces the flags that the simulation needs, and so would switch it off.
const FLAGS: [&str; 4] = ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_TARGET_DIR"];

fn main() -> ExitCode {
    let asked: Vec<String> = std::env::args().skip(1).collect();
    // Of the simulated tests this is none, and a list of tests has only what can be run by its name.
    if cfg!(madsim) || asked.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["madsim", "test", "--"]).args(asked);
    FLAGS.iter().for_each(|name| _ = cargo.env_remove(name));
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
