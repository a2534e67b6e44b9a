//! Malformed plans and what is said of them; plans that are printed and read back.

use std::time::Duration;

use super::twice;
use crate::link::faults::{ANSWER, CLOSE, CONNECTION_REFUSED, CUT, DELAY, HALF_OPEN, REPLY_LOST, TRICKLE, WEDGE};
use crate::plan::*;
use crate::standins::provider::faults::{MALFORMED, REFUSE, STALL, TRUNCATE};
use crate::world::process_faults::{HOST_LOSS, PAUSE, ROLLING_RESTART, SIGKILL, SIGTERM};
use crate::world::test_product::{Say, TestProduct, Visitor, Visitors};
use crate::world::words;

const GOOD: &str = r#"about = "Redis is wedged from mid-turn until after the run's end"
arms = ["no_zombies"]
must_reach = ["checkpointed"]

[topology]
gateway = 1
executor = 2

[config.all]
TOY_TAKEOVER_AFTER = "330s"

[[users]]
name = "ann"
says = [{ text = "hello", at = "1s" }]

[[faults]]
kind = "wedge"
target = "executor-1->redis"
on = { event = "turn_started", session = "ann/1", nth = 1, after = "5s" }
until = { event = "run_ended", session = "ann/1", after = "10s" }
"#;

