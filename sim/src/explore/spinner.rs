//! What shows that something goes on.

use indicatif::ProgressBar;

/// A spinner that shows only on a terminal and turns when it is ticked.
pub(crate) fn spinner(says: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.set_message(says.to_owned());
    spinner
}
