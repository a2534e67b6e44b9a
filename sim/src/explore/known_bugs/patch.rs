//! A historical bug as a patch: a header that says what must catch it, and a unified diff. It is applied to texts, never
//! to a tree, so that the tree of the next one is clean whatever happened.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use diffy::patch_set::{FileOperation, ParseOptions, PatchSet};

/// One historical bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownBug {
    /// As in the table, and as the name of its binary.
    pub name: String,
    /// The incident that it is a variant of, in a few words.
    pub incident: String,
    /// What must fire: an invariant, or a verdict such as `no_progress`; any one of several.
    pub expected: Vec<String>,
    /// The scenarios that must catch it, tried in order.
    pub scenarios: Vec<String>,
    /// One sentence.
    pub about: String,
    /// The diff.
    pub diff: String,
}

/// Files by their path from the root of the tree, with their new text; `None` where one is deleted.
pub(super) type Edits = BTreeMap<PathBuf, Option<String>>;

const HEADER: &str = "a known bug begins with `# name:`, `# incident:`, `# expected:`, `# scenario:` and `# about:`";

impl KnownBug {
    /// Reads the patch file `text`.
    ///
    /// # Errors
    /// What is wrong with its header, with the line.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let mut fields: BTreeMap<&str, String> = BTreeMap::new();
        let mut header_bytes = 0;
        for (nth, line) in text.split_inclusive('\n').enumerate() {
            let Some(comment) = line.strip_prefix('#') else { break };
            header_bytes += line.len();
            let keyed =
                comment.strip_prefix(' ').filter(|text| !text.starts_with(' ')).and_then(|text| text.split_once(':'));
            let (key, value) = match keyed {
                Some((key, value)) if FIELDS.contains(&key) => (key, value.trim()),
                Some((key, _)) if !key.contains(' ') => {
                    let hint = crate::plan::nearest(key, FIELDS).map(|name| format!("; did you mean `{name}`?"));
                    let hint = hint.unwrap_or_default();
                    return Err(format!("{}:{}: unknown field `{key}`{hint}", path.display(), nth + 1));
                }
                // A long `about` goes on in lines without a key, best indented.
                _ => ("about", comment.trim()),
            };
            let field = fields.entry(key).or_default();
            *field = format!("{field} {value}").trim().to_owned();
        }
        let mut take = |key: &str| match fields.remove(key) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(format!("{}:1: `# {key}:` is missing: {HEADER}", path.display())),
        };
        let list =
            |text: String| text.split(',').map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect();
        let name = take("name")?;
        if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            let says = "a name is a file's name as well: letters, digits, `-` and `_`";
            return Err(format!("{}: `{name}`: {says}", path.display()));
        }
        Ok(KnownBug {
            name,
            incident: take("incident")?,
            expected: list(take("expected")?),
            scenarios: list(take("scenario")?),
            about: take("about")?,
            diff: text[header_bytes..].to_owned(),
        })
    }

    /// Whether it still applies to the tree at `root`.
    ///
    /// # Errors
    /// The file and the hunk that do not fit.
    pub fn applies(&self, root: &Path) -> Result<(), String> {
        self.apply(|path| std::fs::read_to_string(root.join(path))).map(drop)
    }

    /// The files that it changes, read through `read`, as they are after it.
    ///
    /// # Errors
    /// The file and hunk that no longer apply.
    pub(super) fn apply(&self, read: impl Fn(&Path) -> std::io::Result<String>) -> Result<Edits, String> {
        let git = self.diff.lines().any(|line| line.starts_with("diff --git "));
        let options = if git { ParseOptions::gitdiff() } else { ParseOptions::unidiff() };
        let mut edits = Edits::new();
        for file in PatchSet::parse(&self.diff, options) {
            let file = file.map_err(|error| format!("the diff is malformed: {error}"))?;
            let (from, to) = paths(file.operation());
            let patch = file.patch().as_text().ok_or("the diff has a binary part")?;
            let shown = to.as_ref().or(from.as_ref()).map(|path| path.display().to_string()).unwrap_or_default();
            let before = match &from {
                // A second diff of one file goes on where the first one ended.
                Some(path) => match edits.get(path) {
                    Some(Some(text)) => text.clone(),
                    Some(None) => return Err(format!("{shown}: an earlier part of the diff deletes it")),
                    None => read(path).map_err(|error| format!("{shown}: {error}"))?,
                },
                None => String::new(),
            };
            let after = diffy::apply(&before, patch).map_err(|error| does_not_apply(&shown, patch, &error))?;
            if let Some(path) = from {
                edits.insert(path, None);
            }
            if let Some(path) = to {
                edits.insert(path, Some(after));
            }
        }
        if edits.is_empty() { Err("the diff changes no file".to_owned()) } else { Ok(edits) }
    }
}

