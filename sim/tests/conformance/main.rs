//! The stand-ins beside the real servers: one body with two arms, and what both said is kept. The arm of the stand-in
//! runs always; that of the real server needs it installed, and `cargo sim conformance` runs it.
//! `INSTA_UPDATE=always` writes what the real server says into the file that is compared.
#![allow(missing_docs)]

mod postgres;
mod rabbit;
mod redis;
mod redis_random;

/// Whether what the real servers say is written down, not compared.
fn records() -> bool {
    std::env::var("INSTA_UPDATE").is_ok_and(|value| value == "always")
}
