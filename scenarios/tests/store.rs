//! The store beside the stand-in of Postgres, where a whole run of the world would show too little: a history that was taken
//! back, and more rows than one sweep reads.
#![cfg(madsim)]
#![allow(missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use lychgate::config::Address;
use lychgate::ids::{Fence, Mint, Owner, RunId, SessionId};
use lychgate::limits::{CLAIMS_LOST, Limits, SWEEP_ROWS};
use lychgate::run::End;
use lychgate::store::{Checkpoint, Checkpoints, Claim, Claimed, Commit, Settled, Store, Writing};
use lychgate_sim::standins::StandIn;
use lychgate_sim::standins::observation::untapped;
use lychgate_sim::standins::postgres::Postgres;
use madsim::runtime::{Handle, Runtime};
use tokio::net::TcpListener;
use tokio::sync::watch;

struct World {
    postgres: Postgres,
    store: Store,
    checkpoints: Checkpoints,
    mint: Mint,
}

fn simulate<F: Future<Output = ()> + Send + 'static>(test: fn(World) -> F) {
    let run = move || {
        Runtime::with_seed_and_config(1, madsim::Config::default()).block_on(async move {
            let postgres = Postgres::new();
            let (served, port) = (postgres.clone(), postgres.port());
            let node = Handle::current().create_node().name("postgres").ip([10, 0, 0, 1].into()).build();
            node.spawn(async move {
                let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
                StandIn::serve(&served, listener.into(), untapped()).await;
            });
            let address = Address {
                host: format!("10.0.0.1:{port}"),
                user: "lychgate".into(),
                password: String::new(),
                path: "lychgate".into(),
            };
            let node = Handle::current().create_node().name("caller").ip([10, 0, 0, 2].into()).build();
            let caller = node.spawn(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let (store, checkpoints) = (Store::new(&address, "test"), Checkpoints::new(&address, "test"));
                store.prepare().await.unwrap();
                test(World { postgres, store, checkpoints, mint: Mint::seeded([9; 32]) }).await;
            });
            caller.await.unwrap();
        });
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn owner(process: &str) -> Owner {
    Owner { process: process.into(), incarnation: 1 }
}

impl World {
    async fn say(&self, key: &str) -> (RunId, SessionId) {
        let accepted = self.store.accept(&self.mint, key, None, "agent-1", "hello").await.unwrap().unwrap();
        (accepted.run, accepted.session)
    }

    async fn claim(&self, said: &(RunId, SessionId), process: &str) -> Claimed {
        self.claim_above(said, process, Fence(0)).await
    }

    async fn claim_above(&self, (run, session): &(RunId, SessionId), process: &str, known: Fence) -> Claimed {
        let claim = self.mint.claim();
        match self.store.claim(run, session, &claim, &owner(process), known, &Limits::default()).await.unwrap() {
            Claim::Taken(claimed) => claimed,
            other => panic!("{other:?}"),
        }
    }

    async fn checkpoint(&self, claimed: &Claimed) -> Commit {
        let checkpoint =
            Checkpoint { claimed: claimed.clone(), turn: 1, answer: "yes".into(), last: true, consumed: Vec::new() };
        self.checkpoints.write(Arc::new(checkpoint), &watch::Sender::new(Writing::Nothing)).await.unwrap()
    }
}

#[test]
fn a_fence_that_was_minted_twice_licenses_one_claim() {
    simulate(|world| async move {
        let said = world.say("k").await;
        let first = world.claim(&said, "executor-1").await;
        // A failover to a replica that never saw the claim.
        world.postgres.query(
            "UPDATE runs SET status = 'queued', fence = 0, claim_id = NULL, owner = NULL, owner_incarnation = NULL, \
             claimed_at = NULL, beat_at = NULL, claims_without_turn = 0",
        );
        let second = world.claim(&said, "executor-2").await;
        assert_eq!(first.fence, second.fence);
        assert_eq!(world.checkpoint(&first).await, Commit::Fenced);
        assert_eq!(world.store.hand_back(&first.run, first.fence, &first.claim).await.unwrap(), Commit::Fenced);
        assert_eq!(world.store.end(&first, &End::failed("no")).await.unwrap(), Settled::Fenced);
        assert_eq!(world.checkpoint(&second).await, Commit::Done);
        assert_eq!(world.checkpoint(&second).await, Commit::Done, "its answer got lost");
        assert_eq!(world.checkpoint(&first).await, Commit::Fenced, "another's answer is not its own");
        assert_eq!(world.store.end(&second, &End::completed()).await.unwrap(), Settled::Ended(End::completed()));
        assert_eq!(world.store.end(&first, &End::completed()).await.unwrap(), Settled::Fenced, "nor is another's end");
    });
}

#[test]
fn a_fence_is_above_one_that_was_seen_and_not_above_any_that_somebody_writes() {
    simulate(|world| async move {
        let known = world.claim_above(&world.say("a").await, "executor-1", Fence(3)).await;
        assert_eq!(known.fence, Fence(4));
        let foreign = world.claim_above(&world.say("b").await, "executor-1", Fence(i64::MAX)).await;
        assert_eq!(foreign.fence, Fence(CLAIMS_LOST + 1));
    });
}

#[test]
fn what_is_due_is_found_behind_more_rows_than_a_sweep_reads() {
    simulate(|world| async move {
        let said = world.say("orphan").await;
        let orphan = world.claim(&said, "executor-2").await;
        // Older ones, which go on well, and one more than one sweep reads.
        world.postgres.query(&format!(
            "INSERT INTO sessions (session_id, created_at, position, agent) \
             WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {SWEEP_ROWS}) \
             SELECT 'older-' || i, 0, 1, 'agent-1' FROM n"
        ));
        world.postgres.query(
            "INSERT INTO runs (run_id, session_id, status, fence, owner, owner_incarnation, queued_at, seen_at, \
             beat_at, claims_without_turn, turns, finished) \
             SELECT session_id, session_id, 'running', 1, 'executor-3', 1, 0, now_us(), now_us() + 900000000, 0, 0, FALSE \
             FROM sessions WHERE session_id LIKE 'older-%'",
        );
        tokio::time::sleep(Limits::default().takeover_after + Duration::from_secs(1)).await;
        let due = world.store.due_runs(&owner("executor-1"), &Limits::default()).await.unwrap();
        assert_eq!(due.iter().map(|row| &row.run).collect::<Vec<_>>(), [&orphan.run]);
        // The others in their turn.
        let first = world.store.open_runs(None).await.unwrap();
        assert_eq!(first.len() as i64, SWEEP_ROWS);
        let rest = world.store.open_runs(first.last()).await.unwrap();
        assert_eq!(rest.iter().filter(|row| first.iter().all(|seen| seen.run != row.run)).count(), 2);
        assert_eq!(rest.len(), 2);
        assert!(rest.iter().any(|row| row.run == orphan.run));
    });
}
