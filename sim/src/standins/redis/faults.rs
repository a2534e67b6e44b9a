//! What a Redis answers when it is not well. The texts of READONLY and OOM are those of Redis 7.0.15, tried; that of
//! LOADING, and what is answered in spite of it, stand in its source (`server.c`, and the flags of `commands.c`).

use super::keyspace::{Keyspace, Refusal};
use crate::plan::ServiceFault;
use crate::standins::clock::Clock;

/// Commands that write.
const WRITES: &[&str] = &[
    "del", "expire", "flushall", "hdel", "hmset", "hset", "incr", "incrby", "persist", "pexpire", "set", "xadd",
    "xdel", "xtrim",
];
/// Those of them that may need memory.
const GROWS: &[&str] = &["hmset", "hset", "incr", "incrby", "set", "xadd"];
/// Those that ask what time it is.
const TIMED: &[&str] = &["expire", "pexpire", "set", "time", "xadd"];
/// What is answered while the data is read from disk.
const WHILE_LOADING: &[&str] = &["publish", "script", "subscribe", "unsubscribe"];

/// What ails it.
#[derive(Debug, Default)]
pub struct Faults {
    readonly: bool,
    loading: bool,
    full: bool,
    pub(super) clock: Clock,
    /// What a replica knows that will take over.
    elsewhere: Option<Keyspace>,
    /// A script that has written goes on, as long as that may take.
    pub script_wrote: bool,
    /// The word for what the last command suffered from.
    pub suffered: Option<&'static str>,
}

impl Faults {
    /// Begins.
    ///
    /// # Panics
    /// What Redis does not suffer from.
    pub fn begin(&mut self, ailment: ServiceFault, keys: &mut Keyspace) {
        match ailment {
            ServiceFault::Readonly => self.readonly = true,
            ServiceFault::Loading => self.loading = true,
            ServiceFault::Full => self.full = true,
            ServiceFault::Failover => self.elsewhere = Some(keys.clone()),
            // The whole of it begins anew; and what is evicted or flushed is gone.
            ServiceFault::Restart | ServiceFault::Evict | ServiceFault::Flush => {}
            other if self.clock.set(other, true) => {}
            other => panic!("the Redis stand-in does not know the fault {}", other.name()),
        }
    }

    /// Ends.
    pub fn end(&mut self, ailment: ServiceFault, keys: &mut Keyspace) {
        match ailment {
            ServiceFault::Readonly => self.readonly = false,
            ServiceFault::Loading => self.loading = false,
            ServiceFault::Full => self.full = false,
            ServiceFault::Failover => {
                if let Some(elsewhere) = self.elsewhere.take() {
                    *keys = elsewhere;
                }
            }
            other => _ = self.clock.set(other, false),
        }
    }

    /// Whether it answers a client's command with a refusal, whatever the command does.
    ///
    /// # Errors
    /// That refusal.
    pub fn hear(&mut self, name: &str) -> Result<(), Refusal> {
        self.script_wrote = false;
        if self.loading && !WHILE_LOADING.contains(&name) {
            self.suffered = Some(ServiceFault::Loading.name());
            return Err(Refusal("LOADING Redis is loading the dataset in memory".into()));
        }
        Ok(())
    }

    /// Whether it lets a command run, a client's or a script's.
    ///
    /// # Errors
    /// Redis's refusal.
    pub fn allow(&mut self, name: &str) -> Result<(), Refusal> {
        if self.readonly && WRITES.contains(&name) {
            self.suffered = Some(ServiceFault::Readonly.name());
            return Err(Refusal("READONLY You can't write against a read only replica.".into()));
        }
        if self.full && !self.script_wrote && GROWS.contains(&name) {
            self.suffered = Some(ServiceFault::Full.name());
            return Err(Refusal("OOM command not allowed when used memory > 'maxmemory'.".into()));
        }
        if let Some(ailment) = self.clock.misleads()
            && TIMED.contains(&name)
        {
            self.suffered = Some(ailment.name());
        }
        self.script_wrote |= WRITES.contains(&name);
        Ok(())
    }
}