/// What is said of `GOOD` with `from` replaced by `to`.
fn said(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from} is not in the plan");
    words::parse::<TestProduct>("p.toml", &GOOD.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn a_good_plan_is_read() {
    let plan = words::parse::<TestProduct>("p.toml", GOOD).unwrap();
    assert_eq!(plan.topology["executor"], 2);
    assert_eq!(plan.users.0[0].says[0].at, Duration::from_secs(1));
    assert_eq!(plan.expect.verdict, "passed");
    assert_eq!(plan.faults.len(), 1);
}

#[test]
fn every_malformed_plan_is_told_where_and_what_was_meant() {
    for (from, to, place, meant) in [
        ("must_reach", "must_raech", "p.toml:3:1", "did you mean `must_reach`?"),
        ("[\"no_zombies\"]", "[\"no_zombie\"]", "p.toml:2:9", "did you mean `no_zombies`?"),
        ("[\"checkpointed\"]", "[\"checkpoint\"]", "p.toml:3:15", "did you mean `checkpointed`?"),
        ("executor = 2", "executer = 2", "p.toml:7:1", "did you mean `executor`?"),
        ("executor = 2", "executor = -2", "p.toml:7:12", "a whole number from 0"),
        ("executor = 2", "executor = 2000", "p.toml:7:12", "at most 100"),
        ("config.all", "config.executor-3", "p.toml:9:9", "did you mean `executor`?"),
        ("TOY_TAKEOVER_AFTER", "TOY_TAKEOVER", "p.toml:10:1", "did you mean `TOY_TAKEOVER_AFTER`?"),
        ("name = \"ann\"", "nmae = \"ann\"", "p.toml:13:1", "did you mean `name`?"),
        ("text = \"hello\"", "txet = \"hello\"", "p.toml:14:11", "did you mean `text`?"),
        ("at = \"1s\"", "at = \"1 lightyears\"", "p.toml:14:32", "`lightyears` is no unit of time"),
        ("\"wedge\"", "\"wegde\"", "p.toml:17:8", "did you mean `wedge`?"),
        ("\"wedge\"", "\"delay\"", "p.toml:17:8", "`delay` needs `by`"),
        ("\"wedge\"", "\"clock_ahead\"\nby = \"2m\"", "p.toml:18:6", "a clock is off by 1m at most"),
        ("\"wedge\"", "\"answer\"", "p.toml:17:8", "`answer` needs `status`"),
        (
            "\"wedge\"",
            "\"answer\"\nstatus = 503",
            "p.toml:19:10",
            "`answer` speaks HTTP, and not on `executor-1->redis`",
        ),
        ("\"wedge\"", "\"answer\"\nstatus = 200", "p.toml:18:10", "must be one of 500, 502, 503, 504"),
        ("\"wedge\"", "\"sigkill\"", "p.toml:18:10", "did you mean `executor-1`?"),
        ("->redis", "->reddis", "p.toml:18:10", "did you mean `executor-1->redis`?"),
        ("executor-1->redis", "executor-3->redis", "p.toml:18:10", "did you mean `executor-1->redis`?"),
        ("executor-1->redis", "redis", "p.toml:18:10", "a link is written `executor-1->redis`"),
        ("\"turn_started\"", "\"turn_begun\"", "p.toml:19:16", "unknown event `turn_begun`"),
        ("\"turn_started\"", "\"booted\"", "p.toml:19:36", "belongs to no session"),
        ("\"ann/1\"", "\"ann/2\"", "p.toml:19:42", "did you mean `ann/1`?"),
        ("nth = 1", "nth = 0", "p.toml:19:57", "counts from 1"),
        ("\"5s\"", "\"5 lightyears\"", "p.toml:19:68", "ns us ms s m h d"),
        ("\"5s\"", "\"10\"", "p.toml:19:68", "`10` has no unit"),
        ("\"5s\"", "10", "p.toml:19:68", "`10` has no unit"),
        ("on = {", "at = \"3s\"\non = {", "p.toml:20:6", "not both"),
        ("until = {", "lasts = \"3s\"\nuntil = {", "p.toml:21:9", "not both"),
        ("until = {", "by = \"3s\"\nuntil = {", "p.toml:20:6", "`by` belongs to `delay`"),
        ("until = {", "matches = \"x\"\nuntil = {", "p.toml:20:11", "`matches` belongs to `reply_lost`"),
        (
            "event = \"turn_started\", session",
            "link = \"executor-1->redis\", session",
            "p.toml:19:46",
            "cannot stand beside",
        ),
        ("gateway = 1", "gateway = 0", "p.toml:6:11", "users would reach no gateway: write `gateway = 1` or more"),
        (
            "\"wedge\"\ntarget = \"executor-1->redis\"",
            "\"stall\"\ntarget = \"postgres/x\"",
            "p.toml:18:10",
            "`postgres` does not do `stall` to its callers: `redis/x`",
        ),
        ("about = ", "abuot = ", "p.toml:1:1", "did you mean `about`?"),
        ("gateway = 1", "gateway = 1\ngateway = 2", "p.toml:7:1", "duplicate key"),
    ] {
        let said = said(from, to);
        assert!(said.contains(place) && said.contains(meant), "{to}: expected {place} … {meant}, got\n{said}");
    }
}

#[test]
fn a_truncated_file_says_that_it_ends() {
    for cut in ["until = { event = \"run_en", "until = { event = "] {
        let end = GOOD.rfind("until").unwrap();
        let said = words::parse::<TestProduct>("p.toml", &format!("{}{cut}", &GOOD[..end])).unwrap_err().to_string();
        assert!(said.starts_with("p.toml:20:") && said.contains("the file ends here"), "{said}");
    }
    let said = words::parse::<TestProduct>("p.toml", "").unwrap_err().to_string();
    assert!(said.contains("needs `about`"), "{said}");
}

#[test]
fn expectations_must_make_sense() {
    for (expect, place, meant) in [
        ("verdict = \"violatd\"", "p.toml:24:11", "did you mean `violated`?"),
        ("verdict = \"violated\"", "p.toml:23:1", "needs `invariant`"),
        ("invariant = \"no_zombies\"", "p.toml:24:13", "add `verdict"),
        ("verdict = \"violated\"\ninvariant = \"nozombies\"", "p.toml:25:13", "did you mean `no_zombies`?"),
    ] {
        let text = format!("{GOOD}\n\n[expect]\n{expect}\n");
        let said = words::parse::<TestProduct>("p.toml", &text).unwrap_err().to_string();
        assert!(said.contains(place) && said.contains(meant), "{expect}: {said}");
    }
}

#[test]
fn a_service_manager_is_of_a_role_or_a_process() {
    let with = |section: &str| words::parse::<TestProduct>("p.toml", &format!("{GOOD}\n{section}\n"));
    let plan = with("[service.executor]\ngrace = \"30s\"\n[service.gateway]\nrestart_delay = \"1m\"").unwrap();
    let executor = ServiceManager { grace: Some(Duration::from_secs(30)), ..ServiceManager::default() };
    assert_eq!(plan.service["executor"], executor);
    assert_eq!(plan.service["gateway"].restart_delay, Some(Duration::from_secs(60)));
    let own = with("[service.executor]\ngrace = \"30s\"\n[service.executor-1]\nfirst_boot = \"1m\"").unwrap();
    let of = |process| ServiceManager::of(&own.service, "executor", process);
    assert_eq!(of("executor-1"), ServiceManager { first_boot: Some(Duration::from_secs(60)), ..executor });
    assert_eq!(of("executor-2"), executor);
    round(&own);
    round(&plan);
    for (section, place, meant) in [
        ("[service.executer]", "p.toml:22:10", "did you mean `executor`?"),
        ("[service.executor-9]", "p.toml:22:10", "did you mean `executor`?"),
        ("[service.executor]\ngrase = \"1s\"", "p.toml:23:1", "did you mean `grace`?"),
        ("[service.executor]\ngrace = 10", "p.toml:23:9", "`10` has no unit"),
    ] {
        let said = with(section).unwrap_err().to_string();
        assert!(said.contains(place) && said.contains(meant), "{section}: {said}");
    }
}

#[test]
fn what_comes_has_waited_and_what_goes_leaves_somebody() {
    let with = |faults: &str| {
        let wait = "[service.executor-2]\nfirst_boot = \"24h\"\n";
        words::parse::<TestProduct>("p.toml", &format!("{GOOD}\n{wait}\n{faults}\n"))
    };
    let fault = |kind: &str, target: &str| format!("[[faults]]\nkind = \"{kind}\"\ntarget = {target}\nat = \"1s\"\n");
    for (kind, target) in [
        ("scale_up", "\"executor-2\""),
        ("scale_down", "\"executor-1\""),
        ("reconfigure", "[\"executor-1\", \"executor-2\"]"),
        ("lost_signal", "\"executor-1\""),
        ("panic", "\"executor-1\""),
    ] {
        round(&with(&fault(kind, target)).unwrap());
    }
    for (faults, meant) in [
        (fault("scale_up", "\"executor-1\""), "`executor-1` is there from the beginning"),
        (fault("reconfigure", "\"executor-1\""), "`reconfigure` takes two processes"),
        (fault("reconfigure", "[\"executor-2\", \"executor-1\"]"), "`executor-1` is there from the beginning"),
        (fault("scale_down", "[\"executor-1\", \"executor-2\"]"), "no executor would be left"),
        (fault("scale_down", "\"origin\""), "unknown process for `scale_down` `origin`"),
        (fault("scale_down", "\"executor-1\"") + &fault("scale_down", "\"executor-2\""), "no executor would be left"),
    ] {
        let said = with(&faults).unwrap_err().to_string();
        assert!(said.contains(meant), "{faults}: {said}");
    }
}

#[test]
fn only_who_listens_is_asked() {
    let with = |section: &str| words::parse::<TestProduct>("p.toml", &format!("{GOOD}\n{section}\n"));
    let ways = "probe = \"5s\"\npre_stop = \"10s\"\nrestart_max = \"5m\"";
    let plan = with(&format!("[service.gateway]\n{ways}")).unwrap();
    assert_eq!(plan.service["gateway"].pre_stop, Some(Duration::from_secs(10)));
    round(&plan);
    let said = with("[service.executor]\nprobe = \"5s\"").unwrap_err().to_string();
    assert!(said.contains("`executor` is asked for its health by nobody: `probe` cannot be said of it"), "{said}");
}

#[test]
fn a_text_may_offer_several_plans() {
    let text = GOOD.replace("executor = 2", "executor = <2|3>").replace("\"330s\"", "\"<1s|2s|3s>\"");
    let plans = words::parse_all::<TestProduct>("p.toml", &text).unwrap();
    let of = |plan: &Plan<Visitors>| (plan.topology["executor"], plan.config["all"]["TOY_TAKEOVER_AFTER"].clone());
    let of: Vec<_> = plans.iter().map(of).collect();
    let all = [(2, "1s"), (3, "1s"), (2, "2s"), (3, "2s"), (2, "3s"), (3, "3s")];
    assert_eq!(of, all.map(|(executors, takeover)| (executors, takeover.to_owned())));
    assert_eq!(
        words::parse_all::<TestProduct>("p.toml", GOOD).unwrap(),
        [words::parse::<TestProduct>("p.toml", GOOD).unwrap()]
    );
    // The line is the file's, what is shown of it the choice that is wrong.
    let said = words::parse_all::<TestProduct>("p.toml", &GOOD.replace("\"5s\"", "\"<5s|5 lightyears>\""))
        .unwrap_err()
        .to_string();
    assert!(said.starts_with("p.toml:19:68") && said.contains("after = \"5 lightyears\" }"), "{said}");
}

#[test]
fn an_instant_has_no_length() {
    for (kind, target) in [
        ("sigkill", "executor-1"),
        ("sigterm", "gateway-1"),
        ("host_loss", "executor-2"),
        ("rolling_restart", "executor-2"),
    ] {
        let text = format!(
            "about = \"x\"\n[[faults]]\nkind = \"{kind}\"\ntarget = \"{target}\"\nat = \"1s\"\nlasts = \"2s\"\n"
        );
        let said = words::parse::<TestProduct>("p.toml", &text).unwrap_err().to_string();
        assert!(said.starts_with("p.toml:6:9") && said.contains("is an instant"), "{said}");
    }
}

#[test]
fn faults_of_processes_and_callers_must_make_sense() {
    for (fault, place, meant) in [
        ("kind = \"pasue\"\ntarget = \"executor-1\"", "p.toml:3:8", "did you mean `pause`?"),
        ("kind = \"host_los\"\ntarget = \"executor-1\"", "p.toml:3:8", "did you mean `host_loss`?"),
        ("kind = \"pause\"\ntarget = \"executor-1\"", "p.toml:2:1", "`pause` needs `lasts"),
        (
            "kind = \"pause\"\ntarget = \"executor-1->redis\"\nlasts = \"1s\"",
            "p.toml:4:10",
            "did you mean `executor-1`?",
        ),
        ("kind = \"rolling_restart\"\ntarget = [\"executor-1\", \"executer-2\"]", "p.toml:4:25", "`executor-2`?"),
        ("kind = \"refuse\"\ntarget = \"redis/a\"", "p.toml:3:8", "needs `status`"),
        ("kind = \"refuse\"\ntarget = \"redis/a\"\nstatus = 418", "p.toml:5:10", "429, 401, 403, 500, 503, 529"),
        ("kind = \"refuse\"\ntarget = \"redis/a\"\nstatus = \"x\"", "p.toml:5:10", "a whole number"),
        ("kind = \"refuse\"\ntarget = \"reddis/a\"\nstatus = 429", "p.toml:4:10", "did you mean `redis`?"),
        ("kind = \"refuse\"\ntarget = \"redis\"\nstatus = 429", "p.toml:4:10", "write SERVICE/NAME"),
        ("kind = \"refuse\"\ntarget = \"redis/\"\nstatus = 429", "p.toml:4:10", "write SERVICE/NAME"),
        ("kind = \"refuse\"\ntarget = \"redis/a\"\nstatus = 429\nretry_after = 5", "p.toml:6:15", "has no unit"),
        (
            "kind = \"wedge\"\ntarget = \"executor-1->redis\"\nstatus = 429",
            "p.toml:5:10",
            "belongs to `answer` and `refuse`",
        ),
        ("kind = \"sigkill\"\ntarget = \"origin\"", "p.toml:4:10", "it needs `on = { event"),
    ] {
        let said = words::parse::<TestProduct>("p.toml", &format!("about = \"x\"\n[[faults]]\n{fault}\nat = \"1s\"\n"))
            .unwrap_err();
        assert_eq!(said.0.len(), 1, "{fault}: {said}");
        let said = said.to_string();
        assert!(said.contains(place) && said.contains(meant), "{fault}: expected {place} … {meant}, got\n{said}");
    }
}

#[test]
fn parts_and_repetitions_of_faults_must_make_sense() {
    let link = "target = \"executor-1->redis\"\n";
    for (fault, place, meant) in [
        ("kind = \"close\"\nonly = \"x\"", "p.toml:2:1", "`close` with `only` waits for such requests"),
        ("kind = \"reply_lost\"\nonly = \"x\"", "p.toml:4:8", "write `matches` instead of `only`"),
        ("kind = \"half_open\"\nonly = \"x\"", "p.toml:4:8", "`only` belongs to `wedge`, `close`, `delay`"),
        ("kind = \"wedge\"\nonly = \"\"", "p.toml:4:8", "`only` says nothing"),
        ("kind = \"wedge\"\nonly = 5", "p.toml:4:8", "a text in quotes"),
        ("kind = \"wedge\"\ndirection = \"dwon\"", "p.toml:4:13", "did you mean `down`?"),
        (
            "kind = \"close\"\ndirection = \"down\"",
            "p.toml:4:13",
            "`direction` belongs to `wedge`, `delay` and `trickle`",
        ),
        ("kind = \"connection_refused\"\nonly = \"x\"", "p.toml:4:8", "not to `connection_refused`"),
        ("kind = \"connection_refused\"\ndirection = \"up\"", "p.toml:4:13", "not to `connection_refused`"),
        ("kind = \"conection_refused\"", "p.toml:3:8", "did you mean `connection_refused`?"),
        ("kind = \"trickle\"\nby = \"1s\"", "p.toml:3:8", "`trickle` needs `bytes`"),
        ("kind = \"trickle\"\nbytes = 4", "p.toml:3:8", "`trickle` needs `by`"),
        ("kind = \"trickle\"\nby = \"1s\"\nbytes = 0", "p.toml:5:9", "from 1 to 16384"),
        ("kind = \"wedge\"\nbytes = 4", "p.toml:4:9", "`bytes` belongs to `trickle`"),
        ("kind = \"wedge\"\nevery = \"5s\"", "p.toml:4:9", "this one has none: add `lasts = \"10s\"`"),
        ("kind = \"close\"\nevery = \"10ms\"", "p.toml:4:9", "at least \"1s\""),
        ("kind = \"close\"\nevery = 5", "p.toml:4:9", "has no unit"),
        ("kind = \"cut\"\nevry = \"5s\"", "p.toml:4:1", "did you mean `every`?"),
    ] {
        let text = format!("about = \"x\"\n[[faults]]\n{fault}\n{link}at = \"1s\"\n");
        let said = words::parse::<TestProduct>("p.toml", &text).unwrap_err();
        assert_eq!(said.0.len(), 1, "{fault}: {said}");
        let said = said.to_string();
        assert!(said.contains(place) && said.contains(meant), "{fault}: expected {place} … {meant}, got\n{said}");
    }
}

#[test]
fn what_is_half_open_expires_and_cuts_wait_for_the_next_answer() {
    let fault = |kind: &str| {
        let text = format!(
            "about = \"x\"\n[[faults]]\nkind = \"{kind}\"\ntarget = \"executor-1->redis\"\nat = \"1s\"\nevery = \"1m\"\n"
        );
        words::parse::<TestProduct>("p.toml", &text).unwrap().faults.remove(0)
    };
    assert_eq!(fault("half_open").length, Lifetime::Lasts(crate::link::HALF_OPEN));
    assert_eq!((fault("cut").length, fault("cut").every), (Lifetime::Instant, Some(Duration::from_secs(60))));
}

#[test]
fn all_errors_are_said_at_once_and_in_order() {
    let text =
        GOOD.replace("\"wedge\"", "\"wegde\"").replace("no_zombies", "zombies").replace("gateway = 1", "gatway = 1");
    let PlanErrors(errors) = words::parse::<TestProduct>("p.toml", &text).unwrap_err();
    assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [2, 6, 17]);
}

