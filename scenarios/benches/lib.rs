//! Benches: `cargo madsim bench -p lychgate-benches`.
