//! The binary behind `cargo sim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    lychgate_sim::cli::main::<lychgate_scenarios::Lychgate>(env!("CARGO_MANIFEST_DIR"))
}
