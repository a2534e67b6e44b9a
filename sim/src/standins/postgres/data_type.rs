//! A data type of the dialect: its number, its size and its name in a declaration.

/// The types of the dialect, and `int4`, which Postgres gives to small literals and lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Bool,
    Bytea,
    Int8,
    Int4,
    Text,
}

impl Type {
    /// The number in `pg_type`.
    pub fn oid(self) -> u32 {
        match self {
            Type::Bool => 16,
            Type::Bytea => 17,
            Type::Int8 => 20,
            Type::Int4 => 23,
            Type::Text => 25,
        }
    }

    /// The type with that number, if it is of the dialect.
    pub fn from_oid(oid: u32) -> Option<Type> {
        [Type::Bool, Type::Bytea, Type::Int8, Type::Int4, Type::Text].into_iter().find(|each| each.oid() == oid)
    }

    /// The size in bytes, as a row description says it; -1 for one that varies.
    pub fn size(self) -> i16 {
        match self {
            Type::Bool => 1,
            Type::Int8 => 8,
            Type::Int4 => 4,
            Type::Bytea | Type::Text => -1,
        }
    }

    /// The type of that name in a table's declaration.
    pub fn declared(name: &str) -> Option<Type> {
        match name.to_ascii_lowercase().as_str() {
            "bigint" => Some(Type::Int8),
            "text" => Some(Type::Text),
            "bytea" => Some(Type::Bytea),
            "boolean" => Some(Type::Bool),
            _ => None,
        }
    }
}
