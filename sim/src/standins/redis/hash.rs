//! A hash: its fields in the order in which they came, as Redis keeps hashes of up to 128 short fields. Of larger ones
//! Redis promises no order; these go on with theirs.

use std::collections::BTreeMap;

use bytes::Bytes;

/// Fields with their values.
#[derive(Clone, Debug, Default)]
pub struct Hash {
    /// Each with its place.
    fields: BTreeMap<Bytes, (u64, Bytes)>,
    order: BTreeMap<u64, Bytes>,
    /// The place of the next field that comes.
    next: u64,
}

impl Hash {
    /// Sets a field, which keeps its place if it has one. Says whether it is new.
    pub fn set(&mut self, field: Bytes, value: Bytes) -> bool {
        if let Some((_, old)) = self.fields.get_mut(&field) {
            *old = value;
            return false;
        }
        self.order.insert(self.next, field.clone());
        self.fields.insert(field, (self.next, value));
        self.next += 1;
        true
    }

    /// A field's value.
    pub fn get(&self, field: &Bytes) -> Option<&Bytes> {
        self.fields.get(field).map(|(_, value)| value)
    }

    /// Takes a field off. Says whether it was there.
    pub fn remove(&mut self, field: &Bytes) -> bool {
        self.fields.remove(field).is_some_and(|(place, _)| self.order.remove(&place).is_some())
    }

    /// How many fields it has.
    pub fn count(&self) -> usize {
        self.fields.len()
    }

    /// Fields with their values, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.order.values().filter_map(|field| Some((field, self.get(field)?)))
    }
}
