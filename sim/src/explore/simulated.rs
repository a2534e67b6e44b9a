//! How cargo is told to build for the simulated runtime. A workspace has the same words behind its aliases in
//! `.cargo/config.toml`: with other words cargo would build all dependencies once more.

/// The words before the subcommand, without the directory that cargo builds in.
pub(crate) const SIMULATED: [&str; 4] =
    ["--config", "build.rustflags=['--cfg','madsim']", "--config", "profile.dev.opt-level=1"];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_aliases_of_this_workspace_say_the_same() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(".cargo/config.toml");
        let config: toml::Table = std::fs::read_to_string(path).unwrap().parse().unwrap();
        for alias in ["sim", "madsim"] {
            let words: Vec<&str> =
                config["alias"][alias].as_array().unwrap().iter().filter_map(|w| w.as_str()).collect();
            for word in SIMULATED {
                assert!(words.contains(&word), "the alias {alias} lacks {word}");
            }
        }
    }
}
