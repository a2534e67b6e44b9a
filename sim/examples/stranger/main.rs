//! A stranger's service: fifteen lines of Python on redis-py, as a process, between the world's relays and a real Redis.
//! It links no Rust; what the world must know of it is in `till`, what goes wrong in `plan.toml`.
//!
//! ```sh
//! cargo run -p lychgate-sim --example stranger            # the plan
//! cargo run -p lychgate-sim --example stranger -- bug     # with the bug that such services have
//! ```

#[cfg(not(madsim))]
mod till;

/// Tells the story.
#[cfg(not(madsim))]
pub fn main() -> std::process::ExitCode {
    let Some(python) = till::python() else {
        eprintln!("python3 cannot `import redis`: {}", till::INSTALL);
        return std::process::ExitCode::from(2);
    };
    let report = till::tell(python, std::env::args().any(|word| word == "bug"));
    report.story.iter().for_each(|line| println!("  {line}"));
    report.because.iter().for_each(|because| println!("because: {because}"));
    println!("{:?} {}", report.verdict, report.breach.map(|breach| breach.says).unwrap_or_default());
    std::process::ExitCode::from(u8::try_from(report.verdict.exit_code()).unwrap_or(7))
}

/// In the simulation there is no Python.
#[cfg(madsim)]
pub fn main() {
    eprintln!("built for simulation; use `cargo run -p lychgate-sim --example stranger`");
}
