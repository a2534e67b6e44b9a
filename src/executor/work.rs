//! A run from its claim to its end: turns, each one call and one checkpoint. Whatever happens in between, even a panic,
//! the end that the run intends goes to `terminal`.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::call::Calls;
use super::commit::{after_stop, commit};
use super::terminal::{Settlement, Terminal};
use crate::backoff::Backoff;
use crate::ids::MessageId;
use crate::limits;
use crate::live::{Frames, Kind, Live};
use crate::provider::{Finish, Role, Said};
use crate::retry::retry;
use crate::run::{End, Intent, MessageState, Status, Stop};
use crate::store::{Checkpoint, Checkpoints, Claimed, Commit, Store, StoreError, Writing};

/// The outcome of a turn.
enum Turned {
    /// The turn is checkpointed; another one follows.
    More,
    /// The run has come to this end.
    Over(Intent),
}

/// The work on claimed runs.
pub(super) struct Worker {
    pub store: Store,
    pub checkpoints: Arc<Checkpoints>,
    pub live: Live,
    pub calls: Calls,
    pub terminal: Terminal,
    /// The longest that one claim of a run is worked on.
    pub run_max: Duration,
}

impl Worker {
    /// Works on a claimed run and sees it to its end.
    pub(super) async fn work(&self, claimed: &Claimed, mut stop: watch::Receiver<Option<Stop>>) -> Settlement {
        tracing::info!(run = %claimed.run, fence = claimed.fence.0, "working");
        let frames = Frames::new(self.live.redis(), &claimed.run, claimed.fence);
        let writing = watch::Sender::new(Writing::Nothing);
        let work = async {
            tokio::select! {
                biased;
                why = stopped(&mut stop) => after_stop(why, &writing).await,
                () = tokio::time::sleep(self.run_max) => Intent::End(End::failed("it took too long")),
                intent = self.turns(claimed, &frames, &writing) => intent,
                () = frames.run() => unreachable!("it writes until it is dropped"),
                () = self.keep_shown(claimed) => unreachable!("it goes on until it is dropped"),
            }
        };
        let intent = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(run = %claimed.run, "the run panicked");
            Intent::End(End::failed("an internal error"))
        });
        self.terminal.settle(claimed, intent, Some(&frames)).await
    }

    /// Shows the run in the live view as soon as Redis lets us, and renews its lease.
    async fn keep_shown(&self, claimed: &Claimed) {
        let Claimed { run, session, fence, .. } = claimed;
        let mut backoff = Backoff::default();
        while let Err(error) = self.live.show(limits::REDIS_HINT, session, run, *fence, Status::Running).await {
            tracing::debug!(%error, "a run is not shown yet");
            backoff.wait().await;
        }
        loop {
            if let Err(error) = self.live.lease(session, run, *fence).await {
                tracing::debug!(%error, "a lease was not renewed");
            }
            tokio::time::sleep(limits::LEASE_RENEWAL).await;
        }
    }

    async fn turns(&self, claimed: &Claimed, frames: &Frames, writing: &watch::Sender<Writing>) -> Intent {
        for turn in claimed.turns + 1..=limits::TURNS_PER_RUN {
            match self.turn(claimed, turn, frames, writing).await {
                Turned::More => {}
                Turned::Over(intent) => return intent,
            }
        }
        Intent::End(End::failed("the model did not come to an end"))
    }

    async fn turn(&self, claimed: &Claimed, turn: i64, frames: &Frames, writing: &watch::Sender<Writing>) -> Turned {
        let (said, unread) = match self.conversation(claimed).await {
            Ok(conversation) => conversation,
            Err(error) => return Turned::Over(Intent::End(End::failed(error.to_string()))),
        };
        let (answer, finish) = match self.calls.answer(claimed, turn, &said, frames).await {
            Ok(answered) => answered,
            Err(end) => return Turned::Over(Intent::End(end)),
        };
        let last = finish == Finish::Stop;
        let checkpoint = Checkpoint { claimed: claimed.clone(), turn, answer, last, consumed: unread };
        match commit(&self.checkpoints, checkpoint, writing).await {
            Ok(Commit::Done) => {}
            Err(StoreError::Closed) => return Turned::Over(Intent::HandBack),
            Ok(Commit::Fenced) => return Turned::Over(Intent::Nothing),
            Err(error) => return Turned::Over(Intent::End(End::failed(error.to_string()))),
        }
        frames.push(turn, Kind::TurnDone, "");
        tracing::info!(run = %claimed.run, turn, last, "checkpointed");
        if last { Turned::Over(Intent::End(End::completed())) } else { Turned::More }
    }

    /// The conversation so far, and which of this run's messages no turn has consumed. Waits for Postgres for as long
    /// as that takes: the heartbeat stops the run if it is lost meanwhile.
    async fn conversation(&self, claimed: &Claimed) -> Result<(Vec<Said>, Vec<MessageId>), StoreError> {
        let (messages, answers) = retry("a conversation", || self.store.conversation(&claimed.session)).await?;
        let unread =
            messages.iter().filter(|message| message.run == claimed.run && message.state == MessageState::Unread);
        let unread = unread.map(|message| message.message.clone()).collect();
        let users = messages.into_iter().filter(|message| message.state != MessageState::Reported);
        let mut said: Vec<(i64, Said)> =
            users.map(|message| (message.position, Said { role: Role::User, content: message.body })).collect();
        let answers = answers.into_iter();
        said.extend(answers.map(|answer| (answer.position, Said { role: Role::Assistant, content: answer.text })));
        said.sort_by_key(|(position, _)| *position);
        Ok((said.into_iter().map(|(_, said)| said).collect(), unread))
    }
}

/// Waits until the run is told to stop.
async fn stopped(stop: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match stop.wait_for(Option::is_some).await {
        Ok(stop) => stop.expect("waited for"),
        // Removed from the active runs: it is not ours.
        Err(_) => Stop::Fenced,
    }
}
