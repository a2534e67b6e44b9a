//! What a person sees of long work: that it goes on, and how long it took.

use indicatif::ProgressBar;

/// A spinner that shows only on a terminal and turns when it is ticked.
pub(crate) fn spinner(says: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_message(says.to_owned());
    spinner
}

/// Seconds as `0.3 s`, `4 min`, `2.1 h` or `8.1 d`, whichever reads best.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.1 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_read_well() {
        let told: Vec<String> = [0.004, 1.25, 600.0, 9_000.0, 700_000.0].into_iter().map(seconds).collect();
        assert_eq!(told, ["4 ms", "1.2 s", "10 min", "2.5 h", "8.1 d"]);
    }
}
