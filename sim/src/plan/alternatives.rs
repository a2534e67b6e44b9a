//! Alternatives in the text of a plan: `lasts = "<1m|61m|5h 44m>"` is three plans. Their one law: what is chosen follows
//! from the seed's number alone, so that seeds 1 to N cover all N combinations, each once.
//!
//! The first alternative in the text varies fastest. They stand in values, not in comments, and on one line, so that
//! the line numbers of messages stay true. Only `<…|…>` is one: a `<` without a `|` is text, as is the `>` of `->`.

use std::ops::Range;

use super::errors::{PlanError, PlanErrors};

/// More than a night's worth of one file is a slip, and each of them is parsed before the first run.
pub const COMBINATIONS_MAX: usize = 1000;

/// What a text may become.
#[derive(Debug)]
pub struct Alternatives<'t> {
    text: &'t str,
    places: Vec<Place>,
}

/// One `<…|…>`.
#[derive(Debug)]
struct Place {
    /// With its brackets.
    span: Range<usize>,
    choices: Vec<Range<usize>>,
}

impl<'t> Alternatives<'t> {
    /// Finds the alternatives in `text`; `path` is for messages.
    ///
    /// # Errors
    /// One that is not closed, with its line; more than `COMBINATIONS_MAX` combinations.
    pub fn of(path: &str, text: &'t str) -> Result<Self, PlanErrors> {
        let wrong = |at, says| PlanErrors(vec![PlanError::at(path, text, at, says, None)]);
        let places = places(text).map_err(|at| {
            let says = "this `<` begins alternatives that are not closed: write `<a|b>`, on one line".to_owned();
            wrong(at, says)
        })?;
        let found = Alternatives { text, places };
        match found.product() {
            Some(1..=COMBINATIONS_MAX) => Ok(found),
            _ => {
                let at = found.places.first().map_or(0, |place| place.span.start);
                Err(wrong(at, format!("these alternatives have too many combinations: at most {COMBINATIONS_MAX}")))
            }
        }
    }

    /// How many combinations there are; 1 without any alternative.
    pub fn count(&self) -> usize {
        self.product().unwrap_or(COMBINATIONS_MAX)
    }

    fn product(&self) -> Option<usize> {
        self.places.iter().try_fold(1usize, |product, place| product.checked_mul(place.choices.len()))
    }

    /// The text of combination `nth`, from 0; beyond the last it begins again.
    pub fn text(&self, nth: usize) -> String {
        let mut left = nth % self.count();
        let mut text = String::with_capacity(self.text.len());
        let mut from = 0;
        for place in &self.places {
            let choice = &place.choices[left % place.choices.len()];
            left /= place.choices.len();
            text.push_str(&self.text[from..place.span.start]);
            text.push_str(&self.text[choice.clone()]);
            from = place.span.end;
        }
        text.push_str(&self.text[from..]);
        text
    }
}

/// The alternatives in `text`, or where one begins that is not closed.
fn places(text: &str) -> Result<Vec<Place>, usize> {
    let mut places = Vec::new();
    for value in values(text) {
        let mut at = value.start;
        while let Some(open) = text[at..value.end].find('<').map(|found| at + found) {
            match place(text, open, value.end)? {
                Some(place) => {
                    at = place.span.end;
                    places.push(place);
                }
                None => at = open + 1,
            }
        }
    }
    Ok(places)
}

/// The alternatives that begin at `open`; `None` if that `<` is text.
fn place(text: &str, open: usize, end: usize) -> Result<Option<Place>, usize> {
    let mut choices = Vec::new();
    let mut from = open + 1;
    for (at, sign) in text[open + 1..end].char_indices().map(|(at, sign)| (open + 1 + at, sign)) {
        match sign {
            '|' => {
                choices.push(from..at);
                from = at + 1;
            }
            '>' if !text[..at].ends_with('-') => {
                if choices.is_empty() {
                    return Ok(None);
                }
                choices.push(from..at);
                return Ok(Some(Place { span: open..at + 1, choices }));
            }
            '<' if choices.is_empty() => return Ok(None),
            '<' | '\n' if !choices.is_empty() => return Err(open),
            '\n' => return Ok(None),
            _ => {}
        }
    }
    if choices.is_empty() { Ok(None) } else { Err(open) }
}

