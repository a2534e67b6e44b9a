//! Laws that the compiler cannot see.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies in the workspace").to_path_buf()
}

/// Every source file below `folder`, with its text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("an entry of it").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a text");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// Each line of `folder` that holds one of `words`, as `file:line`.
fn places(folder: &str, words: &[&str]) -> Vec<String> {
    let mut places = Vec::new();
    for (path, text) in sources(folder) {
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            if let Some(word) = words.iter().find(|word| code.contains(**word)) {
                places.push(format!("{}:{}: {word}", path.display(), number + 1));
            }
        }
    }
    places
}

#[test]
fn the_product_does_not_know_that_it_is_simulated() {
    let found = places("src", &["madsim", "lychgate_sim", "cfg(test_hook"]);
    let allowed = |place: &String| place.contains("main.rs");
    assert_eq!(found.into_iter().filter(|place| !allowed(place)).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_world_does_not_know_the_product() {
    let found = places("sim", &["lychgate::", "lychgate_scenarios"]);
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn imports_of_the_harness_point_down() {
    const ROOMS: [&str; 8] = ["cli", "explore", "real", "world", "link", "standins", "plan", "trace"];
    let mut up = Vec::new();
    for (place, room) in ROOMS.iter().enumerate() {
        let above: Vec<String> = ROOMS[..place].iter().map(|above| format!("crate::{above}")).collect();
        let above: Vec<&str> = above.iter().map(String::as_str).collect();
        up.extend(places(&format!("sim/src/{room}"), &above));
    }
    assert_eq!(up, Vec::<String>::new());
    let entries = fs::read_dir(root().join("sim/src")).expect("the harness's sources");
    let names: Vec<_> = entries.map(|entry| entry.expect("an entry of it").file_name()).collect();
    let known = |name: &std::ffi::OsString| *name == *"lib.rs" || ROOMS.iter().any(|room| *name == **room);
    assert!(names.iter().all(known), "the map in sim/src/lib.rs has other rooms than {names:?}");
}

#[test]
fn what_is_random_or_shared_in_the_product_comes_from_where_it_should() {
    let words =
        ["thread_rng", "OsRng", "new_v4", "rand::random", "SystemTime::now", "static mut", "std::thread", "HashMap"];
    assert_eq!(places("src", &words), Vec::<String>::new());
    let unbounded = places("src", &["unbounded_channel", "UnboundedSender"]);
    // Signals are few, and their sender must not wait.
    let allowed = |place: &String| place.contains("main.rs");
    assert_eq!(unbounded.into_iter().filter(|place| !allowed(place)).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn statements_stand_in_one_file_and_keys_in_another() {
    let sql = places("src", &["INSERT INTO", "UPDATE runs", "SELECT ", "DELETE FROM"]);
    assert_eq!(sql.into_iter().filter(|place| !place.contains("sql.rs")).collect::<Vec<_>>(), Vec::<String>::new());
    let keys = places("src", &["\"lychgate:"]);
    // main.rs prints its own name.
    let elsewhere = |place: &String| !place.contains("keys.rs") && !place.contains("main.rs");
    assert_eq!(keys.into_iter().filter(elsewhere).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_gateway_and_the_executor_meet_in_the_stores() {
    assert_eq!(places("src/gateway", &["crate::executor"]), Vec::<String>::new());
    assert_eq!(places("src/executor", &["crate::gateway"]), Vec::<String>::new());
}

#[test]
fn nothing_is_left_undone_and_no_file_is_two() {
    for folder in ["src", "sim", "scenarios/src"] {
        let words = [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("FIX", "ME")];
        assert_eq!(places(folder, &words), Vec::<String>::new());
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 700, "{} has {lines} lines: perhaps it is two nouns", path.display());
        }
    }
}

#[test]
fn every_known_bug_still_applies() {
    let bugs = lychgate_sim::explore::known_bugs::load(&root().join("scenarios/known-bugs"))
        .expect("patches that can be read");
    assert!(!bugs.is_empty());
    let stale = bugs.iter().filter_map(|bug| Some(format!("{}: {}", bug.name, bug.applies(&root()).err()?)));
    assert_eq!(stale.collect::<Vec<_>>(), Vec::<String>::new());
}
