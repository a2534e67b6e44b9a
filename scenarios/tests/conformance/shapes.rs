//! The list of all that the bodies say. Scenarios are held against it by `cargo test` and `cargo sim run --covered-by`.

use std::collections::BTreeSet;

use crate::arms::{Service, stand_in};

#[test]
fn what_the_bodies_say_is_kept() {
    let mut all = BTreeSet::new();
    let tapes = [
        stand_in(Service::Redis, crate::redis::body).1,
        stand_in(Service::Rabbit, crate::amqp::body).1,
        stand_in(Service::Postgres, crate::statements::body).1,
    ];
    for tape in tapes {
        all.extend(tape.lock().expect("the body is over").all());
    }
    crate::kept("shapes", &all.into_iter().collect::<Vec<_>>().join("\n"));
}
