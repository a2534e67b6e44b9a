//! The words of an SQL text, as Postgres's scanner would cut them. It knows no grammar.

use super::refusal::Refusal;

/// What kind of word a [`Token`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword or an unquoted identifier.
    Word,
    /// An identifier in double quotes.
    Quoted,
    /// A literal in single quotes, or a blob literal.
    Text,
    /// A dollar-quoted body.
    Body,
    /// `$1`.
    Param,
    /// A number.
    Number,
    /// An operator or a bracket.
    Mark,
}

/// One word of an SQL text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub kind: Kind,
    /// As it stands in the text.
    pub text: &'a str,
    /// Where it begins in the text.
    pub start: usize,
}

impl<'a> Token<'a> {
    /// Whether it is this keyword, given in capitals.
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is one of these keywords, given in capitals.
    pub fn is_any(&self, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.is(keyword))
    }

    /// Whether it is this operator or bracket.
    pub fn mark(&self, mark: &str) -> bool {
        self.kind == Kind::Mark && self.text == mark
    }

    /// The identifier that it stands for, folded as Postgres folds it.
    pub fn identifier(&self) -> Option<String> {
        match self.kind {
            Kind::Word => Some(self.text.to_ascii_lowercase()),
            Kind::Quoted => Some(self.text[1..self.text.len() - 1].replace("\"\"", "\"")),
            _ => None,
        }
    }
}

/// The syntax error of a text that ends inside a literal, a comment or a quoted name.
fn unterminated(what: &str, rest: &str) -> Refusal {
    Refusal::new("42601", format!("unterminated {what} at or near \"{rest}\""))
}

/// Cuts `sql` into words. Comments are left out.
pub(super) fn tokens(sql: &str) -> Result<Vec<Token<'_>>, Refusal> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = sql.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.as_bytes()[0];
        if first.is_ascii_whitespace() {
            at += 1;
        } else if rest.starts_with("--") {
            at += rest.find('\n').map_or(rest.len(), |end| end + 1);
        } else if rest.starts_with("/*") {
            at += comment(rest)?;
        } else {
            let (kind, length) = token(rest)?;
            found.push(Token { kind, text: &rest[..length], start: at });
            at += length;
        }
    }
    Ok(found)
}

/// The length of the comment that `rest` begins with. Postgres's comments nest.
fn comment(rest: &str) -> Result<usize, Refusal> {
    let bytes = rest.as_bytes();
    let (mut depth, mut at) = (0, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return Ok(at);
        }
    }
    Err(unterminated("/* comment", rest))
}

fn token(rest: &str) -> Result<(Kind, usize), Refusal> {
    let bytes = rest.as_bytes();
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte >= 0x80;
    let run = |from: usize, of: &dyn Fn(&u8) -> bool| from + bytes[from..].iter().take_while(|byte| of(byte)).count();
    Ok(match bytes[0] {
        b'\'' => (Kind::Text, quoted(rest, b'\'').ok_or_else(|| unterminated("quoted string", rest))?),
        b'"' => (Kind::Quoted, quoted(rest, b'"').ok_or_else(|| unterminated("quoted identifier", rest))?),
        b'$' if bytes.get(1).is_some_and(u8::is_ascii_digit) => (Kind::Param, run(1, &u8::is_ascii_digit)),
        b'$' => (Kind::Body, body(rest)?),
        first if first.is_ascii_digit() => {
            (Kind::Number, run(0, &|byte| byte.is_ascii_alphanumeric() || *byte == b'.'))
        }
        first if word(&first) => (Kind::Word, run(0, &|byte| word(byte) || *byte == b'$')),
        _ => {
            let pair = ["::", "<=", ">=", "<>", "!=", "||", "->"].iter().any(|pair| rest.starts_with(pair));
            (Kind::Mark, if pair { 2 } else { 1 })
        }
    })
}

/// The length of the quoted text that `rest` begins with; a doubled quote stands for itself.
fn quoted(rest: &str, quote: u8) -> Option<usize> {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match (bytes[at] == quote, bytes.get(at + 1) == Some(&quote)) {
            (true, true) => at += 2,
            (true, false) => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// The length of the dollar-quoted text that `rest` begins with.
fn body(rest: &str) -> Result<usize, Refusal> {
    let tag = rest[1..].find('$').map(|end| &rest[..end + 2]);
    let length = |tag: &str| rest[tag.len()..].find(tag).map(|end| end + 2 * tag.len());
    tag.and_then(length).ok_or_else(|| unterminated("dollar-quoted string", rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<&str> {
        tokens(sql).unwrap().iter().map(|token| token.text).collect()
    }

    #[test]
    fn words_literals_and_marks_are_told_apart() {
        assert_eq!(
            texts("/* a /* b */ */ SELECT a.b-- x\n>=$12||'it''s;'"),
            ["SELECT", "a", ".", "b", ">=", "$12", "||", "'it''s;'"]
        );
        assert_eq!(texts("AS $body$ SELECT $1; $body$;"), ["AS", "$body$ SELECT $1; $body$", ";"]);
    }

    #[test]
    fn what_does_not_end_is_an_error() {
        for sql in ["'a", "\"a", "/* a", "$$ a"] {
            assert!(tokens(sql).is_err(), "{sql}");
        }
    }
}
