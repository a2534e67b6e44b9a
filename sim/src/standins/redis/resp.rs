//! RESP2, the bytes between a client and Redis. A request is an array of bulk strings; nothing else is read.

use bytes::{Buf, Bytes, BytesMut};

/// The longest argument that Redis takes (its default `proto-max-bulk-len` is 512 MB; a world needs no more than this).
const ARGUMENT_MAX: i64 = 64 << 20;

/// The most arguments in one command.
const ARGUMENTS_MAX: i64 = 1 << 20;

/// The longest line of a request's header: `*` or `$`, a number and CR LF.
const LINE_MAX: usize = 64;

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Status(Bytes),
    /// `-ERR …`, without the dash.
    Error(Bytes),
    /// `:1`
    Int(i64),
    /// `$3 abc`
    Bulk(Bytes),
    /// `$-1`
    Nil,
    /// `*-1`
    NilArray,
    /// `*2 …`
    Array(Vec<Reply>),
    /// Several answers to one command, as SUBSCRIBE gives one for each channel.
    Several(Vec<Reply>),
}

impl Reply {
    /// `+OK`
    pub fn ok() -> Self {
        Reply::Status(Bytes::from_static(b"OK"))
    }

    /// A bulk string of `text`.
    pub fn bulk(text: impl Into<String>) -> Self {
        Reply::Bulk(Bytes::from(text.into()))
    }

    /// An error that says `text`, which begins with its code.
    pub fn error(text: impl Into<String>) -> Self {
        Reply::Error(Bytes::from(text.into()))
    }

    /// A count.
    pub fn count(number: usize) -> Self {
        Reply::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// The answer as RESP2 bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out.into()
    }

    fn encode_to(&self, out: &mut Vec<u8>) {
        match self {
            Reply::Status(text) => line(out, b'+', text),
            Reply::Error(text) => line(out, b'-', text),
            Reply::Int(number) => line(out, b':', number.to_string().as_bytes()),
            Reply::Bulk(bytes) => {
                line(out, b'$', bytes.len().to_string().as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
            Reply::NilArray => out.extend_from_slice(b"*-1\r\n"),
            Reply::Array(items) => {
                line(out, b'*', items.len().to_string().as_bytes());
                items.iter().for_each(|item| item.encode_to(out));
            }
            Reply::Several(replies) => replies.iter().for_each(|reply| reply.encode_to(out)),
        }
    }
}

/// A line may not hold CR or LF: Redis turns them into spaces.
fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend(text.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
    out.extend_from_slice(b"\r\n");
}

/// Takes one whole command off the front of `buffer`; `None` if it has not all arrived. An empty array is an empty
/// command, which Redis skips.
///
/// # Errors
/// What is not RESP: the text of Redis's error, after which it hangs up.
pub fn take_command(buffer: &mut BytesMut) -> Result<Option<Vec<Bytes>>, String> {
    let mut at = 0;
    let Some(count) = header(buffer, &mut at, b'*', ARGUMENTS_MAX, "invalid multibulk length")? else {
        return Ok(None);
    };
    let mut spans = Vec::with_capacity(count.clamp(0, 64) as usize);
    for _ in 0..count.max(0) {
        let Some(length) = header(buffer, &mut at, b'$', ARGUMENT_MAX, "invalid bulk length")? else { return Ok(None) };
        let length = usize::try_from(length).map_err(|_| "ERR Protocol error: invalid bulk length".to_string())?;
        if buffer.len() < at + length + 2 {
            return Ok(None);
        }
        spans.push((at, at + length));
        at += length + 2;
    }
    let whole = buffer.split_to(at).freeze();
    Ok(Some(spans.into_iter().map(|(from, to)| whole.slice(from..to)).collect()))
}

/// Reads the number in a line such as `*3`, and moves `at` behind it.
fn header(buffer: &[u8], at: &mut usize, kind: u8, max: i64, complaint: &str) -> Result<Option<i64>, String> {
    let Some(rest) = buffer.get(*at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    if rest[0] != kind {
        assert!(
            kind != b'*',
            "the Redis stand-in reads RESP arrays, not inline commands: {:?}",
            String::from_utf8_lossy(&rest[..rest.len().min(LINE_MAX)])
        );
        return Err(format!("ERR Protocol error: expected '{}', got '{}'", kind as char, rest[0] as char));
    }
    let Some(end) = rest.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if rest.len() < LINE_MAX { Ok(None) } else { Err(format!("ERR Protocol error: {complaint}")) };
    };
    let digits = rest[1..end].strip_suffix(b"\r").unwrap_or_default();
    match std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<i64>().ok()) {
        Some(number) if number <= max => {
            *at += end + 1;
            Ok(Some(number))
        }
        _ => Err(format!("ERR Protocol error: {complaint}")),
    }
}

/// Puts `words` into RESP, as a client does.
pub fn encode_command(words: &[Bytes]) -> Bytes {
    Reply::Array(words.iter().cloned().map(Reply::Bulk).collect()).encode()
}

/// Takes one whole answer off the front of `buffer` and gives its bytes; `None` if it has not all arrived.
pub fn take_reply(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = reply_length(buffer)?;
    let reply = buffer[..length].to_vec();
    buffer.advance(length);
    Some(reply.into())
}

fn reply_length(buffer: &[u8]) -> Option<usize> {
    let end = buffer.windows(2).position(|pair| pair == b"\r\n")? + 2;
    let number = || std::str::from_utf8(&buffer[1..end - 2]).ok().and_then(|digits| digits.parse::<i64>().ok());
    match buffer[0] {
        b'$' => {
            let length = number()?;
            let total = if length < 0 { end } else { end + usize::try_from(length).ok()? + 2 };
            (buffer.len() >= total).then_some(total)
        }
        b'*' => {
            let mut total = end;
            for _ in 0..number()?.max(0) {
                total += reply_length(&buffer[total..])?;
            }
            Some(total)
        }
        _ => Some(end),
    }
}