/// The parts of `text` in which alternatives may stand: the inside of each string, and what is neither string nor
/// comment. What is in no way TOML is left to its parser.
fn values(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut values = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            // An alternative outside of strings may hold strings itself.
            b'<' => match place(text, at, line_end(text, at)) {
                Ok(Some(place)) => at = place.span.end,
                _ => at += 1,
            },
            b'#' => {
                values.push(from..at);
                at = line_end(text, at);
                from = at;
            }
            quote @ (b'"' | b'\'') => {
                let mark = &text[at..at + 1];
                let long = text[at..].starts_with(&mark.repeat(3));
                let inside = at + if long { 3 } else { 1 };
                let end = string_end(bytes, inside, quote, long);
                values.push(from..at);
                values.push(inside..end);
                at = (end + if long { 3 } else { 1 }).min(bytes.len());
                from = at;
            }
            b'\n' => {
                values.push(from..at);
                at += 1;
                from = at;
            }
            _ => at += 1,
        }
    }
    values.push(from..bytes.len());
    values
}

fn line_end(text: &str, at: usize) -> usize {
    text[at..].find('\n').map_or(text.len(), |newline| at + newline)
}

/// Where the string that begins at `at` ends: at its closing quotes, or at the end of its line if it has none.
fn string_end(bytes: &[u8], mut at: usize, quote: u8, long: bool) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quote == b'"' => at += 1,
            b'\n' if !long => return at,
            sign if sign == quote && (!long || bytes[at..].starts_with(&[quote; 3])) => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<String> {
        let found = Alternatives::of("p.toml", text).unwrap();
        (0..found.count()).map(|nth| found.text(nth)).collect()
    }

    #[test]
    fn the_first_varies_fastest() {
        let text = "a = \"<1|2>\"\nb = <3|4|5> # <6|7>\n";
        let pairs: Vec<String> =
            all(text).iter().map(|text| text.chars().filter(char::is_ascii_digit).take(2).collect()).collect();
        assert_eq!(pairs, ["13", "23", "14", "24", "15", "25"]);
        let found = Alternatives::of("p.toml", text).unwrap();
        assert_eq!(found.text(0), "a = \"1\"\nb = 3 # <6|7>\n");
        assert_eq!(found.text(6), found.text(0));
    }

    #[test]
    fn what_is_no_alternative_is_left_alone() {
        for text in [
            "target = \"executor-1->redis\"",
            "text = \"a < b, a <b> c\"",
            "a = 'x|y' # if <a|b",
            "a = \"say <hello>\" # > | <",
            "text = \"\"\"\n a < b\n c | d > e\"\"\"",
            "a = \"not closed <",
        ] {
            assert_eq!(all(text), [text]);
        }
    }

    #[test]
    fn links_lists_and_strings_may_be_alternatives() {
        let targets = all("target = \"<executor-1->redis|executor-2->redis>\"");
        assert_eq!(targets, ["target = \"executor-1->redis\"", "target = \"executor-2->redis\""]);
        let lists = all("target = <[\"a\", \"b\"]|\"c\">");
        assert_eq!(lists, ["target = [\"a\", \"b\"]", "target = \"c\""]);
        assert_eq!(all("a = \"é <user> said <é|ü>\"")[1], "a = \"é <user> said ü\"");
        assert_eq!(all("a = \"\\\"<1|2>\""), ["a = \"\\\"1\"", "a = \"\\\"2\""]);
        assert_eq!(all("a = \"x<|!>\""), ["a = \"x\"", "a = \"x!\""]);
    }

    #[test]
    fn one_that_is_not_closed_is_an_error_with_its_line() {
        for text in ["\n\na = \"<1|2\"\nb = \">\"", "\n\na = <1|2\nb = \"x>\"", "\n\na = \"<1|<2|3>\""] {
            let said = Alternatives::of("p.toml", text).unwrap_err().to_string();
            assert!(said.starts_with("p.toml:3:") && said.contains("not closed"), "{said}");
        }
        let said = Alternatives::of("p.toml", &"a = \"<1|2|3|4>\"\n".repeat(5)).unwrap_err().to_string();
        assert!(said.contains("at most 1000"), "{said}");
        assert!(Alternatives::of("p.toml", &"a = \"<1|2|3|4>\"\n".repeat(500)).is_err());
    }
}
