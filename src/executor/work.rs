//! A run from its claim to its end: turns, each one call and one checkpoint. Whatever happens in between, even a panic,
//! what the run itself knows of its end goes to `terminal`.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::sync::watch;

use super::Executor;
use super::terminal::Settlement;
use crate::backoff::Backoff;
use crate::ids::MessageId;
use crate::limits;
use crate::live::{Frames, Kind};
use crate::provider::{Finish, Role, Said};
use crate::run::{End, Intent, MessageState, Status, Stop};
use crate::store::{Checkpoint, Claimed, Commit, StoreError, Writing};

/// What a turn came to.
enum Turned {
    /// Checkpointed; another one follows.
    More,
    /// The run is at this end.
    Over(Intent),
}

impl Executor {
    /// Works on a claimed run and sees it to its end.
    pub(super) async fn work(&self, claimed: &Claimed, mut told: watch::Receiver<Option<Stop>>) -> Settlement {
        tracing::info!(run = %claimed.run, fence = claimed.fence.0, "working");
        let frames = Frames::new(self.live.redis(), &claimed.run, claimed.fence);
        let writing = watch::Sender::new(Writing::Nothing);
        let work = async {
            tokio::select! {
                biased;
                why = stopped(&mut told) => self.stopped_for(why, &writing).await,
                () = tokio::time::sleep(self.config.limits.run_max) => Intent::End(End::failed("it took too long")),
                intent = self.turns(claimed, &frames, &writing) => intent,
                () = frames.carry() => unreachable!("it carries until it is dropped"),
                () = self.keep_shown(claimed) => unreachable!("it goes on until it is dropped"),
            }
        };
        let intent = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(run = %claimed.run, "the run panicked");
            Intent::End(End::failed("an internal error"))
        });
        self.settle(claimed, intent, Some(&frames)).await
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
        let (answer, finish) = match self.answer(claimed, turn, &said, frames).await {
            Ok(answered) => answered,
            Err(end) => return Turned::Over(Intent::End(end)),
        };
        let last = finish == Finish::Stop;
        let checkpoint = Checkpoint { claimed: claimed.clone(), turn, answer, last, consumed: unread };
        match self.commit(checkpoint, writing).await {
            Ok(Commit::Done) => {}
            Err(StoreError::Closed) => return Turned::Over(Intent::HandBack),
            Ok(Commit::Fenced) => return Turned::Over(Intent::Nothing),
            Err(error) => return Turned::Over(Intent::End(End::failed(error.to_string()))),
        }
        frames.say(turn, Kind::TurnDone, "");
        tracing::info!(run = %claimed.run, turn, last, "checkpointed");
        if last { Turned::Over(Intent::End(End::completed())) } else { Turned::More }
    }

    /// What was said so far, and which of this run's messages nobody has consumed. Waits for Postgres: whether the run
    /// is still ours meanwhile is for the beats to say.
    async fn conversation(&self, claimed: &Claimed) -> Result<(Vec<Said>, Vec<MessageId>), StoreError> {
        let mut backoff = Backoff::default();
        let (messages, answers) = loop {
            match self.store.conversation(&claimed.session).await {
                Err(StoreError::Unavailable(why)) => tracing::warn!(why, "waiting for Postgres"),
                answered => break answered?,
            }
            backoff.wait().await;
        };
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
async fn stopped(told: &mut watch::Receiver<Option<Stop>>) -> Stop {
    match told.wait_for(Option::is_some).await {
        Ok(stop) => stop.expect("waited for"),
        // Off the desk: nobody can tell it anything any more, and it is not ours.
        Err(_) => Stop::Fenced,
    }
}
