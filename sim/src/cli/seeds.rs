//! Seeds as they are typed and as the environment gives them.

use super::Usage;

/// Seeds from the first to before the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) end: u64,
}

/// Reads `17`.
pub(super) fn one(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no seed: a seed is a whole number from 0, as in `--seed 17`"))
}

/// Reads `1..101`, `1..=100` or `17`.
pub(super) fn range(text: &str) -> Result<Range, String> {
    let wrong =
        || format!("`{text}` is no range of seeds: write the first and the one after the last, as in `--seeds 1..101`");
    let (first, last, inclusive) = match text.split_once("..") {
        None => (text, text, true),
        Some((first, last)) => match last.strip_prefix('=') {
            Some(last) => (first, last, true),
            None => (first, last, false),
        },
    };
    let first = one(first).map_err(|_| wrong())?;
    let end = one(last).map_err(|_| wrong())?.checked_add(u64::from(inclusive)).ok_or_else(wrong)?;
    if first >= end {
        Err(format!("`{text}` holds no seed, as in `5..5`; try `--seeds 1..101`"))
    } else {
        Ok(Range { first, end })
    }
}

/// Splits `swarm@17` into the name and the seed.
pub(super) fn named(what: &str) -> Result<(&str, Option<u64>), Usage> {
    match what.rsplit_once('@') {
        None => Ok((what, None)),
        Some((name, seed)) => match seed.parse() {
            Ok(seed) => Ok((name, Some(seed))),
            Err(_) => Err(Usage(format!("`{seed}` is no seed: write NAME@SEED, as in `swarm@17`"))),
        },
    }
}

/// The first seed that the environment asks for.
pub(super) fn from_env() -> Result<Option<u64>, Usage> {
    Ok(number("SIM_SEED")?.or(number("MADSIM_TEST_SEED")?))
}

/// The number of seeds that the environment asks for.
pub(super) fn count_from_env() -> Result<Option<u64>, Usage> {
    match number("MADSIM_TEST_NUM")? {
        Some(0) => Err(Usage("MADSIM_TEST_NUM=0 asks for no run at all; as in `MADSIM_TEST_NUM=100`".to_owned())),
        count => Ok(count),
    }
}

fn number(name: &str) -> Result<Option<u64>, Usage> {
    match std::env::var(name) {
        Err(_) => Ok(None),
        Ok(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(Usage(format!("{name}=`{text}` is no whole number from 0; as in `{name}=17`"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_exclude_their_end() {
        assert_eq!(range("1..101"), Ok(Range { first: 1, end: 101 }));
        assert_eq!(range("1..=100"), Ok(Range { first: 1, end: 101 }));
        assert_eq!(range("17"), Ok(Range { first: 17, end: 18 }));
        for wrong in ["", "..", "1..", "5..5", "9..3", "x", "1..=18446744073709551615"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_carry_seeds() {
        assert_eq!(named("swarm@17").ok(), Some(("swarm", Some(17))));
        assert_eq!(named("swarm").ok(), Some(("swarm", None)));
        assert!(named("swarm@x").unwrap_err().0.contains("swarm@17"));
    }
}
