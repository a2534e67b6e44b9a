//! Which known bugs are told outside of the simulation too, and with which story: `scenarios/real/known-bugs.toml`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use lychgate_sim::explore::known_bugs::{KnownBug, chosen};
use serde::Deserialize;

/// A scenario that is a file, and the seed that chooses among its alternatives.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Story {
    /// The scenario's name.
    pub name: String,
    /// The seed, if it is told.
    pub seed: Option<usize>,
}

impl FromStr for Story {
    type Err = String;

    /// `NAME` or `NAME@SEED`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, seed) = text.split_once('@').map_or((text, None), |(name, seed)| (name, Some(seed)));
        let seed = seed.map(|seed| seed.parse().map_err(|_| format!("`{text}`: `{seed}` is no seed; as in {name}@9")));
        Ok(Story { name: name.to_owned(), seed: seed.transpose()? })
    }
}

impl TryFrom<String> for Story {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seed {
            Some(seed) => write!(f, "{}@{seed}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

/// What the file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RealKnownBugs {
    /// The story in which each breaks what it must, by the bug's name.
    pub told: BTreeMap<String, Story>,
    /// Why others are not told, by the bug's name.
    pub untold: BTreeMap<String, String>,
}

impl RealKnownBugs {
    /// The file.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn load() -> RealKnownBugs {
        let text = include_str!("../../real/known-bugs.toml");
        toml::from_str(text).unwrap_or_else(|error| panic!("scenarios/real/known-bugs.toml: {error}"))
    }

    /// Of `bugs` those with these names, all that are told without names, each with its story.
    ///
    /// # Errors
    /// A name that none has, or that is not told, and why.
    pub fn choose(&self, bugs: Vec<KnownBug>, names: &[String]) -> Result<Vec<(KnownBug, Story)>, String> {
        for name in self.told.keys() {
            if !bugs.iter().any(|bug| bug.name == *name) {
                return Err(format!("scenarios/real/known-bugs.toml: scenarios/known-bugs has no `{name}`"));
            }
        }
        if let Some((name, why)) = names.iter().find_map(|name| self.untold.get_key_value(name)) {
            return Err(format!("`{name}` is not told outside: {why}"));
        }
        let bugs = bugs.into_iter().filter(|bug| self.told.contains_key(&bug.name)).collect();
        let bugs = chosen(bugs, names)?.into_iter();
        Ok(bugs.map(|bug| (self.told[&bug.name].clone(), bug)).map(|(story, bug)| (bug, story)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use lychgate_sim::explore::known_bugs::load;
    use lychgate_sim::plan::Alternatives;
    use lychgate_sim::world::product::{Product, Source};

    use super::*;
    use crate::Lychgate;

    fn bugs() -> Vec<KnownBug> {
        load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("known-bugs")).unwrap()
    }

    fn choose(names: &[&str]) -> Result<Vec<(KnownBug, Story)>, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        RealKnownBugs::load().choose(bugs(), &names)
    }

    #[test]
    fn every_bug_that_is_named_is_a_patch_and_every_story_a_file() {
        let told = RealKnownBugs::load();
        let all = choose(&[]).unwrap();
        assert_eq!(all.iter().map(|(bug, _)| &bug.name).collect::<Vec<_>>(), told.told.keys().collect::<Vec<_>>());
        for (bug, story) in all {
            let scenario = Lychgate::scenarios().into_iter().find(|scenario| scenario.name == story.name);
            let Some(Source::File { path, text }) = scenario.map(|scenario| scenario.source) else {
                panic!("{}: there is no file scenarios/stories/{}.toml", bug.name, story.name);
            };
            let alternatives = Alternatives::of(&path, &text).unwrap();
            assert!(story.seed.is_none_or(|seed| (1..=alternatives.count()).contains(&seed)), "{}: {story}", bug.name);
        }
        for name in told.untold.keys() {
            assert!(bugs().iter().any(|bug| bug.name == *name), "scenarios/known-bugs has no `{name}`");
            assert!(!told.told.contains_key(name), "`{name}` is told and not told");
        }
    }

    #[test]
    fn names_choose_and_what_is_not_told_says_why() {
        let chosen = choose(&["mark-only-after-timeout"]).unwrap();
        assert_eq!(chosen[0].1, Story { name: "sigkill_during_drain".into(), seed: Some(9) });
        assert_eq!(chosen[0].1.to_string(), "sigkill_during_drain@9");
        assert!(choose(&["switch-without-lock"]).unwrap_err().contains("two processes must meet"));
        assert!(choose(&["terminal-write-loss"]).unwrap_err().contains("did you mean `terminal-write-lost`?"));
    }

    #[test]
    fn a_bug_that_is_told_and_has_no_patch_is_named() {
        let others = bugs().into_iter().filter(|bug| bug.name != "pool-closed-under-run").collect();
        assert!(RealKnownBugs::load().choose(others, &[]).unwrap_err().contains("has no `pool-closed-under-run`"));
    }

    #[test]
    fn seeds_that_are_none_are_shown_how() {
        assert_eq!("calm".parse(), Ok(Story { name: "calm".into(), seed: None }));
        assert!("calm@x".parse::<Story>().unwrap_err().contains("as in calm@9"));
    }
}
