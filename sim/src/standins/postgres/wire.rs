//! Bytes: messages on a stream, and values in Postgres's text and binary formats.

use std::io;

use bytes::{BufMut, BytesMut};
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::messages::{DecodeContext, PgWireBackendMessage, PgWireFrontendMessage, ProtocolVersion};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::data_type::Type;
use super::observation::Value;
use super::refusal::Refusal;

/// A client's stream. Answers gather until [`Wire::flush`].
pub(super) struct Wire<S> {
    stream: S,
    received: BytesMut,
    answers: BytesMut,
    context: DecodeContext,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn new(stream: S) -> Wire<S> {
        let context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
        Wire { stream, received: BytesMut::new(), answers: BytesMut::new(), context }
    }

    /// From here on the client speaks no TLS negotiation.
    pub fn negotiated(&mut self) {
        self.context.awaiting_frontend_ssl = false;
    }

    /// From here on the client sends statements.
    pub fn started(&mut self) {
        self.context.awaiting_frontend_startup = false;
    }

    /// The next message. None: the client is gone, or sends what is no message.
    pub async fn next(&mut self) -> Option<PgWireFrontendMessage> {
        loop {
            match PgWireFrontendMessage::decode(&mut self.received, &self.context) {
                Ok(Some(message)) => return Some(message),
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "a client sent what is no message");
                    let refusal = Refusal::fatal("08P01", "invalid frontend message");
                    self.answer(PgWireBackendMessage::ErrorResponse(refusal.response()));
                    let _ = self.flush().await;
                    return None;
                }
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Puts an answer behind the others.
    pub fn answer(&mut self, message: PgWireBackendMessage) {
        message.encode(&mut self.answers).expect("an answer of the stand-in fits its message");
    }

    /// Sends what has gathered.
    pub async fn flush(&mut self) -> io::Result<()> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let answers = self.answers.split();
        self.stream.write_all(&answers).await?;
        self.stream.flush().await
    }
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Text,
    Binary,
}

impl Format {
    /// The format of the value at `place`, of a message's list of format codes.
    pub fn of(codes: &[i16], place: usize) -> Result<Format, Refusal> {
        let code = match codes {
            [] => 0,
            [all] => *all,
            each => *each.get(place).ok_or_else(|| Refusal::new("08P01", "bind message has too few format codes"))?,
        };
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            _ => Err(Refusal::new("22023", format!("unsupported format code: {code}"))),
        }
    }
}

/// The description of rows with these columns.
pub(super) fn description(columns: &[(String, Type)], codes: &[i16]) -> Result<RowDescription, Refusal> {
    let field = |(place, (name, kind)): (usize, &(String, Type))| {
        let format = i16::from(Format::of(codes, place)? == Format::Binary);
        Ok(FieldDescription::new(name.clone(), 0, 0, kind.oid(), kind.size(), -1, format))
    };
    Ok(RowDescription::new(columns.iter().enumerate().map(field).collect::<Result<_, Refusal>>()?))
}

/// One row.
pub(super) fn row(values: &[Value], columns: &[(String, Type)], codes: &[i16]) -> Result<DataRow, Refusal> {
    let mut data = BytesMut::new();
    for (place, (value, (_, kind))) in values.iter().zip(columns).enumerate() {
        let bytes = match Format::of(codes, place)? {
            Format::Text => text(value),
            Format::Binary => binary(value, *kind),
        };
        match bytes {
            None => data.put_i32(-1),
            Some(bytes) => {
                data.put_i32(i32::try_from(bytes.len()).expect("a value is smaller than 2 GB"));
                data.put_slice(&bytes);
            }
        }
    }
    Ok(DataRow::new(data, i16::try_from(values.len()).expect("a row has few columns")))
}

fn text(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::Int(number) => Some(number.to_string().into_bytes()),
        Value::Text(text) => Some(text.clone().into_bytes()),
        Value::Bytes(bytes) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Some(format!("\\x{hex}").into_bytes())
        }
        Value::Bool(flag) => Some(vec![if *flag { b't' } else { b'f' }]),
    }
}

fn binary(value: &Value, kind: Type) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::Int(number) if kind == Type::Int4 => {
            Some(i32::try_from(*number).expect("an int4 came out of an int4 expression").to_be_bytes().to_vec())
        }
        Value::Int(number) => Some(number.to_be_bytes().to_vec()),
        Value::Text(text) => Some(text.clone().into_bytes()),
        Value::Bytes(bytes) => Some(bytes.clone()),
        Value::Bool(flag) => Some(vec![u8::from(*flag)]),
    }
}

/// The value of parameter `number` (from 1) that a client bound.
pub(super) fn parameter(bytes: &[u8], kind: Type, format: Format, number: usize) -> Result<Value, Refusal> {
    if kind == Type::Text {
        return utf8(bytes).map(|text| Value::Text(text.to_owned()));
    }
    match format {
        Format::Binary => {
            let malformed = || match i16::try_from(bytes.len()) {
                Ok(length) if length < kind.size() => Refusal::new("08P01", "insufficient data left in message"),
                _ => Refusal::new("22P03", format!("incorrect binary data format in bind parameter {number}")),
            };
            match kind {
                Type::Bytea | Type::Text => Ok(Value::Bytes(bytes.to_vec())),
                Type::Bool => bytes.try_into().map(|[byte]: [u8; 1]| Value::Bool(byte != 0)).map_err(|_| malformed()),
                Type::Int8 => {
                    bytes.try_into().map(|each| Value::Int(i64::from_be_bytes(each))).map_err(|_| malformed())
                }
                Type::Int4 => {
                    bytes.try_into().map(|each| Value::Int(i32::from_be_bytes(each).into())).map_err(|_| malformed())
                }
            }
        }
        Format::Text => {
            let text = utf8(bytes)?;
            let malformed =
                |name: &str| Refusal::new("22P02", format!("invalid input syntax for type {name}: \"{text}\""));
            match kind {
                Type::Int8 => text.trim().parse().map(Value::Int).map_err(|_| malformed("bigint")),
                Type::Int4 => {
                    text.trim().parse::<i32>().map(|each| Value::Int(each.into())).map_err(|_| malformed("integer"))
                }
                Type::Bool => match text.trim() {
                    "t" | "true" => Ok(Value::Bool(true)),
                    "f" | "false" => Ok(Value::Bool(false)),
                    _ => Err(malformed("boolean")),
                },
                Type::Bytea | Type::Text => {
                    panic!("the Postgres stand-in does not know bytea parameters in text format")
                }
            }
        }
    }
}

/// Text as Postgres stores it: UTF-8 without NUL.
fn utf8(bytes: &[u8]) -> Result<&str, Refusal> {
    let invalid =
        |byte: u8| Refusal::new("22021", format!("invalid byte sequence for encoding \"UTF8\": 0x{byte:02x}"));
    if bytes.contains(&0) {
        return Err(invalid(0));
    }
    std::str::from_utf8(bytes).map_err(|error| invalid(bytes[error.valid_up_to()]))
}
