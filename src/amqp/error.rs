//! The errors, by what the caller does about them.

/// An error has the variants that a caller acts on. Cloned to everyone who waited on the same connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The stream ended or failed. What was published and not confirmed may or may not have arrived.
    #[error("connection to the broker lost: {0}")]
    Lost(String),
    /// The peer sent nothing for two heartbeat intervals.
    #[error("the broker has been silent for {0:?}")]
    Silent(std::time::Duration),
    /// The peer broke the protocol, or is none.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// The broker closed or refused the connection: 403 bad credentials, 320 shutting down, 530 no such vhost.
    #[error("the broker closed the connection: {code} {text}")]
    ConnectionClosed {
        /// AMQP's reply code.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The request was not answered in time. The connection is over.
    #[error("the broker did not answer {what} in time")]
    Timeout {
        /// The request.
        what: &'static str,
    },
    /// We closed or dropped the connection, the channel or the consumer ourselves.
    #[error("closed by ourselves")]
    Closed,
    /// The broker closed the channel; the connection goes on. Unacknowledged deliveries of the channel went back.
    #[error("the broker closed the channel: {code} {text}")]
    ChannelClosed {
        /// AMQP's reply code: 404 not found, 405 locked, 406 precondition failed.
        code: u16,
        /// The broker's words.
        text: String,
    },
    /// The broker cancelled the consumer, as when its queue is deleted. The channel goes on.
    #[error("the broker cancelled the consumer")]
    Cancelled,
    /// The confirm did not come in time: the message may or may not be there. The connection goes on.
    #[error("the broker did not confirm the message in time")]
    Unconfirmed,
    /// The broker is short of memory or disk and takes no messages; nothing was sent. It says so after the first
    /// publish (which ends [`Error::Unconfirmed`] unless it recovers in time) and reads nothing from this connection
    /// until then, acknowledgements included: publish and consume on different connections.
    #[error("the broker takes no messages: {0}")]
    Blocked(String),
    /// An argument that the wire cannot carry; nothing was sent.
    #[error("cannot be said in AMQP: {0}")]
    Invalid(String),
}

impl Error {
    /// Whether the connection is over, so that the caller has to dial again.
    pub fn is_over(&self) -> bool {
        match self {
            Error::Lost(_)
            | Error::Silent(_)
            | Error::Protocol(_)
            | Error::ConnectionClosed { .. }
            | Error::Timeout { .. }
            | Error::Closed => true,
            Error::ChannelClosed { .. }
            | Error::Cancelled
            | Error::Unconfirmed
            | Error::Blocked(_)
            | Error::Invalid(_) => false,
        }
    }
}
