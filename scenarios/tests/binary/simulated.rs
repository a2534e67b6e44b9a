//! Built for the simulation, the binary refuses to be anything: nobody ships it by mistake.
#![cfg(madsim)]

use std::process::Command;

#[test]
fn a_simulated_build_says_what_to_use_instead() {
    for words in [&[][..], &["gateway"], &["--help"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_lychgate")).args(words).output().expect("it starts");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(output.stdout.is_empty());
        let says = String::from_utf8(output.stderr).expect("text");
        assert!(says.contains("built for the simulated runtime"), "{says}");
    }
}
