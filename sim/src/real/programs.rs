//! The programs of real servers: which are needed, and whether they are here.

use std::path::PathBuf;

/// Each with the place beyond PATH where Debian has it, and its package.
const PROGRAMS: &[(&str, &str, &str)] = &[
    ("redis-server", "", "redis-server"),
    ("redis-cli", "", "redis-tools"),
    ("rabbitmq-server", "/usr/lib/rabbitmq/bin", "rabbitmq-server"),
    ("epmd", "", "rabbitmq-server"),
    ("initdb", "/usr/lib/postgresql", "postgresql"),
    ("postgres", "/usr/lib/postgresql", "postgresql"),
    ("psql", "", "postgresql-client"),
];

/// Whether all of them are here.
///
/// # Errors
/// What installs those that are missing.
pub fn installed() -> Result<(), String> {
    let mut missing: Vec<&str> =
        PROGRAMS.iter().filter(|(name, place, _)| !is_there(name, place)).map(|p| p.2).collect();
    missing.dedup();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("servers are missing; on Debian: apt-get install -y {}", missing.join(" ")))
}

/// In PATH, in `place`, or in the `bin` of a version there.
fn is_there(name: &str, place: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = std::fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let places = std::env::split_paths(&path).chain([PathBuf::from(place)]).chain(versions);
    places.into_iter().any(|place| place.join(name).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(is_there("sh", ""));
        assert!(!is_there("no-such-server", "/usr/lib/postgresql"));
    }
}