const FIELDS: [&str; 5] = ["name", "incident", "expected", "scenario", "about"];

fn does_not_apply(shown: &str, patch: &diffy::Patch<'_, str>, error: &diffy::ApplyError) -> String {
    let nth: Option<usize> = error.to_string().rsplit('#').next().and_then(|number| number.parse().ok());
    match nth.and_then(|nth| Some((nth, patch.hunks().get(nth.checked_sub(1)?)?))) {
        Some((nth, hunk)) => {
            format!("{shown}: hunk {nth} (line {} of the old file) does not apply", hunk.old_range().start())
        }
        None => format!("{shown}: {error}"),
    }
}

/// The file before and the file after, where there is one.
fn paths(operation: &FileOperation<'_, str>) -> (Option<PathBuf>, Option<PathBuf>) {
    let bare = |path: &str| {
        let stripped = path.strip_prefix("a/").or(path.strip_prefix("b/"));
        Some(PathBuf::from(stripped.unwrap_or(path)))
    };
    match operation {
        FileOperation::Delete(path) => (bare(path), None),
        FileOperation::Create(path) => (None, bare(path)),
        FileOperation::Modify { original, modified } => (bare(original), bare(modified)),
        FileOperation::Rename { from, to } => (bare(from), bare(to)),
        // What a copy comes from stays as it is; no diff of ours says it.
        FileOperation::Copy { to, .. } => (None, bare(to)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::explore::known_bugs) const PATCH: &str = "\
# name: swallowed-terminal
# incident: 000
# expected: no_zombies
# scenario: wedged_redis, dead_redis
# about: The only terminal write failed with Redis
#   and was swallowed.
diff --git a/src/run.rs b/src/run.rs
--- a/src/run.rs
+++ b/src/run.rs
@@ -1,3 +1,3 @@
 fn end() {
-    write()?;
+    let _ = write();
 }
diff --git a/src/new.rs b/src/new.rs
new file mode 100644
--- /dev/null
+++ b/src/new.rs
@@ -0,0 +1 @@
+fn extra() {}
diff --git a/src/old.rs b/src/old.rs
deleted file mode 100644
--- a/src/old.rs
+++ /dev/null
@@ -1 +0,0 @@
-fn old() {}
";

    fn bug() -> KnownBug {
        KnownBug::parse(Path::new("p.patch"), PATCH).unwrap()
    }

    fn tree(path: &Path) -> std::io::Result<String> {
        match path.to_str() {
            Some("src/run.rs") => Ok("fn end() {\n    write()?;\n}\n".into()),
            Some("src/old.rs") => Ok("fn old() {}\n".into()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    #[test]
    fn the_header_is_read() {
        let bug = bug();
        assert_eq!((bug.name.as_str(), bug.incident.as_str()), ("swallowed-terminal", "000"));
        assert_eq!(bug.expected, ["no_zombies"]);
        assert_eq!(bug.scenarios, ["wedged_redis", "dead_redis"]);
        assert_eq!(bug.about, "The only terminal write failed with Redis and was swallowed.");
    }

    #[test]
    fn a_header_that_lacks_something_says_what() {
        let parse = |text: &str| KnownBug::parse(Path::new("p.patch"), text).unwrap_err();
        assert!(parse("# name: x\n").contains("`# incident:` is missing"));
        let named = PATCH.replace("swallowed-terminal", "../x");
        assert!(parse(&named).contains("letters, digits"));
        assert!(parse("# nmae: x\n").contains("p.patch:1: unknown field `nmae`; did you mean `name`?"));
    }

    #[test]
    fn it_changes_creates_and_deletes() {
        let edits = bug().apply(tree).unwrap();
        let edited = |path: &str| edits[Path::new(path)].as_deref();
        assert_eq!(edited("src/run.rs"), Some("fn end() {\n    let _ = write();\n}\n"));
        assert_eq!(edited("src/new.rs"), Some("fn extra() {}\n"));
        assert_eq!(edited("src/old.rs"), None);
        assert_eq!(edits.len(), 3);
    }

    #[test]
    fn without_git_headers_it_applies_as_well() {
        let plain: String = PATCH
            .lines()
            .filter(|line| !line.starts_with("diff --git") && !line.contains("file mode"))
            .map(|line| format!("{line}\n"))
            .collect();
        let bug = KnownBug::parse(Path::new("p.patch"), &plain).unwrap();
        assert_eq!(bug.apply(tree).unwrap().len(), 3);
    }

    #[test]
    fn what_is_stale_names_file_and_hunk() {
        let moved = |_: &Path| Ok("fn end() {\n    write_twice()?;\n}\n".to_owned());
        assert_eq!(bug().apply(moved).unwrap_err(), "src/run.rs: hunk 1 (line 1 of the old file) does not apply");
        let gone = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        assert!(bug().apply(gone).unwrap_err().starts_with("src/run.rs: "));
    }
}