#[test]
fn plans_print_and_read_back() {
    let event_match = |nth, after| EventMatch { event: "run_ended".into(), session: Some("ann/1".into()), nth, after };
    let kinds = [
        (Kind::of(&WEDGE), "executor-1->redis"),
        (Kind::of(&CLOSE), "ann->gateway-1"),
        (Kind::of(&CONNECTION_REFUSED), "executor-1->redis"),
        (Kind::of(&REPLY_LOST), "executor-2->postgres"),
        (Kind::of(&REPLY_LOST).with("matches", "a \"quoted\"\n\\ word"), "executor-2->postgres"),
        (Kind::of(&DELAY).with("by", Duration::from_nanos(1_234_567)), "gateway-1->redis"),
        (Kind::of(&HALF_OPEN), "gateway-1->redis"),
        (Kind::of(&TRICKLE).with("bytes", 16_u32).with("by", Duration::from_millis(50)), "gateway-1->redis"),
        (Kind::of(&CUT), "executor-2->postgres"),
        (Kind::of(&CUT).with("matches", "COMMIT"), "executor-2->postgres"),
        (Kind::of(&ANSWER).with("status", 502_u16), "ann->gateway-1"),
        (Kind::of(&ANSWER).with("status", 503_u16).with("matches", "POST /"), "ann->gateway-1"),
        (Kind::of(&STALL), "redis/sk-a"),
        (Kind::of(&TRUNCATE), "redis/sk-a"),
        (Kind::of(&MALFORMED), "redis/sk-a"),
        (Kind::of(&SIGTERM), "executor-1"),
        (Kind::of(&SIGKILL), "gateway-1"),
        (Kind::of(&HOST_LOSS), "gateway-1"),
        (Kind::of(&PAUSE), "executor-2"),
        (Kind::of(&ROLLING_RESTART), "executor-1"),
        (Kind::of(&REFUSE).with("status", 429_u16).with("retry_after", Duration::from_secs(20)), "redis/sk-a"),
        (Kind::of(&REFUSE).with("status", 500_u16), "redis/sk b/c"),
    ];
    let triggers = [
        Trigger::At(Duration::ZERO),
        Trigger::On(event_match(1, Duration::ZERO)),
        Trigger::On(EventMatch { event: "booted".into(), session: None, nth: 3, after: Duration::from_micros(1500) }),
        Trigger::OnRequest {
            link: "executor-1->redis".into(),
            matches: "GET".into(),
            nth: 2,
            after: Duration::from_secs(1),
        },
    ];
    let lengths = [
        Lifetime::Lasts(Duration::from_millis(90_001)),
        Lifetime::Until(event_match(2, Duration::from_secs(1))),
        Lifetime::UntilHeal,
    ];
    let mut plan = words::parse::<TestProduct>("p.toml", GOOD).unwrap();
    plan.config.insert("executor-2".into(), [("TOY_SLOTS".to_owned(), "a = \"b\" # c".to_owned())].into());
    for (kind, target) in &kinds {
        for trigger in &triggers {
            for length in lengths.iter().chain(&kind.course.usual()) {
                if kind.instant() && *length != Lifetime::Instant {
                    continue;
                }
                let targets = vec![(*target).to_owned()];
                let fault = Fault::new(kind.clone(), targets, trigger.clone(), length.clone());
                assert!(!told(&fault).is_empty());
                plan.faults.extend(parts(&fault));
                plan.faults.push(fault);
            }
        }
    }
    plan.faults[0].targets.push("executor-2->redis".into());
    plan.users.0.push(Visitor {
        name: "bob".into(),
        says: vec![Say { text: "héllo 'x'".into(), at: Duration::from_nanos(1) }],
    });
    plan.expect = Expect { verdict: "violated".into(), invariant: Some("no_zombies".into()) };
    plan.repro =
        Some(Repro { seed: u64::MAX, commit: "c0ffee".into(), toolchain: "rustc 1.95".into(), lock: String::new() });
    round(&plan);
    plan.users = Visitors::default();
    plan.faults.clear();
    round(&plan);
    round(&words::bare::<TestProduct>());
}

