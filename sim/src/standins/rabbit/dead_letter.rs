//! Dead letters: what is written on a message that its queue gives up, and where it may not go.
//!
//! Its law: **the newest death is first, and there is one for each queue and reason.** A death that repeats is counted, and
//! keeps the time of the first.

use amq_protocol::types::{AMQPValue, FieldArray, FieldTable, LongString};

use super::queue::DeadLetters;
use super::store::Message;

const DEATHS: &str = "x-death";

/// Why a queue gives a message up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The consumer refused it for good.
    Rejected,
    /// The message came back too often.
    DeliveryLimit,
}

impl Reason {
    /// RabbitMQ's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// The message as it leaves `queue`, at `time` in seconds since 1970.
pub(super) fn letter(message: &Message, queue: &str, reason: Reason, to: &DeadLetters, time: u64) -> Message {
    let mut headers = message.properties.headers().clone().unwrap_or_default();
    let mut earlier = deaths(&headers);
    // RabbitMQ turns them round whenever it looks through more than one.
    earlier.reverse();
    let same = |death: &FieldTable| is(death, "queue", queue) && is(death, "reason", reason.word());
    let death = match earlier.iter().position(same) {
        Some(again) => counted(earlier.remove(again)),
        None => {
            if earlier.is_empty() {
                headers.insert("x-first-death-reason".into(), text(reason.word()));
                headers.insert("x-first-death-queue".into(), text(queue));
                headers.insert("x-first-death-exchange".into(), text(&message.exchange));
            }
            first(message, queue, reason, time)
        }
    };
    let all = std::iter::once(death).chain(earlier).map(AMQPValue::FieldTable).collect::<Vec<_>>();
    headers.insert(DEATHS.into(), AMQPValue::FieldArray(FieldArray::from(all)));
    Message {
        exchange: to.exchange.clone(),
        routing_key: to.routing_key.clone().unwrap_or_else(|| message.routing_key.clone()),
        properties: message.properties.clone().with_headers(headers),
        body: message.body.clone(),
    }
}

/// Whether a letter would go round for ever: it died in `queue` before, and nobody has refused it since.
pub(super) fn goes_round(letter: &Message, queue: &str, reason: Reason) -> bool {
    let deaths = letter.properties.headers().as_ref().map(deaths).unwrap_or_default();
    let Some(last) = deaths.iter().position(|death| is(death, "queue", queue)) else { return false };
    let refused = |death: &FieldTable| is(death, "reason", Reason::Rejected.word());
    reason != Reason::Rejected && !deaths[..=last].iter().any(refused)
}

fn first(message: &Message, queue: &str, reason: Reason, time: u64) -> FieldTable {
    let mut death = FieldTable::default();
    death.insert("count".into(), AMQPValue::LongLongInt(1));
    death.insert("reason".into(), text(reason.word()));
    death.insert("queue".into(), text(queue));
    death.insert("time".into(), AMQPValue::Timestamp(time));
    death.insert("exchange".into(), text(&message.exchange));
    let keys = FieldArray::from(vec![text(&message.routing_key)]);
    death.insert("routing-keys".into(), AMQPValue::FieldArray(keys));
    death
}

fn counted(mut death: FieldTable) -> FieldTable {
    match death.inner().get("count") {
        Some(AMQPValue::LongLongInt(count)) => {
            let count = AMQPValue::LongLongInt(count + 1);
            death.insert("count".into(), count);
        }
        other => panic!("RabbitMQ stand-in: a death that is counted as {other:?} is not known here"),
    }
    death
}

/// The deaths on a message, newest first.
fn deaths(headers: &FieldTable) -> Vec<FieldTable> {
    let death = |value: &AMQPValue| match value {
        AMQPValue::FieldTable(death) => death.clone(),
        other => panic!("RabbitMQ stand-in: {other:?} among deaths is not known here"),
    };
    match headers.inner().get(DEATHS) {
        None => Vec::new(),
        Some(AMQPValue::FieldArray(deaths)) => deaths.as_slice().iter().map(death).collect(),
        Some(other) => panic!("RabbitMQ stand-in: {DEATHS} = {other:?} is not known here"),
    }
}

fn is(death: &FieldTable, field: &str, value: &str) -> bool {
    matches!(death.inner().get(field), Some(AMQPValue::LongString(text)) if text.as_bytes() == value.as_bytes())
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(value))
}

#[cfg(test)]
mod tests {
    use amq_protocol::protocol::BasicProperties;

    use super::*;

    fn to(exchange: &str, routing_key: Option<&str>) -> DeadLetters {
        DeadLetters { exchange: exchange.into(), routing_key: routing_key.map(Into::into) }
    }

    fn message() -> Message {
        let properties = BasicProperties::default();
        Message { exchange: "x".into(), routing_key: "key".into(), properties, body: "m".into() }
    }

    fn field<'a>(table: &'a FieldTable, name: &str) -> &'a AMQPValue {
        table.inner().get(name).expect("it is written")
    }

    /// Queue, reason, count and time of each death.
    fn story(message: &Message) -> Vec<String> {
        let word = |value: &AMQPValue| match value {
            AMQPValue::LongString(text) => text.to_string(),
            AMQPValue::LongLongInt(count) => count.to_string(),
            AMQPValue::Timestamp(time) => format!("at {time}"),
            other => panic!("{other:?}"),
        };
        let line =
            |death: &FieldTable| ["queue", "reason", "count", "time"].map(|name| word(field(death, name))).join(" ");
        deaths(message.properties.headers().as_ref().expect("headers")).iter().map(line).collect()
    }

    #[test]
    fn the_newest_death_is_first_and_a_repeated_one_is_counted() {
        let (one, two) = (to("dlx", None), to("", Some("there")));
        let letter = letter(&message(), "a", Reason::Rejected, &one, 5);
        assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), ("dlx", "key"));
        assert_eq!(story(&letter), ["a rejected 1 at 5"]);
        let second = super::letter(&letter, "b", Reason::DeliveryLimit, &two, 6);
        assert_eq!((second.exchange.as_str(), second.routing_key.as_str()), ("", "there"));
        assert_eq!(story(&second), ["b delivery_limit 1 at 6", "a rejected 1 at 5"]);
        let third = super::letter(&second, "a", Reason::Rejected, &one, 7);
        assert_eq!(story(&third), ["a rejected 2 at 5", "b delivery_limit 1 at 6"]);
        let fourth = super::letter(&third, "a", Reason::DeliveryLimit, &one, 8);
        assert_eq!(story(&fourth), ["a delivery_limit 1 at 8", "b delivery_limit 1 at 6", "a rejected 2 at 5"]);
        let headers = fourth.properties.headers().as_ref().expect("headers");
        for (name, value) in [("queue", "a"), ("reason", "rejected"), ("exchange", "x")] {
            assert_eq!(*field(headers, &format!("x-first-death-{name}")), text(value));
        }
    }

    #[test]
    fn a_letter_that_nobody_refused_goes_round_once() {
        let back = to("", Some("back"));
        let letter = letter(&message(), "a", Reason::DeliveryLimit, &back, 5);
        assert!(goes_round(&letter, "a", Reason::DeliveryLimit));
        assert!(!goes_round(&letter, "b", Reason::DeliveryLimit));
        let refused = super::letter(&letter, "b", Reason::Rejected, &back, 6);
        assert!(!goes_round(&refused, "a", Reason::DeliveryLimit), "somebody has refused it since");
        assert!(!goes_round(&letter, "a", Reason::Rejected), "somebody refuses it now");
    }
}
