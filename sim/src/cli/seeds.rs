//! Seeds as they are typed and as the environment gives them.

use super::Usage;

/// More seeds than a machine runs in a night are a slip of the finger.
const COUNT_MAX: u64 = 10_000_000;

/// Seeds from the first to the last, which is one of them: a range holds at least one seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Range {
    /// One seed.
    pub(super) fn only(seed: u64) -> Self {
        Range { first: seed, last: seed }
    }

    /// So many seeds from `first` on.
    pub(super) fn counted(first: u64, count: u64) -> Self {
        Range { first, last: first.saturating_add(count.clamp(1, COUNT_MAX) - 1) }
    }

    /// All of them.
    pub(super) fn seeds(self) -> Vec<u64> {
        (self.first..=self.last).collect()
    }
}

/// Reads `17`.
pub(super) fn one(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no seed: a seed is a whole number from 0, as in `--seed 17`"))
}

/// Reads `1..101`, `1..=100` or `17`.
pub(super) fn range(text: &str) -> Result<Range, String> {
    let wrong =
        || format!("`{text}` is no range of seeds: write the first and the one after the last, as in `--seeds 1..101`");
    let (first, last, excluded) = match text.split_once("..") {
        None => (text, text, 0),
        Some((first, last)) => match last.strip_prefix('=') {
            Some(last) => (first, last, 0),
            None => (first, last, 1),
        },
    };
    let (first, end) = (one(first).map_err(|_| wrong())?, one(last).map_err(|_| wrong())?);
    match end.checked_sub(excluded) {
        Some(last) if last >= first && last - first < COUNT_MAX => Ok(Range { first, last }),
        Some(last) if last >= first => {
            Err(format!("`{text}` are more than {COUNT_MAX} seeds; try fewer, as in `--seeds 1..1001`"))
        }
        _ => Err(format!("`{text}` holds no seed, the last one is excluded; try some, as in `--seeds 1..101`")),
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
        assert_eq!(range("1..101"), Ok(Range { first: 1, last: 100 }));
        assert_eq!(range("1..=100"), Ok(Range { first: 1, last: 100 }));
        assert_eq!(range("17"), Ok(Range { first: 17, last: 17 }));
        let end = u64::MAX;
        assert_eq!(range(&format!("{end}")).map(Range::seeds), Ok(vec![end]));
        for wrong in ["", "..", "1..", "5..5", "9..3", "0..0", "x", "1..=18446744073709551615"] {
            assert!(range(wrong).unwrap_err().contains("as in"), "{wrong}");
        }
        assert_eq!(Range::counted(end, 3).seeds(), [end]);
    }

    #[test]
    fn names_carry_seeds() {
        assert_eq!(named("swarm@17").ok(), Some(("swarm", Some(17))));
        assert_eq!(named("swarm").ok(), Some(("swarm", None)));
        assert!(named("swarm@x").unwrap_err().0.contains("swarm@17"));
    }
}
