//! Commands of the real Redis client, per second of processor time, over four wires, with one server's code and the same
//! commands: **bare** (in memory, on tokio itself: the limit), **direct** (madsim's TCP), **relay** (madsim's TCP to a
//! link's relay, which passes it on to a stand-in's dock), and **turmoil**.
//!
//! Its one law: criterion tells each wire from its own past; two wires are compared only by medians of one run in which
//! they took turns, so that whatever else the machine does meanwhile befalls all of them. That is the last line:
//! `relay/turmoil X direct/bare Y`.

#[cfg(madsim)]
mod arms;

/// That of `cargo sim`, for all four.
#[cfg(madsim)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// On the production runtime there is nothing to compare.
#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() {
    turns::criterion();
    turns::compare();
}

#[cfg(madsim)]
mod turns {
    use std::time::Duration;

    use criterion::{Criterion, SamplingMode, Throughput};

    use super::arms::{ARMS, COMMANDS};

    /// Enough for medians to stand still on a busy machine; odd, so that a median is one of them.
    const ROUNDS: usize = 45;

    /// Each wire by itself.
    pub fn criterion() {
        let mut criterion = Criterion::default().configure_from_args();
        let mut group = criterion.benchmark_group("wire");
        group.throughput(Throughput::Elements(COMMANDS as u64));
        group.sampling_mode(SamplingMode::Flat).sample_size(10);
        group.warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(3));
        for (name, arm) in ARMS {
            group.bench_function(name, |bencher| bencher.iter_custom(|times| (0..times).map(|_| timed(arm)).sum()));
        }
        group.finish();
        criterion.final_summary();
    }

    /// All of them in turn.
    pub fn compare() {
        // `cargo test --benches` only asks whether it works.
        let rounds = if std::env::args().any(|arg| arg == "--bench") { ROUNDS } else { 1 };
        let mut rates: [Vec<f64>; ARMS.len()] = Default::default();
        for _ in 0..rounds {
            for ((_, arm), rates) in ARMS.iter().zip(&mut rates) {
                rates.push(COMMANDS as f64 / timed(*arm).as_secs_f64());
            }
        }
        let medians = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates[rates.len() / 2]
        });
        for ((name, _), median) in ARMS.iter().zip(medians) {
            println!("{name:8} {median:9.0} commands/s, the median of {rounds} turns");
        }
        let [bare, direct, relay, turmoil] = medians;
        println!("relay/turmoil {:.2} direct/bare {:.2}", relay / turmoil, direct / bare);
    }

    /// Processor time of this thread. No arm ever waits, so that is what it takes on an idle machine; on a busy one the
    /// wall's clock counts whoever else had the processor, and most for the arm that takes longest.
    fn worked() -> Duration {
        // SAFETY: zeros are a valid timespec, and the pointer is of a live one.
        let time = unsafe {
            let mut time: libc::timespec = std::mem::zeroed();
            assert_eq!(libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time), 0, "a thread has a clock");
            time
        };
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    }

    /// On a thread of its own, as runs are: nothing of one turn is left for the next.
    fn timed(arm: fn()) -> Duration {
        std::thread::scope(|scope| {
            let turn = scope.spawn(|| {
                let began = worked();
                arm();
                worked() - began
            });
            turn.join().expect("a wire that holds")
        })
    }
}
