//! Reading a command's arguments: options are words in any case, numbers are strict, both refused as Redis refuses them.

use bytes::Bytes;

use super::keyspace::Refusal;

/// Whether `word` is the option `name`, whatever its case.
pub fn is(word: &[u8], name: &str) -> bool {
    word.eq_ignore_ascii_case(name.as_bytes())
}

/// A signed number as Redis takes it: no spaces, no plus, no leading zeros.
///
/// # Errors
/// Anything else.
pub fn integer(word: &[u8]) -> Result<i64, Refusal> {
    let text = std::str::from_utf8(word).map_err(|_| Refusal::not_an_integer())?;
    let number: i64 = text.parse().map_err(|_| Refusal::not_an_integer())?;
    if number.to_string() == text { Ok(number) } else { Err(Refusal::not_an_integer()) }
}

/// The words as lower-case text, for messages.
pub fn name_of(word: &[u8]) -> String {
    String::from_utf8_lossy(word).to_ascii_lowercase()
}

/// The word behind an option.
///
/// # Errors
/// There is none.
pub fn value_after(words: &[Bytes], at: usize) -> Result<&Bytes, Refusal> {
    words.get(at + 1).ok_or_else(Refusal::syntax)
}

/// Whether `text` matches a pattern of KEYS and SCAN: `*`, `?`, `[a-c]`, `[^a]`, `\x`.
pub fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let Some((first, rest)) = pattern.split_first() else { return text.is_empty() };
    match first {
        b'*' => (0..=text.len()).any(|skip| glob(rest, &text[skip..])),
        b'?' => !text.is_empty() && glob(rest, &text[1..]),
        b'[' => match text.split_first() {
            None => false,
            Some((byte, text)) => {
                let (matched, rest) = class(rest, *byte);
                matched && glob(rest, text)
            }
        },
        b'\\' if !rest.is_empty() => text.first() == Some(&rest[0]) && glob(&rest[1..], &text[1..]),
        literal => text.first() == Some(literal) && glob(rest, &text[1..]),
    }
}

/// Whether `byte` is in the class that begins `pattern`, and what follows the class.
fn class(pattern: &[u8], byte: u8) -> (bool, &[u8]) {
    let (negated, mut rest) = match pattern.split_first() {
        Some((b'^', rest)) => (true, rest),
        _ => (false, pattern),
    };
    let mut matched = false;
    loop {
        rest = match rest {
            [] => return (matched != negated, rest),
            [b']', after @ ..] => return (matched != negated, after),
            [b'\\', literal, after @ ..] => {
                matched |= *literal == byte;
                after
            }
            [low, b'-', high, after @ ..] => {
                matched |= (*low.min(high)..=*low.max(high)).contains(&byte);
                after
            }
            [literal, after @ ..] => {
                matched |= *literal == byte;
                after
            }
        };
    }
}
