//! Whose words count.

use super::*;
use crate::world::product::Product;
use crate::world::test_product::{TestProduct, TurnStarted};
use crate::world::words;

/// Life 1 of an executor dies after 10 s; what is said of bytes that are read from `incarnation` of it at `millis`.
fn heard(incarnation: u32, next: Option<u32>, millis: u64) -> Option<String> {
    let recorder = Recorder::new(None, "toy", 1).expect("nothing is written");
    let mut monitor: Monitor<TurnStarted> = Monitor::new(
        recorder,
        Nemesis::new(&[], Vec::new()),
        Vec::new(),
        TestProduct::reader(&words::bare::<TestProduct>()),
        TestProduct::moments(),
    );
    monitor.expected("executor-1");
    monitor.booted("executor-1", 1);
    monitor.set_now(Duration::from_secs(10));
    monitor.kill("executor-1");
    monitor.set_now(Duration::from_millis(millis));
    next.into_iter().for_each(|next| monitor.booted("executor-1", next));
    monitor.spoke("ann", None, "ann->gateway-1");
    monitor.spoke("executor-1", Some(incarnation), "executor-1->redis");
    match monitor.stop() {
        Some(Stop::Error(says)) => Some(says.clone()),
        Some(other) => panic!("{other:?}"),
        None => None,
    }
}

#[test]
fn the_dead_have_last_words_and_say_nothing_more() {
    assert_eq!(heard(1, None, 10_011), None);
    let says = heard(1, None, 10_020).expect("a finding");
    assert_eq!(says, "the dead speak: life 1 of executor-1 is over, and bytes of it were read on executor-1->redis");
    assert_eq!(heard(2, Some(2), 10_020), None);
    assert!(heard(1, Some(2), 10_020).is_some(), "its next life lives, it does not");
}
