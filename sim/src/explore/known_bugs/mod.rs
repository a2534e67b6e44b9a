//! Historical bugs, put back one at a time into a copy of the tree: a judge is worth what it catches. The patches
//! say what must fire; a [`Workshop`] builds whatever binary shall be judged.

mod patch;
mod tree;
#[cfg(madsim)]
pub(crate) mod trial;
mod workshop;

use std::path::{Path, PathBuf};

use console::style;
use serde::Serialize;

pub use self::patch::KnownBug;
pub use self::workshop::{Recipe, Workshop};
use crate::plan::nearest;

/// What came of a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The patch no longer applies or builds.
    Stale,
    /// Nothing fired, or the clean tree fails as well.
    Missed,
    /// Something else fired.
    WrongInvariant,
    /// What was expected fired.
    Caught,
}

impl Verdict {
    /// As in a table, in colours where there are any.
    pub fn styled(self) -> String {
        let styled = match self {
            Verdict::Caught => style("caught").green(),
            Verdict::Missed => style("missed").red().bold(),
            Verdict::WrongInvariant => style("wrong_invariant").red().bold(),
            Verdict::Stale => style("stale").yellow().bold(),
        };
        styled.to_string()
    }
}

/// The patches in `folder`, by file name.
///
/// # Errors
/// One that cannot be read, and what is wrong with it.
pub fn load(folder: &Path) -> Result<Vec<KnownBug>, String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        KnownBug::parse(&path, &text)
    };
    paths.into_iter().map(read).collect()
}

/// The known bugs with these names; all without names.
///
/// # Errors
/// A name that none has, and what was probably meant.
pub fn chosen(bugs: Vec<KnownBug>, names: &[String]) -> Result<Vec<KnownBug>, String> {
    for name in names {
        if !bugs.iter().any(|bug| bug.name == *name) {
            let known: Vec<&str> = bugs.iter().map(|bug| bug.name.as_str()).collect();
            let hint = nearest(name, known.iter().copied()).map(|name| format!("; did you mean `{name}`?"));
            let (list, hint) = (known.join("`, `"), hint.unwrap_or_default());
            return Err(format!("unknown bug `{name}`: there are `{list}`{hint}"));
        }
    }
    Ok(bugs.into_iter().filter(|bug| names.is_empty() || names.contains(&bug.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_none_are_told_what_was_meant() {
        let bug = KnownBug::parse(Path::new("p.patch"), patch::tests::PATCH).unwrap();
        let says = chosen(vec![bug], &["swalowed-terminal".to_owned()]).unwrap_err();
        assert!(says.contains("did you mean `swallowed-terminal`?"), "{says}");
    }
}
