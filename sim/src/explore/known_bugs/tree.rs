//! The copy of the tree that bugs are put into. A file is written only if its text differs, so that a build after a patch
//! is a build of what the patch touches.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::patch::Edits;

/// Makes `copy` what `root` is with `edits` made to it.
pub(super) fn sync(root: &Path, copy: &Path, edits: &Edits) -> io::Result<()> {
    let mut wanted: BTreeSet<PathBuf> = BTreeSet::new();
    walk(root, Path::new(""), &mut wanted)?;
    for (path, text) in edits {
        match text {
            Some(text) => {
                wanted.remove(path);
                write(&copy.join(path), text.as_bytes())?;
            }
            None => _ = wanted.remove(path),
        }
    }
    for path in &wanted {
        write(&copy.join(path), &fs::read(root.join(path))?)?;
    }
    let mut present = BTreeSet::new();
    walk(copy, Path::new(""), &mut present)?;
    let kept = |path: &PathBuf| wanted.contains(path) || matches!(edits.get(path), Some(Some(_)));
    present.iter().filter(|path| !kept(path)).try_for_each(|path| fs::remove_file(copy.join(path)))
}

/// What `root` is with `edits` made to it, as a hash of every file that a build may read: texts about the tree, patches and
/// snapshots stay out.
pub(super) fn hash(root: &Path, edits: &Edits) -> io::Result<String> {
    let mut paths = BTreeSet::new();
    walk(root, Path::new(""), &mut paths)?;
    paths.extend(edits.keys().cloned());
    let told = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "md" || kind == "patch" || kind == "snap");
    let mut hash = Sha256::new();
    for path in paths.iter().filter(|path| !told(path)) {
        let text = match edits.get(path) {
            Some(None) => continue,
            Some(Some(text)) => text.clone().into_bytes(),
            None => fs::read(root.join(path))?,
        };
        for part in [path.as_os_str().as_encoded_bytes(), &text] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files under `at` in `root`. What begins with a dot stays out, Cargo's configuration too: the copy lies below the
/// tree, so Cargo finds the original, and would join the flags of both.
fn walk(root: &Path, at: &Path, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let dir = root.join(at);
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        let kind = entry.file_type()?;
        if hidden || (kind.is_dir() && name == "target") {
            continue;
        }
        let path = at.join(name);
        if kind.is_dir() {
            walk(root, &path, files)?;
        } else if kind.is_file() {
            files.insert(path);
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, bytes)
}

/// How the files begin that a build makes of the workspace's own packages.
pub(super) struct Own(Vec<String>);

impl Own {
    pub(super) fn new(packages: &[String], binary: &str) -> Own {
        let names = packages.iter().flat_map(|package| {
            let library = package.replace('-', "_");
            [format!("{package}-"), format!("{library}-"), format!("lib{library}-")]
        });
        Own(names.chain([format!("{binary}-")]).collect())
    }

    fn has(&self, file: &str) -> bool {
        self.0.iter().any(|prefix| file.starts_with(prefix))
    }
}

/// Gives the build in `to` what the build in `from` knows of dependencies, so that only the workspace's `own` packages are
/// built anew. Both are profile directories, as `target/release`. Nothing happens where there is no such build.
pub(super) fn share(from: &Path, to: &Path, own: &Own) -> io::Result<()> {
    // Cargo writes into fingerprints where they lie, so these are copied; the rest is written to new files.
    for (part, link) in [("deps", true), ("build", true), (".fingerprint", false)] {
        if from.join(part).is_dir() {
            give(&from.join(part), &to.join(part), link, own)?;
        }
    }
    Ok(())
}

fn give(from: &Path, to: &Path, link: bool, own: &Own) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if own.has(&name.to_string_lossy()) {
            continue;
        }
        let (near, far) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            give(&near, &far, link, own)?;
            continue;
        }
        let modified = entry.metadata()?.modified()?;
        if fs::metadata(&far).and_then(|known| known.modified()).is_ok_and(|known| known == modified) {
            continue;
        }
        _ = fs::remove_file(&far);
        if !link || fs::hard_link(&near, &far).is_err() {
            fs::copy(&near, &far)?;
            // Cargo tells what is fresh by these times.
            fs::File::options().write(true).open(&far)?.set_modified(modified)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::patch::KnownBug;
    use super::super::patch::tests::PATCH;
    use super::*;

    /// An empty directory of this test's own.
    fn fresh(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("sim-tree-{name}-{}", std::process::id()));
        _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn modified(path: PathBuf) -> std::time::SystemTime {
        fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn a_patched_copy_and_a_clean_one_again() {
        let dir = fresh("sync");
        let (root, copy) = (dir.join("root"), dir.join("copy"));
        for (path, text) in [
            ("Cargo.toml", "x"),
            ("src/run.rs", "fn end() {\n    write()?;\n}\n"),
            ("src/old.rs", "fn old() {}\n"),
            ("target/junk", "junk"),
            (".git/HEAD", "junk"),
        ] {
            write(&root.join(path), text.as_bytes()).unwrap();
        }
        let bug = KnownBug::parse(Path::new("p.patch"), PATCH).unwrap();
        let edits = bug.apply(|path| fs::read_to_string(root.join(path))).unwrap();
        sync(&root, &copy, &edits).unwrap();
        assert!(fs::read_to_string(copy.join("src/run.rs")).unwrap().contains("let _ = write()"));
        assert!(copy.join("src/new.rs").is_file() && !copy.join("src/old.rs").exists());
        assert!(!copy.join("target").exists() && !copy.join(".git").exists());
        let before = modified(copy.join("Cargo.toml"));
        sync(&root, &copy, &Edits::new()).unwrap();
        assert!(fs::read_to_string(copy.join("src/run.rs")).unwrap().contains("write()?"));
        assert!(!copy.join("src/new.rs").exists() && copy.join("src/old.rs").is_file());
        assert_eq!(modified(copy.join("Cargo.toml")), before, "what did not change is not written");
        // What is built of it is another with the bug; and the same, whatever is said about the tree.
        let (clean, buggy) = (hash(&root, &Edits::new()).unwrap(), hash(&root, &edits).unwrap());
        assert_ne!(clean, buggy);
        write(&root.join("README.md"), b"a word about it").unwrap();
        assert_eq!((hash(&root, &Edits::new()).unwrap(), hash(&root, &edits).unwrap()), (clean.clone(), buggy));
        write(&root.join("src/another.rs"), b"").unwrap();
        assert_ne!(hash(&root, &Edits::new()).unwrap(), clean);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn dependencies_are_shared_with_their_times() {
        let dir = fresh("share");
        let (from, to) = (dir.join("from"), dir.join("to"));
        for path in
            ["deps/libserde-1.rlib", "deps/libthe_shop-1.rlib", ".fingerprint/serde-1/dep", "build/ring-1/out/x"]
        {
            write(&from.join(path), b"x").unwrap();
        }
        let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let stamp = from.join(".fingerprint/serde-1/dep");
        fs::File::options().write(true).open(&stamp).unwrap().set_modified(old).unwrap();
        let own = Own::new(&["the-shop".to_owned()], "sim");
        share(&from, &to, &own).unwrap();
        share(&from, &to, &own).unwrap();
        assert!(to.join("deps/libserde-1.rlib").is_file() && to.join("build/ring-1/out/x").is_file());
        assert!(!to.join("deps/libthe_shop-1.rlib").exists());
        assert_eq!(modified(to.join(".fingerprint/serde-1/dep")), old);
        fs::remove_dir_all(dir).unwrap();
    }
}
