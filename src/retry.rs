//! A call to Postgres, repeated while Postgres is unavailable. Only [`StoreError::Unavailable`] and [`StoreError::Login`]
//! are repeated: an answer, a refusal and a closed pool go to the caller at once.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::limits;
use crate::store::StoreError;

/// Repeats `call` for as long as Postgres needs, with pauses that grow. `what` is what waits, for the log.
///
/// # Errors
/// [`StoreError::Refused`] and [`StoreError::Closed`].
pub(crate) async fn retry<T, F>(what: impl Display, call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    repeat(what, Backoff::default(), None, call).await
}

/// As [`retry`], but a login that is refused goes to the caller: when a process starts, its settings are likely wrong.
///
/// # Errors
/// Every [`StoreError`] but [`StoreError::Unavailable`].
pub(crate) async fn retry_at_start<T, F>(what: impl Display, mut call: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    retry(what, || {
        let called = call();
        async move {
            match called.await {
                Err(StoreError::Login(says)) => Ok(Err(StoreError::Login(says))),
                Err(error) => Err(error),
                Ok(answer) => Ok(Ok(answer)),
            }
        }
    })
    .await?
}

/// Repeats `call` every [`limits::CLAIM_RETRY`], and begins none that `bound` does not leave time for. A call that has
/// begun is not cut: it has a bound of its own.
///
/// # Errors
/// Every [`StoreError`].
pub(crate) async fn retry_within<T, F>(
    what: impl Display,
    bound: Duration,
    call: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    repeat(what, Backoff::steady(limits::CLAIM_RETRY), Some(Instant::now() + bound), call).await
}

async fn repeat<T, F>(
    what: impl Display,
    mut backoff: Backoff,
    until: Option<Instant>,
    mut call: impl FnMut() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        let error = match call().await {
            Err(error @ (StoreError::Unavailable(_) | StoreError::Login(_))) => error,
            answered => return answered,
        };
        if until.is_some_and(|until| Instant::now() + backoff.next() >= until) {
            return Err(error);
        }
        tracing::warn!(%what, %error, "waiting for Postgres");
        backoff.wait().await;
    }
}
