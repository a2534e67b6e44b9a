//! A process of the binary, and what it logs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use lychgate::config::Environment;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use crate::{PAUSE, SOON};

/// Killed when it is dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    pub fn start(role: &str, environment: &Environment) -> Self {
        let mut child = binary(&[role], environment).stdout(Stdio::piped()).spawn().expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let log = Arc::<Mutex<Vec<Value>>>::default();
        let keep = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stdout.lines() {
                let line = line.expect("text");
                let line = serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line}"));
                keep.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Process { child, log, reader: Some(reader) }
    }

    pub fn terminate(&self) {
        let pid = self.child.id().try_into().expect("a pid");
        // SAFETY: it only sends a signal. The child has not been waited for, so the pid is still its own.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// SIGKILL, and its end.
    pub fn kill(mut self) {
        assert!(self.child.try_wait().expect("it is ours").is_none(), "it has ended before: {:?}", self.log);
        self.child.kill().expect("it is ours");
        self.child.wait().expect("it is ours");
    }

    /// Every line so far that says `message`, with its fields.
    pub fn lines(&self, message: &str) -> Vec<Value> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.iter().filter(|line| line["message"] == message).cloned().collect()
    }

    /// Waits until it says `message`.
    pub async fn says(&self, message: &str) {
        let said = async {
            while self.lines(message).is_empty() {
                sleep(PAUSE).await;
            }
        };
        timeout(SOON, said).await.unwrap_or_else(|_| panic!("it does not say `{message}`: {:?}", self.log));
    }

    /// Waits for its exit, and gives what it said in its life.
    pub async fn exit(mut self) -> (ExitStatus, Vec<String>) {
        let exits = async {
            loop {
                if let Some(status) = self.child.try_wait().expect("it is ours") {
                    return status;
                }
                sleep(PAUSE).await;
            }
        };
        let status = timeout(SOON, exits).await.expect("it exits by itself");
        self.reader.take().expect("nobody took it").join().expect("its lines are JSON");
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        (status, log.iter().map(|line| line["message"].as_str().unwrap_or_default().to_string()).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has usually ended; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary(words: &[&str], environment: &Environment) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lychgate"));
    command.args(words).env_clear().envs(environment);
    command
}

/// What the binary says of wrong words or settings, before it ends by itself.
pub fn says(words: &[&str], environment: &Environment) -> Output {
    let mut command = binary(words, environment);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let patience = Instant::now() + SOON;
    while child.try_wait().expect("it is ours").is_none() {
        if Instant::now() > patience {
            child.kill().expect("it is ours");
            panic!("{words:?} started something: {:?}", child.wait_with_output());
        }
        std::thread::sleep(PAUSE);
    }
    child.wait_with_output().expect("it has ended")
}
