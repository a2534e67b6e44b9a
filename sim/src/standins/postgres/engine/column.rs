//! The type of each result column, as Postgres would give it. SQLite has none for an expression, so it is read from the
//! text; what cannot be known stops the run rather than come out as the wrong type.

use std::cell::Cell;
use std::collections::BTreeMap;

use crate::standins::postgres::data_type::Type;
use crate::standins::postgres::statement::outer;
use crate::standins::postgres::token::{Kind, Token};

/// The columns of all tables: their types by column and table.
#[derive(Debug, Default)]
pub(super) struct Schema(pub BTreeMap<String, BTreeMap<String, Type>>);

impl Schema {
    /// The type of every column of that name, if they agree.
    fn column(&self, name: &str) -> Option<Type> {
        let mut types = self.0.get(name)?.values();
        let first = *types.next()?;
        types.all(|other| *other == first).then_some(first)
    }

    fn qualified(&self, table: &str, name: &str) -> Option<Type> {
        self.0.get(name)?.get(table).copied().or_else(|| self.column(name))
    }
}

/// Functions that a statement may call: those that both databases have and that this file can type.
pub(super) const FUNCTIONS: &[&str] = &[
    "abs",
    "coalesce",
    "count",
    "dense_rank",
    "length",
    "like",
    "lower",
    "ltrim",
    "max",
    "min",
    "now_us",
    "nullif",
    "octet_length",
    "rank",
    "replace",
    "row_number",
    "rtrim",
    "substr",
    "sum",
    "trim",
    "upper",
];

/// What a statement gives back: `(column, type)` by column, where SQLite knows `declared` of plain columns.
pub(super) fn types(
    schema: &Schema,
    words: &[Token<'_>],
    params: &[Type],
    columns: &[(String, Option<Type>)],
) -> Vec<Type> {
    let items = items(words);
    let star = items.iter().position(|item| item.last().is_some_and(|word| word.mark("*")));
    let typer = Typer { schema, params, inner: inner_items(words), depth: Cell::new(0) };
    let type_of = |(place, (name, declared)): (usize, &(String, Option<Type>))| {
        let item = match star {
            Some(star) if place >= star => {
                (columns.len() - place < items.len() - star).then(|| items[items.len() - (columns.len() - place)])
            }
            _ => items.get(place).copied(),
        };
        let expression = || item.and_then(|item| typer.expression(without_alias(item)));
        declared.or_else(expression).or_else(|| schema.column(name)).unwrap_or_else(|| {
            panic!(
                "the Postgres stand-in cannot know the type of the column {name:?}: name it after a column of the schema \
                 (AS …), or write CAST(… AS bigint) or CAST(… AS text). {}",
                words.iter().map(|word| word.text).collect::<Vec<_>>().join(" ")
            )
        })
    };
    columns.iter().enumerate().map(type_of).collect()
}

/// The expressions after `SELECT` or `RETURNING`.
fn items<'s, 'a>(words: &'s [Token<'a>]) -> Vec<&'s [Token<'a>]> {
    const ENDS: &[&str] =
        &["FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "UNION", "INTERSECT", "EXCEPT", "ORDER", "LIMIT", "OFFSET"];
    let returning = outer(words).find(|(_, word)| word.is("RETURNING"));
    let Some((place, _)) = returning.or_else(|| outer(words).find(|(_, word)| word.is("SELECT"))) else {
        return Vec::new();
    };
    let distinct = usize::from(words.get(place + 1).is_some_and(|word| word.is_any(&["DISTINCT", "ALL"])));
    let list = &words[place + 1 + distinct..];
    let end = outer(list).filter(|(place, _)| *place > 0 && !list[place - 1].is("DISTINCT"));
    let end = end.into_iter().find(|(_, word)| word.is_any(ENDS)).map_or(list.len(), |(place, _)| place);
    split(&list[..end], |word| word.mark(","))
}

/// Cuts at the outer words that `at` names.
fn split<'s, 'a>(words: &'s [Token<'a>], at: impl Fn(&Token<'a>) -> bool) -> Vec<&'s [Token<'a>]> {
    let mut from = 0;
    let mut parts = Vec::new();
    for (place, word) in outer(words) {
        if at(word) {
            parts.push(&words[from..place]);
            from = place + 1;
        }
    }
    parts.push(&words[from..]);
    parts
}

/// `a + 1 AS b` and `a b` without their names.
fn without_alias<'s, 'a>(item: &'s [Token<'a>]) -> &'s [Token<'a>] {
    match item {
        [expression @ .., as_, _] if as_.is("AS") => expression,
        _ => item,
    }
}

