//! Postgres sorts NULL as the greatest value, SQLite as the smallest: what a statement leaves open is written out.

use crate::standins::postgres::statement::outer;
use crate::standins::postgres::token::Token;

/// The text with the place of NULLs in every `ORDER BY` term that does not say it.
pub(super) fn nulls_as_in_postgres(text: &str, words: &[Token<'_>]) -> String {
    let orders = words.windows(2).enumerate().filter(|(_, two)| two[0].is("ORDER") && two[1].is("BY"));
    let mut additions: Vec<_> = orders.flat_map(|(place, _)| terms(&words[place + 2..])).filter_map(addition).collect();
    additions.sort_unstable();
    let mut written = String::with_capacity(text.len() + 12 * additions.len());
    let mut from = 0;
    for (end, nulls) in additions {
        written.push_str(&text[from..end]);
        written.push_str(nulls);
        from = end;
    }
    written.push_str(&text[from..]);
    written
}

/// The terms of the `ORDER BY` that has just begun.
fn terms<'s, 'a>(words: &'s [Token<'a>]) -> Vec<&'s [Token<'a>]> {
    const ENDS: &[&str] = &["LIMIT", "OFFSET", "ROWS", "RANGE", "GROUPS", "RETURNING", "FETCH"];
    let mut depth = 0i32;
    let mut from = 0;
    let mut terms = Vec::new();
    for (place, word) in words.iter().enumerate() {
        depth += i32::from(word.mark("(")) - i32::from(word.mark(")"));
        if depth < 0 || (depth == 0 && word.is_any(ENDS)) {
            terms.push(&words[from..place]);
            return terms;
        }
        if depth == 0 && word.mark(",") {
            terms.push(&words[from..place]);
            from = place + 1;
        }
    }
    terms.push(&words[from..]);
    terms
}

/// Where to write what, if the term leaves it open.
fn addition(term: &[Token<'_>]) -> Option<(usize, &'static str)> {
    let last = term.last()?;
    let open = !outer(term).any(|(_, word)| word.is("NULLS"));
    open.then(|| (last.start + last.text.len(), if last.is("DESC") { " NULLS FIRST" } else { " NULLS LAST" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standins::postgres::token::tokens;

    #[test]
    fn open_terms_are_closed() {
        let written = |sql: &str| nulls_as_in_postgres(sql, &tokens(sql).unwrap());
        assert_eq!(
            written("SELECT row_number() OVER (ORDER BY a) FROM t ORDER BY max(a, b) DESC, c NULLS FIRST, d LIMIT 1"),
            "SELECT row_number() OVER (ORDER BY a NULLS LAST) FROM t ORDER BY max(a, b) DESC NULLS FIRST, c NULLS FIRST, d NULLS LAST LIMIT 1"
        );
        assert_eq!(written("SELECT a FROM t -- ORDER BY a"), "SELECT a FROM t -- ORDER BY a");
    }
}
