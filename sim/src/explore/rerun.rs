//! A run in a process that is started anew. Its one law: it shares nothing with the process that asks for it. Forks share
//! the addresses of their parent, and so hide whatever follows from addresses; a new process does not.

use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::explore::sweep::Running;
use crate::plan::seed::Seed;
use crate::trace::verdict::{Report, Verdict};
use crate::world::report::blank;

/// A second process.
pub(crate) struct Rerun {
    child: Child,
    said: PipeReader,
    handle: String,
    seed: u64,
    deadline: Instant,
}

impl Rerun {
    /// Runs `seed` of what `handle` names on the command line, for at most `wall_max`.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn begin(handle: &str, seed: u64, wall_max: Duration) -> io::Result<Rerun> {
        // What it says in trouble goes the same way as the report, which is the last line.
        let (said, mouth) = io::pipe()?;
        let child = Command::new(std::env::current_exe()?)
            .args(["one", handle, "--seed", &seed.to_string()])
            .stdin(Stdio::null())
            .stderr(mouth.try_clone()?)
            .stdout(mouth)
            .spawn()?;
        Ok(Rerun { child, said, handle: handle.to_owned(), seed, deadline: Instant::now() + wall_max })
    }

    fn failed(&self, why: String) -> Report {
        let why = format!("the second process failed: {why}");
        blank(&self.handle, Seed(self.seed), Verdict::Error, why)
    }

    /// What it says until it ends; `None` if that takes too long.
    fn hear(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut text = Vec::new();
        let mut buffer = [0; 1 << 16];
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let mut ready = libc::pollfd { fd: self.fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: `ready` is one pollfd, and lives through the call.
            match unsafe { libc::poll(&mut ready, 1, millis) } {
                0 => return Ok(None),
                -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                -1 => return Err(io::Error::last_os_error()),
                _ => match self.said.read(&mut buffer)? {
                    0 => return Ok(Some(text)),
                    read => text.extend_from_slice(&buffer[..read]),
                },
            }
        }
    }
}

impl Running for Rerun {
    fn fd(&self) -> RawFd {
        self.said.as_raw_fd()
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn finish(mut self) -> Report {
        let heard = self.hear();
        if !matches!(heard, Ok(Some(_))) {
            // It may have ended just now: then there is nothing to kill.
            let _ = self.child.kill();
        }
        let status = self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
        match heard {
            Ok(Some(text)) => {
                let text = String::from_utf8_lossy(&text);
                let line = text.lines().next_back().unwrap_or("it said nothing");
                serde_json::from_str(line).unwrap_or_else(|_| self.failed(format!("{line} ({status})")))
            }
            Ok(None) => self.failed("no report in time".to_owned()),
            Err(error) => self.failed(error.to_string()),
        }
    }

    fn abandon(mut self) {
        let _ = self.child.kill(); // as above
        let _ = self.child.wait();
    }
}
