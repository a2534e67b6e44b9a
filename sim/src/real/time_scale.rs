//! A plan in compressed time. Nobody waits five hours for a drain: some of a plan's times are given other ones outside of
//! the simulation. Its one law: the order of its times stays, so that nothing comes before what it came after.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::plan::duration;

/// The text of a plan, without alternatives, in which each time of `times` is replaced.
///
/// # Errors
/// A time that the plan does not have, or that no longer stands where it stood among the others.
pub fn compressed(text: &str, times: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut order: BTreeMap<Duration, (Duration, &str)> = BTreeMap::new();
    let mut used = 0;
    let mut strings = text.split('"');
    out.push_str(strings.next().unwrap_or_default());
    for (place, part) in strings.enumerate() {
        out.push('"');
        // Inside of a string, between every other pair of quotes.
        let real = times.get(part).filter(|_| place % 2 == 0);
        used += usize::from(real.is_some());
        let real = real.map_or(part, String::as_str);
        if place % 2 == 0
            && let (Ok(was), Ok(is)) = (duration::parse(part), duration::parse(real))
        {
            order.insert(was, (is, part));
        }
        out.push_str(real);
    }
    if used == 0 && !times.is_empty() {
        return Err("none of the times to be replaced stands in the plan".into());
    }
    let mut before: Option<(Duration, &str)> = None;
    for (is, was) in order.into_values() {
        if let Some((least, earlier)) = before
            && is < least
        {
            return Err(format!("`{was}` comes after `{earlier}`, but what takes its place does not"));
        }
        before = Some((is, was));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(was, is)| ((*was).to_owned(), (*is).to_owned())).collect()
    }

    #[test]
    fn times_are_replaced_and_keep_their_order() {
        let text = "at = \"1s\"\ntakes = \"49m\"\nkind = \"wedge\"\n";
        assert_eq!(compressed(text, &times(&[("49m", "3s")])).unwrap(), text.replace("49m", "3s"));
        assert_eq!(compressed(text, &BTreeMap::new()).unwrap(), text);
        let says = compressed(text, &times(&[("49m", "500ms")])).unwrap_err();
        assert!(says.contains("`49m` comes after `1s`"), "{says}");
        assert!(compressed(text, &times(&[("50m", "3s")])).is_err());
    }
}
