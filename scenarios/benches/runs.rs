//! Whole runs: how many fit into a second of the wall's clock, and how many virtual seconds. Its one law: a run is what
//! `cargo sim` makes of it, a forked child on the same allocator, its world, judge and digest included.

/// The binary's.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// On the production runtime nothing runs in virtual time.
#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() {
    let mut criterion = criterion::Criterion::default().configure_from_args();
    let lines = [
        whole::sampled(&mut criterion, "calm"),
        whole::sampled(&mut criterion, "swarm"),
        // Three virtual days: too long for a criterion.
        whole::once_each("long_uptime", 1..=whole::LONG),
    ];
    criterion.final_summary();
    lines.iter().for_each(|line| println!("{line}"));
}

#[cfg(madsim)]
mod whole {
    use std::ops::RangeInclusive;
    use std::time::Duration;

    use criterion::{Criterion, SamplingMode};
    use lychgate_scenarios::Lychgate;
    use lychgate_sim::explore::run::{Options, fork_run};
    use lychgate_sim::plan::seed::Seed;
    use lychgate_sim::trace::verdict::{Report, Verdict};
    use lychgate_sim::world::product::{Product, Source};
    use lychgate_sim::world::words::parse;

    /// Odd, so that a median is one of them.
    pub const LONG: u64 = 3;
    /// Drawn plans differ by a factor of ten: every sample is made of these.
    const SEEDS: u64 = 20;

    /// Measures a scenario with criterion, a seed after the other.
    pub fn sampled(criterion: &mut Criterion, name: &str) -> String {
        let mut reports = Vec::new();
        let mut seeds = (1..=SEEDS).cycle();
        let mut group = criterion.benchmark_group("runs");
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(8));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let ran: Vec<Report> = seeds.by_ref().take(times as usize).map(|seed| run(name, seed)).collect();
                let took = ran.iter().map(|report| report.wall_seconds).sum();
                reports.extend(ran);
                Duration::from_secs_f64(took)
            })
        });
        group.finish();
        line(name, reports)
    }

    /// Runs each seed once.
    pub fn once_each(name: &str, seeds: RangeInclusive<u64>) -> String {
        // `cargo test --benches` only asks whether it works.
        let measured = std::env::args().any(|arg| arg == "--bench");
        let seeds = if measured { seeds } else { 1..=1 };
        line(name, seeds.map(|seed| run(name, seed)).collect())
    }

    fn run(name: &str, seed: u64) -> Report {
        let scenario = Lychgate::scenarios().into_iter().find(|scenario| scenario.name == name);
        let plan = match scenario.expect("a scenario of this name").source {
            Source::File { path, text } => parse::<Lychgate>(&path, &text).expect("a plan"),
            Source::Drawn { draw, .. } => draw(Seed(seed)),
        };
        let report = fork_run::<Lychgate>(name, &plan, Seed(seed), &Options::default()).finish();
        assert_eq!(report.verdict, Verdict::Passed, "{name}@{seed}: {:?}", report.because);
        report
    }

    fn line(name: &str, reports: Vec<Report>) -> String {
        let median = |of: fn(&Report) -> f64| {
            let mut numbers: Vec<f64> = reports.iter().map(of).collect();
            numbers.sort_by(f64::total_cmp);
            numbers.get(numbers.len() / 2).copied().unwrap_or_default()
        };
        let (wall, pace) = (median(|run| run.wall_seconds), median(|run| run.virtual_seconds / run.wall_seconds));
        let runs = reports.len();
        format!("{name:12} {:8.2} runs/s {pace:9.0} virtual s/s, medians of {runs} runs of {wall:.3} s", 1.0 / wall)
    }
}
