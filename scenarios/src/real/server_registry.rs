//! Where the servers of all stories live that are being told. Its one law: a program that is told to stop ends every one of them
//! first, also those that are just being started.

use std::collections::BTreeMap;
use std::process::exit;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use lychgate_sim::real::RealServer;

use super::Servers;

/// See the module.
#[derive(Default)]
pub struct ServerRegistry {
    /// Held for reading by a thread that starts or ends servers; held for writing, and for good, by the one that ends the program.
    door: RwLock<()>,
    servers: Mutex<BTreeMap<u64, Servers>>,
}

impl ServerRegistry {
    /// Lets `tell` tell a story with fresh servers, which end after it whatever becomes of it.
    ///
    /// # Panics
    /// A server does not come up.
    pub fn tell<T>(&self, tell: impl FnOnce(BTreeMap<&'static str, RealServer>) -> T) -> T {
        let guest = self.start();
        let elsewhere = self.servers()[&guest.number].elsewhere();
        tell(elsewhere)
    }

    /// Ends all servers and the program.
    pub fn close(&self, code: i32) -> ! {
        let _shut = self.door.write().unwrap_or_else(PoisonError::into_inner);
        let all = std::mem::take(&mut *self.servers());
        // Each may take its time over it.
        std::thread::scope(|scope| all.into_values().for_each(|servers| _ = scope.spawn(move || drop(servers))));
        exit(code)
    }

    fn start(&self) -> Lease<'_> {
        let _open = self.door.read().unwrap_or_else(PoisonError::into_inner);
        let started = Servers::start();
        let mut servers = self.servers();
        let number = servers.last_key_value().map_or(0, |(number, _)| number + 1);
        servers.insert(number, started);
        Lease { house: self, number }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<u64, Servers>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The servers of one story.
struct Lease<'h> {
    house: &'h ServerRegistry,
    number: u64,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let _open = self.house.door.read().unwrap_or_else(PoisonError::into_inner);
        let servers = self.house.servers().remove(&self.number);
        // Not while the others wait for the lock.
        drop(servers);
    }
}
