//! What requests do. Its one law: what changes one container is done by one request at a time, and is finished though
//! the client hangs up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::faults::{FAILED_CREATE, NOT_READY, SLOW_STOP, STALE_HANDLE};
use super::http::{Answer, Wanted};
use super::store::State;
use super::{Engine, Failure, Spec, Verb};

impl Engine {
    /// Carries a request out, or fails it if it was told to.
    pub(super) async fn answer(&self, wanted: Wanted, peer: SocketAddr) -> Answer {
        if let Some(failure) = self.failure(wanted.verb()) {
            return match failure {
                Failure::Refused(message) => Answer::error(StatusCode::INTERNAL_SERVER_ERROR, message),
                Failure::Garbage => Answer::Garbage,
            };
        }
        let done = match wanted {
            Wanted::Create { name, created } => self.create(&name, created, peer),
            Wanted::Start { who } => self.start(&who, peer).await,
            Wanted::Stop { who, grace } => self.stop(&who, grace, peer).await,
            Wanted::Remove { who, force } => self.remove(&who, force, peer).await,
            Wanted::Inspect { who } => {
                self.store().find(&who).map(|it| Answer::json(it.inspected())).ok_or_else(|| nobody(&who))
            }
            Wanted::List { all, labels } => Ok(Answer::json(self.list(all, &labels))),
        };
        done.unwrap_or_else(|refusal| refusal)
    }

    fn failure(&self, verb: Verb) -> Option<Failure> {
        self.store().failures.get_mut(&verb)?.pop_front()
    }

    fn create(&self, name: &str, created: Result<super::http::Created, String>, peer: SocketAddr) -> Done {
        let mut store = self.store();
        let created = created.map_err(|message| Answer::error(StatusCode::BAD_REQUEST, message))?;
        if let Some(taken) = store.named(name) {
            let message = format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{}\". You have to remove \
                 (or rename) that container to be able to reuse that name.",
                taken.spec.id
            );
            return Err(Answer::error(StatusCode::CONFLICT, message));
        }
        let super::http::Created { image, env, labels, port } = created;
        if store.faults.fails_create() {
            store.suffer(&FAILED_CREATE, &labels, peer);
            let id = store.mint();
            let message = format!("mkdir /var/lib/docker/overlay2/{id}-init: no space left on device");
            return Err(Answer::error(StatusCode::INTERNAL_SERVER_ERROR, message));
        }
        let id = store.create(|id| Spec { id, name: name.to_owned(), image, env, labels, port }, peer);
        Ok(Answer::Json(StatusCode::CREATED, json!({"Id": id, "Warnings": []})))
    }

    async fn start(&self, who: &str, peer: SocketAddr) -> Done {
        let (spec, _turn) = self.take_turn(who, Verb::Start, peer).await?;
        if self.store().find(&spec.id).is_some_and(|container| container.running().is_some()) {
            return Ok(Answer::Empty(StatusCode::NOT_MODIFIED));
        }
        let (id, labels) = (spec.id.clone(), spec.labels.clone());
        let runner = self.inner.runner.get().expect("the container engine was given no runner: call run_with");
        let running = (runner.0)(spec).await;
        let running = running.map_err(|message| Answer::error(StatusCode::INTERNAL_SERVER_ERROR, message))?;
        let start = {
            let mut store = self.store();
            if store.faults.hangs() {
                store.suffer(&NOT_READY, &labels, peer);
            }
            store.started(&id, running, peer)
        };
        self.tend(id, start);
        Ok(Answer::Empty(StatusCode::NO_CONTENT))
    }

    async fn stop(&self, who: &str, grace: Duration, peer: SocketAddr) -> Done {
        let (Spec { id, labels, .. }, _turn) = self.take_turn(who, Verb::Stop, peer).await?;
        let (running, start, extra, slow) = {
            let mut store = self.store();
            let container = store.get_mut(&id).expect("its turn is held");
            let start = container.start;
            let State::Running { running, stopped_by, .. } = &mut container.state else {
                return Ok(Answer::Empty(StatusCode::NOT_MODIFIED));
            };
            *stopped_by = Some(peer);
            let running = running.clone();
            let slow = store.faults.slow_stop();
            if slow.is_some() {
                store.suffer(&SLOW_STOP, &labels, peer);
            }
            (running, start, std::mem::take(&mut store.stop_extra), slow)
        };
        if slow.is_none() {
            (running.terminate)();
        }
        let code = tokio::select! {
            biased;
            code = running.exit.clone() => code,
            // Nobody kills it then: the next life of the engine only finds it running, or not.
            () = self.inner.dies.notified() => {
                return Err(Answer::error(StatusCode::SERVICE_UNAVAILABLE, "the daemon is shutting down"));
            }
            () = tokio::time::sleep(grace + slow.unwrap_or_default()) => {
                (running.kill)();
                running.exit.clone().await
            }
        };
        self.store().ended(&id, start, code);
        if !extra.is_zero() {
            tokio::time::sleep(extra).await;
        }
        Ok(Answer::Empty(StatusCode::NO_CONTENT))
    }

    async fn remove(&self, who: &str, force: bool, peer: SocketAddr) -> Done {
        let (Spec { id, .. }, _turn) = self.take_turn(who, Verb::Remove, peer).await?;
        let alive = self.store().find(&id).and_then(|it| Some((it.running()?.clone(), it.start)));
        if let Some((running, start)) = alive {
            if !force {
                let message = format!(
                    "You cannot remove a running container {id}. Stop the container before attempting removal or \
                     force remove"
                );
                return Err(Answer::error(StatusCode::CONFLICT, message));
            }
            (running.kill)();
            let code = running.exit.clone().await;
            self.store().ended(&id, start, code);
        }
        self.store().remove(&id, peer);
        Ok(Answer::Empty(StatusCode::NO_CONTENT))
    }

    fn list(&self, all: bool, labels: &[String]) -> Value {
        let store = self.store();
        let shown = store.newest_first().into_iter().filter(|container| {
            let has = |label: &String| match label.split_once('=') {
                Some((key, value)) => container.spec.labels.get(key).is_some_and(|is| is == value),
                None => container.spec.labels.contains_key(label),
            };
            (all || container.running().is_some()) && labels.iter().all(has)
        });
        shown.map(super::store::Container::listed).collect()
    }

    /// Waits until nobody else changes the container.
    async fn take_turn(&self, who: &str, verb: Verb, peer: SocketAddr) -> Result<(Spec, OwnedMutexGuard<()>), Answer> {
        let (spec, turn) = {
            let mut store = self.store();
            let container = store.find(who).ok_or_else(|| nobody(who))?;
            let (spec, turn) = (container.spec.clone(), Arc::clone(&container.turn));
            // By its name it is found.
            if who == spec.id && store.faults.denies(verb, who) {
                store.suffer(&STALE_HANDLE, &spec.labels, peer);
                return Err(nobody(who));
            }
            (spec, turn)
        };
        let turn = turn.lock_owned().await;
        // It may have been removed meanwhile.
        match self.store().find(&spec.id) {
            Some(_) => Ok((spec, turn)),
            None => Err(nobody(who)),
        }
    }
}

/// The answer, or the refusal.
type Done = Result<Answer, Answer>;

fn nobody(who: &str) -> Answer {
    Answer::error(StatusCode::NOT_FOUND, format!("No such container: {who}"))
}
