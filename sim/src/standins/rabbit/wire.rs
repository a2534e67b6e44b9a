//! Bytes to frames and back. A client that sends nonsense is a bug in the system under test: it stops the run.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::BasicProperties;
use bytes::{Buf, BytesMut};

/// Type, channel and size before the payload, the end marker after it.
const OVERHEAD: usize = 8;
/// What a protocol header measures.
const PROTOCOL_HEADER: usize = 8;
/// The class of messages.
const BASIC: u16 = 60;

/// Takes the first frame out of `inbox`, if it is there whole.
pub(super) fn next_frame(inbox: &mut BytesMut, frame_max: u32) -> Option<AMQPFrame> {
    let whole = match inbox.first()? {
        b'A' => PROTOCOL_HEADER,
        _ if inbox.len() < OVERHEAD => return None,
        _ => u32::from_be_bytes([inbox[3], inbox[4], inbox[5], inbox[6]]) as usize + OVERHEAD,
    };
    assert!(
        whole <= frame_max as usize,
        "RabbitMQ stand-in: a client sent a frame of {whole} bytes, {frame_max} agreed"
    );
    if inbox.len() < whole {
        return None;
    }
    match parse_frame(&inbox[..whole]) {
        Ok(([], frame)) => {
            inbox.advance(whole);
            Some(frame)
        }
        other => panic!("RabbitMQ stand-in: a client sent what is no frame: {other:?}"),
    }
}

/// Appends a frame.
pub(super) fn write_frame(frame: &AMQPFrame, outbox: &mut Vec<u8>) {
    let buffer = std::mem::take(outbox);
    *outbox = gen_frame(frame)(WriteContext::from(buffer))
        .unwrap_or_else(|error| panic!("RabbitMQ stand-in: {frame:?} cannot be written: {error}"))
        .into_inner()
        .0;
}

/// A message's header and body frames; no body frame for an empty body.
pub(super) fn content(channel: u16, properties: &BasicProperties, body: &[u8], frame_max: u32) -> Vec<AMQPFrame> {
    let header = AMQPContentHeader { class_id: BASIC, body_size: body.len() as u64, properties: properties.clone() };
    let mut frames = vec![AMQPFrame::Header(channel, header)];
    frames.extend(body.chunks(frame_max as usize - OVERHEAD).map(|chunk| AMQPFrame::Body(channel, chunk.to_vec())));
    frames
}