/// The fault on every part of its link that it may strike, and again and again.
fn parts(fault: &Fault) -> Vec<Fault> {
    let (kind, length) = (&fault.kind, &fault.length);
    let mut parts = Vec::new();
    for direction in [None, Some(Direction::Up), Some(Direction::Down)] {
        for only in [None, Some("a \"b\"".to_owned())] {
            let whole = direction.is_none() && only.is_none();
            let possible = (direction.is_none() || kind.one_way()) && (only.is_none() || kind.selective());
            if !whole && possible && (only.is_none() || *length != Lifetime::Instant) {
                parts.push(Fault { part: Scope { direction, only }, ..fault.clone() });
            }
        }
    }
    if *length != Lifetime::UntilHeal {
        parts.push(Fault { every: Some(Duration::from_secs(90)), ..fault.clone() });
    }
    parts
}

fn round(plan: &Plan<Visitors>) {
    let text = print(plan);
    match words::parse::<TestProduct>("printed.toml", &text) {
        Ok(read) => assert_eq!(&read, plan, "{text}"),
        Err(errors) => panic!("{errors}\n{text}"),
    }
}

#[test]
fn a_word_names_one_event() {
    assert_eq!(twice(&["booted", "exited"]), None);
    assert_eq!(twice(&["booted", "answered", "exited", "answered"]), Some("answered"));
}
