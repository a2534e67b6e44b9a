//! Where bugs are put into a copy of the tree and a binary is built of it. One tree and one build serve all bugs, so that
//! each costs what its patch touches.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::patch::{Edits, KnownBug};
use super::tree;
use crate::explore::spinner::seconds;
use crate::explore::spinner::spinner;

/// What is built of a patched tree.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The name of the binary.
    pub binary: &'static str,
    /// The directory of its profile.
    pub profile: &'static str,
    /// What cargo is told; where to build, and to look for nothing in the network, is added.
    pub words: Vec<String>,
    /// The packages that are built anew with each bug; what is built of others is taken from the clean tree.
    pub own: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Workshop {
    /// The workspace.
    pub(super) root: PathBuf,
    /// The patched copy, the copy's build and what is kept of it lie here.
    home: PathBuf,
    recipe: Recipe,
}

/// What a finished step said.
pub(super) struct Said {
    pub(super) status: ExitStatus,
    /// Processor time of the step and of all that it has waited for.
    #[cfg_attr(not(madsim), expect(dead_code, reason = "nothing but a compiler is run there"))]
    pub(super) cpu_seconds: f64,
    #[cfg_attr(not(madsim), expect(dead_code, reason = "a compiler says nothing there, and nothing else is run"))]
    pub(super) out: String,
    pub(super) err: String,
}

impl Workshop {
    /// One in `home`, which lies below the target directory of the workspace `root`. It takes dependencies from `built`,
    /// the directory of a profile in which they have been built with the same flags.
    ///
    /// # Errors
    /// The directories cannot be made or filled.
    pub fn new(root: &Path, home: &Path, built: &Path, recipe: Recipe) -> io::Result<Self> {
        let workshop = Workshop { root: root.to_path_buf(), home: home.to_path_buf(), recipe };
        fs::create_dir_all(workshop.file("bin"))?;
        let Recipe { binary, profile, own, .. } = &workshop.recipe;
        tree::share(built, &workshop.target().join(profile), &tree::Own::new(own, binary))?;
        Ok(workshop)
    }

    /// The binary of a tree with `bug` in it. The inner error says where the patch no longer applies, or what the compiler
    /// said.
    ///
    /// # Errors
    /// The tree cannot be copied, or cargo not started.
    pub fn put_back(&self, bug: &KnownBug) -> io::Result<Result<PathBuf, String>> {
        match bug.apply(|path| fs::read_to_string(self.root.join(path))) {
            Ok(edits) => {
                let built = self.build(&bug.name, &edits)?;
                Ok(built.map_err(|says| format!("it applies and does not build\n{says}")))
            }
            Err(says) => Ok(Err(says)),
        }
    }

    /// The binary of the tree as it is.
    ///
    /// # Errors
    /// As of a patched one.
    #[cfg(not(madsim))]
    pub fn clean(&self) -> io::Result<Result<PathBuf, String>> {
        self.build("clean", &Edits::new())
    }

    /// A file of this workshop.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    fn target(&self) -> PathBuf {
        self.file("target")
    }

    /// Builds the tree with `edits` made to it and keeps its binary as `name`, unless one is kept that was built of the same.
    /// The inner error is what the compiler said.
    fn build(&self, name: &str, edits: &Edits) -> io::Result<Result<PathBuf, String>> {
        let kept = self.file("bin").join(name);
        let (source, built_of) = (self.file("bin").join(format!("{name}.source")), self.source(edits)?);
        if kept.is_file() && fs::read_to_string(&source).is_ok_and(|known| known == built_of) {
            return Ok(Ok(kept));
        }
        // Whatever happens from here on, what is kept is not of this source until it is whole.
        _ = fs::remove_file(&source);
        let tree = self.file("tree");
        tree::sync(&self.root, &tree, edits)?;
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args(&self.recipe.words)
            .args(["--offline", "--target-dir"])
            .arg(self.target())
            .current_dir(&tree)
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_TERM_COLOR", "never");
        // `cargo run` tells its child about the package that it runs; another cargo must not hear it.
        for (key, _) in std::env::vars_os() {
            let known = key.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST", "CARGO_BIN", "CARGO_CRATE", "CARGO_PRIMARY"]
                .iter()
                .any(|p| known.starts_with(p))
            {
                cargo.env_remove(&key);
            }
        }
        let said = self.step("build", &format!("{name}: building"), &mut cargo)?;
        if !said.status.success() {
            let first = said.err.lines().skip_while(|line| !line.starts_with("error"));
            return Ok(Err(first.take(6).collect::<Vec<_>>().join("\n")));
        }
        // A binary that still runs cannot be written to, but its name can be given to another.
        _ = fs::remove_file(&kept);
        fs::copy(self.target().join(self.recipe.profile).join(self.recipe.binary), &kept)?;
        fs::write(&source, built_of)?;
        Ok(Ok(kept))
    }

    /// What a binary is built of, as a hash: the tree with `edits` made to it, and what cargo is told.
    fn source(&self, edits: &Edits) -> io::Result<String> {
        let tree = tree::hash(&self.root, edits)?;
        Ok(format!("{tree} {}\n", self.recipe.words.join(" ")))
    }

    /// Runs `command` with its output in files of this workshop that begin with `kind`, saying `what` is going on. Steps of
    /// different kinds can go on at once.
    pub(super) fn step(&self, kind: &str, what: &str, command: &mut Command) -> io::Result<Said> {
        let (out, err) = (self.file(&format!("{kind}.stdout.log")), self.file(&format!("{kind}.stderr.log")));
        let child = command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?).spawn()?;
        let spinner = spinner(what);
        let began = Instant::now();
        let plain = !console::user_attended_stderr();
        let (status, cpu_seconds) = loop {
            if let Some(ended) = reaped(&child)? {
                break ended;
            }
            spinner.tick();
            std::thread::sleep(Duration::from_millis(20));
        };
        spinner.finish_and_clear();
        if plain {
            eprintln!("  {what}: {}", seconds(began.elapsed().as_secs_f64()));
        }
        let read = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Said { status, cpu_seconds, out: read(out)?, err: read(err)? })
    }
}

/// How `child` has ended and its processor time, once it has. It is waited for here, and nowhere else: what the system counts for
/// all children together would mix steps that go on at once.
fn reaped(child: &Child) -> io::Result<Option<(ExitStatus, f64)>> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: zeros are a valid rusage, both pointers are of live values, and the child is one that nobody has waited for.
    let (ended, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage), usage)
    };
    let of = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    match ended {
        0 => Ok(None),
        -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => Ok(None),
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(Some((ExitStatus::from_raw(status), of(usage.ru_utime) + of(usage.ru_stime)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_with_its_own_processor_time() {
        let spin = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; exit 3";
        let (busy, idle) = (Command::new("sh").args(["-c", spin]).spawn(), Command::new("sleep").arg("0.1").spawn());
        let ended = |child: Child| loop {
            if let Some(ended) = reaped(&child).unwrap() {
                break ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let ((busy, busy_seconds), (idle, idle_seconds)) = (ended(busy.unwrap()), ended(idle.unwrap()));
        assert_eq!((busy.code(), idle.code()), (Some(3), Some(0)));
        assert!(busy_seconds > 4.0 * idle_seconds, "{busy_seconds} s, {idle_seconds} s");
    }
}
