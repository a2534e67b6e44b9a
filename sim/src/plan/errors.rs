//! What is wrong with a plan: where, what, and the word that was probably meant. Nobody should need the source to mend
//! a plan.

use std::fmt;

/// Everything that is wrong with one plan, in the order of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanErrors(pub Vec<PlanError>);

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// The file, as it was named.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong, in one sentence.
    pub says: String,
    /// The nearest valid word, if one is near.
    pub nearest: Option<String>,
    /// The text of the line.
    pub source: String,
}

impl PlanError {
    /// An error at byte `offset` of `text`.
    pub fn at(path: &str, text: &str, offset: usize, says: String, nearest: Option<String>) -> Self {
        let mut offset = offset.min(text.len());
        while !text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &text[..offset];
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let source = text[start..].lines().next().unwrap_or("").to_owned();
        PlanError {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: text[start..offset].chars().count() + 1,
            says,
            nearest,
            source,
        }
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.says)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean `{nearest}`?")?;
        }
        if !self.source.trim().is_empty() {
            write!(f, "\n    {}\n    {}^", self.source, " ".repeat(self.column - 1))?;
        }
        Ok(())
    }
}

impl fmt::Display for PlanErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, error) in self.0.iter().enumerate() {
            if nth > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanErrors {}

/// The word of `words` that `typed` was probably meant to be.
pub fn nearest<'a>(typed: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let typed = typed.to_lowercase();
    words
        .into_iter()
        .map(|word| (strsim::jaro_winkler(&typed, &word.to_lowercase()), word))
        .filter(|(likeness, _)| *likeness > 0.7)
        // Of equals the first: lists put the usual word first.
        .reduce(|best, next| if next.0 > best.0 { next } else { best })
        .map(|(_, word)| word.to_owned())
}