/// The named expressions of the bracketed queries: what a derived table's columns are.
fn inner_items<'s, 'a>(words: &'s [Token<'a>]) -> Vec<(String, &'s [Token<'a>])> {
    let mut found = Vec::new();
    for (place, two) in words.windows(2).enumerate().filter(|(_, two)| two[0].mark("(")) {
        if !two[1].is_any(&["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"]) {
            continue;
        }
        let query = &words[place..];
        let close = outer(query).nth(1).map_or(query.len(), |(close, _)| close);
        let named = items(&query[1..close]).into_iter().filter_map(|item| {
            let alias = item.len() > 2 && item[item.len() - 2].is("AS");
            alias.then(|| Some((item.last()?.identifier()?, without_alias(item))))?
        });
        found.extend(named);
    }
    found
}

struct Typer<'s> {
    schema: &'s Schema,
    params: &'s [Type],
    inner: Vec<(String, &'s [Token<'s>])>,
    /// How many names deep the present one is; `a AS b` and `b AS a` would never end.
    depth: Cell<u8>,
}

impl Typer<'_> {
    /// The type of a column: of a derived table's, else of the schema's.
    fn column(&self, table: Option<&str>, name: &str) -> Option<Type> {
        let depth = self.depth.get();
        let inner = self.inner.iter().filter(|(alias, _)| alias == name && depth < 8);
        self.depth.set(depth + 1);
        let mut types = inner.filter_map(|(_, expression)| self.expression(expression));
        let first = types.next();
        let agreed = first.filter(|first| types.all(|other| other == *first));
        self.depth.set(depth);
        agreed
            .or_else(|| table.and_then(|table| self.schema.qualified(table, name)))
            .or_else(|| self.schema.column(name))
    }

    /// The type of an expression, by its operator that binds least.
    fn expression(&self, words: &[Token<'_>]) -> Option<Type> {
        const TESTS: &[&str] = &["AND", "OR", "NOT", "IS", "IN", "LIKE", "BETWEEN", "EXISTS"];
        let is_test = |word: &Token<'_>| {
            word.is_any(TESTS)
                || (word.kind == Kind::Mark && ["=", "<>", "!=", "<", ">", "<=", ">="].contains(&word.text))
        };
        let sums = |word: &Token<'_>| word.kind == Kind::Mark && ["+", "-", "*", "/", "%"].contains(&word.text);
        let first = words.first()?;
        if first.is("CASE") && words.last()?.is("END") {
            return self.case(words);
        }
        if outer(words).any(|(_, word)| is_test(word)) {
            return Some(Type::Bool);
        }
        if outer(words).any(|(_, word)| word.mark("||")) {
            return self.widest(split(words, |word| word.mark("||")));
        }
        if outer(words).any(|(_, word)| sums(word)) {
            let parts = split(words, sums);
            return self.widest(parts.into_iter().filter(|part| !part.is_empty()).collect());
        }
        self.primary(words)
    }

    fn primary(&self, words: &[Token<'_>]) -> Option<Type> {
        match words {
            [word] => self.word(word),
            [table, dot, column] if dot.mark(".") => self.column(Some(&table.identifier()?), &column.identifier()?),
            [open, inner @ .., close] if open.mark("(") && close.mark(")") && outer(words).count() == 2 => {
                if inner.first()?.is("SELECT") {
                    self.expression(without_alias(items(inner).first()?))
                } else {
                    self.expression(inner)
                }
            }
            [name, open, rest @ ..] if open.mark("(") => {
                let close = outer(&words[1..]).nth(1).map(|(place, _)| place - 1)?;
                self.call(&name.identifier()?, &rest[..close])
            }
            _ => None,
        }
    }

    fn word(&self, word: &Token<'_>) -> Option<Type> {
        match word.kind {
            Kind::Number if word.text.parse::<i32>().is_ok() => Some(Type::Int4),
            Kind::Number => word.text.parse::<i64>().ok().map(|_| Type::Int8),
            Kind::Text => word.text.starts_with('\'').then_some(Type::Text),
            Kind::Param => self.params.get(word.text[1..].parse::<usize>().ok()?.checked_sub(1)?).copied(),
            Kind::Word if word.is_any(&["TRUE", "FALSE"]) => Some(Type::Bool),
            Kind::Word if word.is("NULL") => None,
            Kind::Word | Kind::Quoted => self.column(None, &word.identifier()?),
            Kind::Body | Kind::Mark => None,
        }
    }

    fn call(&self, name: &str, args: &[Token<'_>]) -> Option<Type> {
        match name {
            "count" | "now_us" | "row_number" | "rank" | "dense_rank" => Some(Type::Int8),
            "length" | "octet_length" => Some(Type::Int4),
            "lower" | "upper" | "trim" | "ltrim" | "rtrim" | "replace" | "substr" => Some(Type::Text),
            "coalesce" => self.widest(split(args, |word| word.mark(","))),
            "min" | "max" | "abs" | "nullif" => self.expression(split(args, |word| word.mark(",")).first()?),
            // Postgres makes a numeric of a sum of bigints: that needs a CAST.
            "sum" => (self.expression(args)? == Type::Int4).then_some(Type::Int8),
            "cast" => Type::declared(args.last()?.text),
            _ => None,
        }
    }

    /// The type of a `CASE … END`: that of its results.
    fn case(&self, words: &[Token<'_>]) -> Option<Type> {
        let inside = &words[1..words.len() - 1];
        let keyword = |word: &&Token<'_>| word.is_any(&["WHEN", "THEN", "ELSE", "CASE", "END"]);
        let mut results = Vec::new();
        let mut from = None;
        let mut nested = 0;
        for (place, word) in outer(inside).filter(|(_, word)| keyword(word)) {
            nested -= i32::from(word.is("END"));
            if nested == 0 && !word.is_any(&["CASE", "END"]) {
                results.extend(from.take().map(|from| &inside[from..place]));
                from = (!word.is("WHEN")).then_some(place + 1);
            }
            nested += i32::from(word.is("CASE"));
        }
        results.extend(from.map(|from| &inside[from..]));
        self.widest(results)
    }

    /// What several expressions come to: bigint if one is, else what the first known one is.
    fn widest(&self, parts: Vec<&[Token<'_>]>) -> Option<Type> {
        let types: Vec<_> = parts.into_iter().filter_map(|part| self.expression(part)).collect();
        types.iter().find(|each| **each == Type::Int8).or(types.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standins::postgres::token::tokens;

    fn schema() -> Schema {
        let column = |name: &str, kind| (name.to_owned(), BTreeMap::from([("runs".to_owned(), kind)]));
        Schema(BTreeMap::from([
            column("fence", Type::Int8),
            column("owner", Type::Text),
            column("marked", Type::Bool),
            column("state", Type::Bytea),
        ]))
    }

    fn types_of(sql: &str, columns: &[&str]) -> Vec<Type> {
        let columns: Vec<_> = columns.iter().map(|name| ((*name).to_owned(), None)).collect();
        types(&schema(), &tokens(sql).unwrap(), &[Type::Bytea, Type::Int8], &columns)
    }

    #[test]
    fn expressions_are_typed_as_postgres_types_them() {
        let sql = "SELECT count(*) AS n, coalesce(fence, 0) AS m, EXISTS (SELECT 1 FROM runs WHERE a) AS found, 1 AS one, \
                   (SELECT max(r.fence) FROM runs r) AS top, CASE WHEN fence > 1 THEN 'a' ELSE 'b' END AS word, \
                   fence + 1 AS next, $1 AS given, owner || 'x' AS long, NOT marked AS unmarked, CAST(sum(fence) AS bigint) AS s, \
                   now_us() - $2 AS age, count(*) FILTER (WHERE marked) AS k, length(owner) AS l, -1 AS minus, marked AND true AS b \
                   FROM runs";
        let names = [
            "n", "m", "found", "one", "top", "word", "next", "given", "long", "unmarked", "s", "age", "k", "l",
            "minus", "b",
        ];
        use Type::{Bool, Bytea, Int4, Int8, Text};
        assert_eq!(
            types_of(sql, &names),
            [Int8, Int8, Bool, Int4, Int8, Text, Int8, Bytea, Text, Bool, Int8, Int8, Int8, Int4, Int4, Bool]
        );
    }

    #[test]
    fn a_star_is_stepped_over() {
        assert_eq!(
            types_of("UPDATE runs SET a = 1 RETURNING 1 AS x, runs.*, fence + 1 AS y", &["x", "owner", "state", "y"]),
            [Type::Int4, Type::Text, Type::Bytea, Type::Int8]
        );
    }

    #[test]
    #[should_panic(expected = "CAST")]
    fn what_cannot_be_known_stops_the_run() {
        types_of("SELECT sum(fence) AS total FROM runs", &["total"]);
    }
}
