//! Signals to a process, and its exit.

/// A signal to a process. It may come any number of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT: finish and exit.
    Terminate,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was finished or handed back.
    Clean,
    /// The process could not start, or could not finish.
    Failed,
}

impl Exit {
    /// The exit code: 0 or 1.
    pub fn code(self) -> i32 {
        match self {
            Exit::Clean => 0,
            Exit::Failed => 1,
        }
    }
}
