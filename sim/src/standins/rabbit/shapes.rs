//! The shapes of frames: methods by their names, both ways.

use std::collections::BTreeSet;

use bytes::Buf;

use crate::standins::shapes::{Lane, Shapes};

/// The frames that were seen.
#[derive(Debug, Default)]
pub(super) struct Frames {
    seen: BTreeSet<String>,
}

impl Shapes for Frames {
    fn read(&mut self, lane: &mut Lane, up: bool) -> Option<()> {
        const HEADER: usize = 8;
        let way = if up { '>' } else { '<' };
        if up && !lane.open {
            lane.open = lane.bytes.len() >= HEADER;
            lane.open.then(|| lane.bytes.advance(HEADER))?;
            self.seen.insert("amqp > protocol header".to_owned());
        }
        let length = u32::from_be_bytes(lane.bytes.get(3..7)?.try_into().ok()?) as usize;
        let whole = lane.bytes.len() > 7 + length;
        let frame = whole.then(|| lane.bytes.split_to(7 + length + 1))?;
        let shape = match frame[0] {
            1 => method(u16::from_be_bytes([frame[7], frame[8]]), u16::from_be_bytes([frame[9], frame[10]])),
            2 => "content header".to_owned(),
            3 => "content body".to_owned(),
            8 => "heartbeat".to_owned(),
            other => format!("frame of type {other}"),
        };
        self.seen.insert(format!("amqp {way} {shape}"));
        Some(())
    }

    fn seen(&self) -> BTreeSet<String> {
        self.seen.clone()
    }
}

/// A method by its numbers in the protocol.
fn method(class: u16, method: u16) -> String {
    type Methods = &'static [(u16, &'static str)];
    const CLASSES: &[(u16, &str, Methods)] = &[
        (
            10,
            "connection",
            &[
                (10, "start"),
                (11, "start-ok"),
                (20, "secure"),
                (21, "secure-ok"),
                (30, "tune"),
                (31, "tune-ok"),
                (40, "open"),
                (41, "open-ok"),
                (50, "close"),
                (51, "close-ok"),
                (60, "blocked"),
                (61, "unblocked"),
            ],
        ),
        (
            20,
            "channel",
            &[(10, "open"), (11, "open-ok"), (20, "flow"), (21, "flow-ok"), (40, "close"), (41, "close-ok")],
        ),
        (40, "exchange", &[(10, "declare"), (11, "declare-ok"), (20, "delete"), (21, "delete-ok")]),
        (
            50,
            "queue",
            &[
                (10, "declare"),
                (11, "declare-ok"),
                (20, "bind"),
                (21, "bind-ok"),
                (30, "purge"),
                (31, "purge-ok"),
                (40, "delete"),
                (41, "delete-ok"),
                (50, "unbind"),
                (51, "unbind-ok"),
            ],
        ),
        (
            60,
            "basic",
            &[
                (10, "qos"),
                (11, "qos-ok"),
                (20, "consume"),
                (21, "consume-ok"),
                (30, "cancel"),
                (31, "cancel-ok"),
                (40, "publish"),
                (50, "return"),
                (60, "deliver"),
                (70, "get"),
                (71, "get-ok"),
                (72, "get-empty"),
                (80, "ack"),
                (90, "reject"),
                (110, "recover"),
                (111, "recover-ok"),
                (120, "nack"),
            ],
        ),
        (85, "confirm", &[(10, "select"), (11, "select-ok")]),
    ];
    let class_of = CLASSES.iter().find(|(number, ..)| *number == class);
    let name = class_of.and_then(|(_, name, methods)| {
        let (_, method) = methods.iter().find(|(number, _)| *number == method)?;
        Some(format!("{name}.{method}"))
    });
    name.unwrap_or_else(|| format!("method {class}.{method}"))
}
