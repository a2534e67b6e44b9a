//! Frames to bytes and back. The length of a frame is checked against what was negotiated before anything is parsed
//! or waited for, so that a peer that talks nonsense is an error at once and never a large buffer.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, BasicProperties};
use amq_protocol::types::ShortString;
use bytes::{Buf, BytesMut};

use super::error::Error;

/// Type, channel and size stand before the payload.
const HEADER: usize = 7;
/// Header and end marker: what a frame has besides its payload.
pub(super) const OVERHEAD: usize = HEADER + 1;
/// RabbitMQ's default for the largest frame, in bytes; we offer no more.
pub(super) const FRAME_MAX: u32 = 131_072;
/// Tables and arrays that one method or content header may hold. The codec descends into nested ones by recursion, at
/// more than a kilobyte of stack each, and any publisher can nest them as deep as a frame is long.
const TABLES_MAX: usize = 100;
/// The frame type of a message's body.
const BODY: u8 = 3;
/// The byte at the end of each frame.
const FRAME_END: u8 = 206;
/// The class of messages.
const BASIC: u16 = 60;

/// Takes the first frame out of `buffer`, if it is there whole.
pub(super) fn next_frame(buffer: &mut BytesMut, frame_max: u32) -> Result<Option<AMQPFrame>, Error> {
    match buffer.first() {
        None => return Ok(None),
        Some(1 | 2 | 3 | 8) => {}
        Some(b'A') => return Err(Error::Protocol("it speaks another version of AMQP".into())),
        Some(kind) => return Err(Error::Protocol(format!("no frame has type {kind}"))),
    }
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let size = u32::from_be_bytes([buffer[3], buffer[4], buffer[5], buffer[6]]) as usize;
    let whole = size.saturating_add(OVERHEAD);
    if whole > frame_max as usize {
        return Err(Error::Protocol(format!("a frame of {whole} bytes, {frame_max} agreed")));
    }
    if buffer.len() < whole {
        return Ok(None);
    }
    if buffer[whole - 1] != FRAME_END {
        return Err(Error::Protocol("a frame without its end marker".into()));
    }
    if buffer[0] != BODY && tables(&buffer[..whole]) > TABLES_MAX {
        return Err(Error::Protocol(format!("a method or header with more than {TABLES_MAX} tables")));
    }
    let frame = match parse_frame(&buffer[..whole]) {
        Ok(([], frame)) => frame,
        Ok(_) => return Err(Error::Protocol("a frame longer than its contents".into())),
        Err(error) => return Err(Error::Protocol(format!("a frame that does not parse: {error}"))),
    };
    buffer.advance(whole);
    Ok(Some(frame))
}

/// At least as many tables and arrays as the codec would find: each begins with its type and a length below 2^17.
fn tables(frame: &[u8]) -> usize {
    frame.windows(3).filter(|start| matches!(start, [b'F' | b'A', 0, 0 | 1])).count()
}

