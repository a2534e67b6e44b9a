//! The workspace that the command line works in: it reads patches there and writes findings there. Its one law: the tree in
//! which somebody types a command wins over the one that the binary was built in, which may have been moved or copied.

use std::path::{Path, PathBuf};

/// How the binary of a product's command line was built.
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// CARGO_MANIFEST_DIR of its package, as an absolute path.
    pub manifest_dir: &'static str,
    /// The name of its package.
    pub package: &'static str,
    /// The name of the binary.
    pub binary: &'static str,
    /// The directory of its known bugs, from the workspace's root; `None` if it keeps none.
    pub known_bugs: Option<&'static str>,
}

/// A workspace that has the package.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) root: PathBuf,
    pub(super) built: Built,
}

impl Workspace {
    /// The nearest one above the current directory, or else where the binary was built, if that still exists, or else the
    /// current directory.
    pub(super) fn find(built: &Built) -> Workspace {
        let here = std::env::current_dir().unwrap_or_default();
        let root = find(&here, built.package).or_else(|| find(Path::new(built.manifest_dir), built.package));
        Workspace { root: root.unwrap_or(here), built: *built }
    }

    /// The names of the workspace's own packages.
    pub(super) fn packages(&self) -> Vec<String> {
        let lock = std::fs::read_to_string(self.root.join("Cargo.lock")).unwrap_or_default();
        own(&lock)
    }
}

fn find(from: &Path, package: &str) -> Option<PathBuf> {
    let has = |dir: &&Path| {
        std::fs::read_to_string(dir.join("Cargo.lock")).is_ok_and(|lock| own(&lock).iter().any(|name| name == package))
    };
    from.ancestors().find(has).map(Path::to_path_buf)
}

/// The packages of a lock file that come from no registry: those of the workspace.
fn own(lock: &str) -> Vec<String> {
    let mut own = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let value = |key: &str| package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = "));
        let name = value("name").map(|name| name.trim_matches('"').to_owned());
        own.extend(name.filter(|_| value("source").is_none()));
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1\"\nsource = \"registry+x\"\n\n\
                        [[package]]\nname = \"shop\"\nversion = \"0\"\ndependencies = [\n \"serde\",\n]\n";

    #[test]
    fn what_comes_from_no_registry_is_the_workspaces_own() {
        assert_eq!(own(LOCK), ["shop"]);
    }

    #[test]
    fn a_copied_tree_is_its_own_workspace() {
        let dir = std::env::temp_dir().join(format!("sim-workspace-{}", std::process::id()));
        let (first, copy) = (dir.join("first"), dir.join("copy"));
        for tree in [&first, &copy] {
            std::fs::create_dir_all(tree.join("shop/src")).unwrap();
            std::fs::write(tree.join("Cargo.lock"), LOCK).unwrap();
        }
        assert_eq!(find(&copy.join("shop/src"), "shop"), Some(copy.clone()));
        assert_eq!(find(&copy, "other"), None, "a workspace of somebody else's is not ours");
        std::fs::remove_dir_all(&first).unwrap();
        assert_eq!(find(&first.join("shop"), "shop"), None, "what was moved away is not written to");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
