//! HTTP/1.1: [`server`] serves a router and lets its connections finish, [`client`] asks one request a connection.

pub(crate) mod client;
pub(crate) mod server;
