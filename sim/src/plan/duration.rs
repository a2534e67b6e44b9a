//! Lengths of time as plans say them: `1h30m`, `5s`, `250ms`. A number without a unit is an error, and every length
//! prints so that it reads back to the same nanosecond.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serializer};

/// The units, the longest first, each with its nanoseconds.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// What every message about a malformed length ends with.
const LAW: &str = "the units are ns us ms s m h d, as in `1h30m`, `5s` or `250ms`";

/// Reads `1h30m`, `5s`, `1.5s`, `250ms`. The error says what is wrong and which units exist.
pub fn parse(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("an empty length of time; {LAW}"));
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit() || c == '.');
        if number.is_empty() {
            return Err(format!("`{text}` is no length of time: a number is missing before `{rest}`; {LAW}"));
        }
        let (unit, after) = split(after.trim_start(), char::is_alphabetic);
        if unit.is_empty() {
            return Err(match after.chars().next() {
                Some(odd) => format!("`{text}` is no length of time: `{odd}` does not belong there; {LAW}"),
                None => format!("`{text}` has no unit after `{number}`; {LAW}"),
            });
        }
        let Some((_, scale)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("`{unit}` is no unit of time; {LAW}"));
        };
        let part = scaled(number, *scale)
            .ok_or_else(|| format!("`{number}{unit}` is no whole number of nanoseconds; {LAW}"))?;
        nanos = nanos.checked_add(part).ok_or_else(|| format!("`{text}` is too long"))?;
        rest = after.trim_start();
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| format!("`{text}` is too long"))?;
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// Says `duration` in at most two neighbouring units where that is exact, else in as many as it takes.
pub fn print(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    // What is below a second reads best as one number: `1500us`, not `1ms500us`.
    if nanos < 1_000_000_000 {
        let (unit, scale) = UNITS[4..].iter().find(|(_, scale)| nanos.is_multiple_of(*scale)).unwrap_or(&UNITS[6]);
        return format!("{}{unit}", nanos / scale);
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if nanos >= scale {
            text.push_str(&format!("{}{unit}", nanos / scale));
            nanos %= scale;
        }
    }
    text
}

/// For `#[serde(with = "lychgate_sim::plan::duration")]` on a product's workload.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&print(*duration))
}

/// For `#[serde(with = "lychgate_sim::plan::duration")]` on a product's workload.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map_err(serde::de::Error::custom)
}

/// For `#[serde(with = "lychgate_sim::plan::duration::option")]`, where a duration may be absent.
pub mod option {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    /// As [`super::serialize`]; `None` as nothing.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// As [`super::deserialize`]; nothing as `None`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| super::parse(&text).map_err(serde::de::Error::custom)).transpose()
    }
}

fn split(text: &str, belongs: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !belongs(c)).unwrap_or(text.len()))
}

/// `number` times `scale`, if that is whole.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = whole.parse::<u128>().ok()?.checked_mul(scale)?;
    let numerator = fraction.parse::<u128>().ok()?.checked_mul(scale)?;
    let denominator = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    numerator.is_multiple_of(denominator).then(|| whole.checked_add(numerator / denominator))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, nanos) in [
            ("1h30m", 5_400_000_000_000),
            ("5s", 5_000_000_000),
            ("250ms", 250_000_000),
            ("1500us", 1_500_000),
            ("1.5s", 1_500_000_000),
            ("2 m", 120_000_000_000),
            ("0s", 0),
            ("7ns", 7),
            ("1d", 86_400_000_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn says_which_units_exist() {
        for text in ["5 lightyears", "10", "", "s", "5s!", "1.0000000001s", "5s 3", "99999999999999999999999d", "-5s"] {
            let says = parse(text).unwrap_err();
            assert!(says.contains("ns us ms s m h d") || says.contains("too long") || says.contains("whole"), "{says}");
        }
        assert!(parse("5 lightyears").unwrap_err().starts_with("`lightyears` is no unit of time"));
        assert!(parse("10").unwrap_err().starts_with("`10` has no unit"));
    }

    #[test]
    fn prints_for_people() {
        for (nanos, text) in
            [(5_400_000_000_000, "1h30m"), (1_500_000, "1500us"), (250_000_000, "250ms"), (330_000_000_000, "5m30s")]
        {
            assert_eq!(print(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn every_length_reads_back_to_the_nanosecond() {
        let mut nanos: u64 = 1;
        for step in 0..20_000u64 {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(parse(&print(duration)), Ok(duration));
            nanos = nanos.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step) >> (step % 50);
        }
        assert_eq!(parse(&print(Duration::MAX)), Ok(Duration::MAX));
    }
}