/// Bytes that wait for the socket.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// The bytes that are not written yet.
    pub(super) fn waiting(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Notes that the first `count` waiting bytes were written.
    pub(super) fn wrote(&mut self, count: usize) {
        self.sent += count;
        // All of it, or enough to be worth the move: a socket that is never quite idle must not let this grow.
        if self.sent >= self.bytes.len() / 2 {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Appends a frame.
    pub(super) fn frame(&mut self, frame: &AMQPFrame) -> Result<(), Error> {
        let buffer = std::mem::take(&mut self.bytes);
        match gen_frame(frame)(WriteContext::from(buffer)) {
            Ok(context) => {
                self.bytes = context.into_inner().0;
                Ok(())
            }
            Err(error) => Err(Error::Protocol(format!("a frame cannot be written: {error}"))),
        }
    }

    /// Appends a method.
    pub(super) fn method(&mut self, channel: u16, method: AMQPClass) -> Result<(), Error> {
        self.frame(&AMQPFrame::Method(channel, method))
    }

    /// Appends a message's header and as many body frames as `frame_max` wants; none for an empty body.
    pub(super) fn content(
        &mut self,
        channel: u16,
        properties: BasicProperties,
        body: &[u8],
        frame_max: u32,
    ) -> Result<(), Error> {
        let header = AMQPContentHeader { class_id: BASIC, body_size: body.len() as u64, properties };
        self.frame(&AMQPFrame::Header(channel, header))?;
        for chunk in body.chunks(frame_max as usize - OVERHEAD) {
            self.frame(&AMQPFrame::Body(channel, chunk.to_vec()))?;
        }
        Ok(())
    }
}

/// A message on its way in: what announced it, then its header, then its body.
#[derive(Debug)]
pub(super) struct Arriving<A> {
    announced: A,
    properties: Option<BasicProperties>,
    size: usize,
    body: Vec<u8>,
}

impl<A> Arriving<A> {
    /// `announced` was read; its header is next.
    pub(super) fn new(announced: A) -> Self {
        Arriving { announced, properties: None, size: 0, body: Vec::new() }
    }

    /// The header. A message over `body_max` bytes ends the connection before it is read.
    pub(super) fn header(&mut self, header: AMQPContentHeader, body_max: usize) -> Result<(), Error> {
        if self.properties.is_some() || header.class_id != BASIC {
            return Err(Error::Protocol("a content header out of place".into()));
        }
        if header.body_size > body_max as u64 {
            return Err(Error::Protocol(format!("a message of {} bytes, {body_max} allowed", header.body_size)));
        }
        self.size = header.body_size as usize;
        self.properties = Some(header.properties);
        Ok(())
    }

    /// A piece of its body.
    pub(super) fn body(&mut self, piece: &[u8]) -> Result<(), Error> {
        if self.properties.is_none() || self.body.len() + piece.len() > self.size {
            return Err(Error::Protocol("a content body out of place".into()));
        }
        self.body.extend_from_slice(piece);
        Ok(())
    }

    /// Whether all of it is there.
    pub(super) fn complete(&self) -> bool {
        self.properties.is_some() && self.body.len() == self.size
    }

    /// The method that announced it, the properties and the body.
    pub(super) fn finish(self) -> (A, BasicProperties, Vec<u8>) {
        (self.announced, self.properties.unwrap_or_default(), self.body)
    }
}

/// A string that fits AMQP's short strings: at most 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, Error> {
    ShortString::try_new(text).map_err(|error| Error::Invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_frame_waits_and_a_whole_one_is_taken() {
        let mut outbox = Outbox::default();
        outbox.frame(&AMQPFrame::Heartbeat).unwrap();
        let mut buffer = BytesMut::from(&outbox.waiting()[..5]);
        assert_eq!(next_frame(&mut buffer, FRAME_MAX), Ok(None));
        buffer.extend_from_slice(&outbox.waiting()[5..]);
        buffer.extend_from_slice(&[8]);
        assert_eq!(next_frame(&mut buffer, FRAME_MAX), Ok(Some(AMQPFrame::Heartbeat)));
        assert_eq!(&buffer[..], [8]);
    }

    #[test]
    fn nonsense_is_an_error_at_once() {
        for nonsense in
            [&b"HTTP/1.1 400"[..], b"AMQP\0\0\x09\x01", &[1, 0, 0, 255, 255, 255, 255], &[8, 0, 0, 0, 0, 0, 0, 7]]
        {
            let mut buffer = BytesMut::from(nonsense);
            assert!(matches!(next_frame(&mut buffer, FRAME_MAX), Err(Error::Protocol(_))), "{nonsense:?}");
        }
    }

    /// A content header with nothing but headers: `{"": {"": {"": …}}}`.
    fn nested(depth: usize) -> BytesMut {
        let mut table = 0u32.to_be_bytes().to_vec();
        for _ in 0..depth {
            let size = table.len() as u32 + 2;
            table.splice(0..0, size.to_be_bytes().into_iter().chain([0, b'F']));
        }
        let mut frame = vec![2, 0, 1];
        frame.extend((14 + table.len() as u32).to_be_bytes());
        frame.extend([0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0]);
        frame.extend(table);
        frame.push(FRAME_END);
        BytesMut::from(&frame[..])
    }

    #[test]
    fn nested_tables_do_not_exhaust_the_stack() {
        let parsed = next_frame(&mut nested(TABLES_MAX), FRAME_MAX);
        assert!(matches!(parsed, Ok(Some(AMQPFrame::Header(1, _)))), "{parsed:?}");
        let refused = next_frame(&mut nested(20_000), FRAME_MAX);
        assert!(matches!(refused, Err(Error::Protocol(_))), "{refused:?}");
    }

    #[test]
    fn content_is_cut_at_frame_max_and_put_together_again() {
        let body: Vec<u8> = (0..100u8).collect();
        let mut outbox = Outbox::default();
        outbox.content(1, BasicProperties::default(), &body, 40).unwrap();
        let mut buffer = BytesMut::from(outbox.waiting());
        let mut arriving = Arriving::new(());
        while let Some(frame) = next_frame(&mut buffer, 40).unwrap() {
            match frame {
                AMQPFrame::Header(1, header) => arriving.header(header, 100).unwrap(),
                AMQPFrame::Body(1, piece) => arriving.body(&piece).unwrap(),
                other => panic!("{other:?}"),
            }
        }
        assert!(arriving.complete());
        assert_eq!(arriving.finish().2, body);
    }
}
