//! Faults for a person who tries the product by hand: they make the provider on loopback refuse a subscription, and heal it.
//! A person pulls them, so that each wrong pull is told what is right; it ends nothing.

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use lychgate::limits::SKIP_WINDOW;
use lychgate_sim::plan::Kind;
use lychgate_sim::standins::listener::{Listener, Stream};
use lychgate_sim::standins::observation::Tap;
use lychgate_sim::standins::provider::Provider;
use lychgate_sim::standins::provider::faults::{REFUSALS, REFUSE};
use lychgate_sim::standins::{Control, StandIn};

/// The name under which they stand among the stand-ins.
pub const NAME: &str = "levers";

/// What they do, for a request that asks for something else.
const USAGE: &str = "POST /subscriptions/TOKEN/fail?status=429, or POST /subscriptions/TOKEN/heal";

/// Whom they act on.
#[derive(Clone)]
struct FaultAdmin {
    provider: Provider,
    tokens: Arc<Vec<String>>,
}

/// The levers of the subscriptions with these bearer tokens, over HTTP.
pub fn service(provider: Provider, tokens: Vec<String>) -> impl StandIn {
    FaultAdmin { provider, tokens: Arc::new(tokens) }
}

impl StandIn for FaultAdmin {
    fn name(&self) -> &'static str {
        NAME
    }

    fn port(&self) -> u16 {
        0
    }

    fn serve(&self, listener: Listener, _: Tap) -> BoxFuture<'static, ()> {
        Box::pin(FaultAdmin::serve(self.clone(), listener))
    }
}

impl FaultAdmin {
    async fn serve(self, mut listener: Listener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(self.clone().connection(stream));
                }
                Err(error) => tracing::debug!(%error, "the levers could not accept"),
            }
        }
    }

    async fn connection(self, stream: Stream) {
        let answer = service_fn(|request: Request<Incoming>| {
            let (status, says) = match self.pull(request.method(), request.uri().path(), request.uri().query()) {
                Ok(says) => (StatusCode::OK, says),
                Err((status, says)) => (status, says),
            };
            let mut response = Response::new(Full::new(Bytes::from(says + "\n")));
            *response.status_mut() = status;
            async move { Ok::<_, Infallible>(response) }
        });
        if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await {
            tracing::debug!(%error, "the caller of the fault admin hung up");
        }
    }

    /// What came of it, in words; or why nothing did.
    fn pull(&self, method: &Method, path: &str, query: Option<&str>) -> Result<String, (StatusCode, String)> {
        let path: Vec<&str> = path.split('/').skip(1).collect();
        let ["subscriptions", token, deed @ ("fail" | "heal")] = path[..] else {
            return Err((StatusCode::NOT_FOUND, format!("there is no such lever: {USAGE}")));
        };
        if method != Method::POST {
            return Err((StatusCode::METHOD_NOT_ALLOWED, format!("levers are pulled by POST: {USAGE}")));
        }
        if !self.tokens.iter().any(|known| known == token) {
            let says = format!("no subscription has the token `{token}`: there are {}", self.tokens.join(", "));
            return Err((StatusCode::NOT_FOUND, says));
        }
        let caller = token.to_owned();
        if deed == "heal" {
            self.provider.control(Control::EndFor { caller, fault: Kind::of(&REFUSE) });
            let back = lychgate_sim::plan::duration::print(SKIP_WINDOW);
            return Ok(format!(
                "the provider takes {token} again; agents may come back to it {back} after its failure"
            ));
        }
        let status = status(query).map_err(|says| (StatusCode::BAD_REQUEST, says))?;
        self.provider.control(Control::BeginFor { caller, fault: Kind::of(&REFUSE).with("status", status) });
        Ok(format!("the provider refuses {token} with {status} from its next call on"))
    }
}

/// With which status to refuse: 429, if nothing else is said.
fn status(query: Option<&str>) -> Result<u16, String> {
    let Some(query) = query else { return Ok(429) };
    let said = query.strip_prefix("status=").and_then(|text| text.parse().ok());
    said.filter(|status| REFUSALS.contains(status)).ok_or_else(|| {
        let known: Vec<String> = REFUSALS.iter().map(u16::to_string).collect();
        format!("`{query}` is no status to refuse with: `status=` and one of {}", known.join(", "))
    })
}
