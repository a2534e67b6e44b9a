//! Errors as Postgres says them. What SQLite says and this file cannot translate stops the run.

use pgwire::messages::response::ErrorResponse;

/// An error that a client is told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub fatal: bool,
    /// SQLSTATE.
    pub code: &'static str,
    pub message: String,
    pub table: Option<String>,
    pub column: Option<String>,
    pub constraint: Option<String>,
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { fatal: false, code, message: message.into(), table: None, column: None, constraint: None }
    }

    /// One after which the server closes the connection.
    pub fn fatal(code: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { fatal: true, ..Refusal::new(code, message) }
    }

    /// What a statement hears in a transaction that has failed.
    pub fn aborted() -> Refusal {
        Refusal::new("25P02", "current transaction is aborted, commands ignored until end of transaction block")
    }

    /// The message on the wire.
    pub fn response(&self) -> ErrorResponse {
        let severity = if self.fatal { "FATAL" } else { "ERROR" };
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.code.to_owned()),
            (b'M', self.message.clone()),
        ];
        if self.code.starts_with("23") {
            fields.push((b's', "public".to_owned()));
        }
        let places = [(b't', &self.table), (b'c', &self.column), (b'n', &self.constraint)];
        fields.extend(places.into_iter().filter_map(|(code, value)| Some((code, value.clone()?))));
        ErrorResponse::new(fields)
    }
}
