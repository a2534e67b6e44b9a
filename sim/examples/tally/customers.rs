//! Customers order, and ask again until they are told `ok`. Their one law: what they do is data, so that a plan can say
//! it, print it and shrink it.

use std::io::{ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

use lychgate_sim::world::product::{User, UserContext, Workload};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::events::Did;

/// So long does a customer wait before asking again.
const PATIENCE: Duration = Duration::from_secs(10);
/// And rests before that.
const PAUSE: Duration = Duration::from_secs(1);

/// `[[users]]` of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Customers(pub Vec<Customer>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Customer {
    /// As `ann`; the orders are `ann/1`, `ann/2` and so on.
    pub name: String,
    /// How many there are.
    pub orders: u32,
    /// When the first one is placed; the others follow.
    #[serde(default, with = "lychgate_sim::plan::duration")]
    pub at: Duration,
    /// How long after one is accepted the next one is placed.
    #[serde(default, with = "lychgate_sim::plan::duration")]
    pub every: Duration,
}

impl Customer {
    fn order(&self, number: u32) -> String {
        format!("{}/{number}", self.name)
    }
}

impl Workload for Customers {
    fn sessions(&self) -> Vec<String> {
        self.0.iter().flat_map(|customer| (1..=customer.orders).map(|number| customer.order(number))).collect()
    }

    fn users(&self) -> Vec<String> {
        self.0.iter().map(|customer| customer.name.clone()).collect()
    }

    /// Without one customer; else with one order less.
    fn smaller(&self) -> Vec<Self> {
        let without = (0..self.0.len()).map(|at| {
            let mut fewer = self.clone();
            fewer.0.remove(at);
            fewer
        });
        let quieter = (0..self.0.len()).filter(|at| self.0[*at].orders > 1).map(|at| {
            let mut fewer = self.clone();
            fewer.0[at].orders -= 1;
            fewer
        });
        without.chain(quieter).collect()
    }
}

/// The actors.
pub fn users(customers: &Customers) -> Vec<User<Did>> {
    let user = |customer: &Customer| {
        let customer = customer.clone();
        User { name: customer.name.clone(), act: Box::new(move |seat| Box::pin(shop(customer, seat))) }
    };
    customers.0.iter().map(user).collect()
}

async fn shop(customer: Customer, seat: UserContext<Did>) {
    sleep(customer.at).await;
    // The first till there is.
    let Some(till) = seat.links.values().next().copied() else { return };
    for number in 1..=customer.orders {
        let order = customer.order(number);
        while !matches!(timeout(PATIENCE, place(till, &order)).await, Ok(Ok(()))) {
            sleep(PAUSE).await;
        }
        (seat.tell)(Did::Accepted { order });
        sleep(customer.every).await;
    }
}

async fn place(till: SocketAddr, order: &str) -> Result<()> {
    let mut stream = BufReader::new(TcpStream::connect(till).await?);
    stream.write_all(format!("{order}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut answer = String::new();
    stream.read_line(&mut answer).await?;
    if answer == "ok\n" { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
}
