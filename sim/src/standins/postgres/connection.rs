//! One connection: start-up, then Postgres's simple and extended protocols, message by message.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Describe, Execute, Parse, ParseComplete, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, GssEncResponse, NoticeResponse, ReadyForQuery, SslResponse, TransactionStatus,
};
use pgwire::messages::startup::{Authentication, BackendKeyData, ParameterStatus, SecretKey, Startup};
use pgwire::messages::{PgWireBackendMessage as Out, PgWireFrontendMessage as In, SslNegotiationMetaMessage};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Shared;
use super::data_type::Type;
use super::engine::Plan;
use super::faults::Login;
use super::observation::Value;
use super::refusal::Refusal;
use super::session::{Answer, Session, Transaction};
use super::statement::{Statement, Verb, set, statements};
use super::wire::{Format, Wire, description, parameter, row};
use crate::standins::observation::{FaultObserved, Tap};

/// How long a client may take over its start-up, as `authentication_timeout` has it.
const STARTUP_MAX: Duration = Duration::from_secs(60);

/// What the server says of itself. Clients insist on the encoding.
const STATUS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("integer_datetimes", "on"),
    ("server_encoding", "UTF8"),
    ("server_version", "15.0"),
    ("standard_conforming_strings", "on"),
    ("TimeZone", "Etc/UTC"),
];

/// A bound statement.
struct Portal {
    plan: Arc<Plan>,
    params: Vec<Value>,
    formats: Vec<i16>,
}

struct Connection<S> {
    wire: Wire<S>,
    shared: Arc<Shared>,
    session: Session,
    statements: BTreeMap<String, Arc<Plan>>,
    portals: BTreeMap<String, Portal>,
    /// After an error in the extended protocol everything is passed over until the `Sync`.
    skipping: bool,
}

/// Serves one client until it leaves.
pub(super) async fn serve<S>(stream: S, peer: SocketAddr, shared: Arc<Shared>, tap: Tap)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut wire = Wire::new(stream);
    let Ok(Some(startup)) = tokio::time::timeout(STARTUP_MAX, greet(&mut wire, &shared)).await else { return };
    let asked = async {
        let asks = shared.faults().asks_for_password();
        if asks { password(&mut wire).await } else { Some(()) }
    };
    let Ok(Some(())) = tokio::time::timeout(STARTUP_MAX, asked).await else { return };
    let login = Login { user: user(&startup), database: database(&startup), host: peer.ip() };
    let registration = match shared.register(&login) {
        Ok(registration) => registration,
        Err(refused) => {
            let (fault, refusal) = *refused;
            let (ailment, request) = (fault.word(), Vec::new());
            tap(FaultObserved { peer, service: "postgres", ailment, request }.into());
            wire.answer(Out::ErrorResponse(refusal.response()));
            let _ = wire.flush().await;
            return;
        }
    };
    let mut session = Session::new(shared.clone(), tap, peer, registration.cancel.clone());
    configure(&mut session, &startup);
    wire.answer(Out::Authentication(Authentication::Ok));
    for (name, value) in STATUS {
        wire.answer(Out::ParameterStatus(ParameterStatus::new((*name).to_owned(), (*value).to_owned())));
    }
    wire.answer(Out::BackendKeyData(BackendKeyData::new(registration.pid, SecretKey::I32(registration.secret))));
    let (statements, portals) = (BTreeMap::new(), BTreeMap::new());
    Connection { wire, shared, session, statements, portals, skipping: false }.run().await;
}

/// Start-up without a password. None: it was no start-up, or a cancel request.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, shared: &Shared) -> Option<Startup> {
    loop {
        match wire.next().await? {
            In::SslNegotiation(SslNegotiationMetaMessage::PostgresSsl(_)) => {
                wire.answer(Out::SslResponse(SslResponse::Refuse));
            }
            In::SslNegotiation(SslNegotiationMetaMessage::PostgresGss(_)) => {
                wire.answer(Out::GssEncResponse(GssEncResponse::Refuse));
            }
            In::SslNegotiation(_) => wire.negotiated(),
            In::CancelRequest(request) => {
                shared.cancel(request.pid, &request.secret_key);
                return None;
            }
            In::Startup(startup) => {
                let version = (startup.protocol_number_major, startup.protocol_number_minor);
                assert_eq!(version, (3, 0), "the Postgres stand-in knows protocol 3.0 only");
                wire.started();
                return Some(startup);
            }
            other => panic!("the Postgres stand-in does not know this start-up: {other:?}"),
        }
        wire.flush().await.ok()?;
    }
}

/// Asks for a password and reads it, as `password` in pg_hba.conf has it. None: the client has none, and is gone.
async fn password<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>) -> Option<()> {
    wire.answer(Out::Authentication(Authentication::CleartextPassword));
    wire.flush().await.ok()?;
    match wire.next().await? {
        In::PasswordMessageFamily(_) => Some(()),
        other => panic!("the Postgres stand-in does not know this answer to a question for a password: {other:?}"),
    }
}

/// Who the client says that it is.
fn user(startup: &Startup) -> String {
    startup.parameters.get("user").cloned().unwrap_or_default()
}

/// The database that it wants: without a word the one of its own name.
fn database(startup: &Startup) -> String {
    startup.parameters.get("database").cloned().unwrap_or_else(|| user(startup))
}

/// The settings that a client gives at start-up.
fn configure(session: &mut Session, startup: &Startup) {
    for (name, value) in &startup.parameters {
        match name.as_str() {
            "user" | "database" | "client_encoding" => {}
            "application_name" => session.application.clone_from(value),
            "options" => {
                for option in value.split_whitespace().filter(|word| *word != "-c") {
                    let option = option.strip_prefix("-c").unwrap_or(option);
                    let (name, value) = option
                        .split_once('=')
                        .unwrap_or_else(|| panic!("the Postgres stand-in does not know the option {option:?}"));
                    session.set(&set(name, value));
                }
            }
            _ => panic!("the Postgres stand-in does not know the start-up parameter {name} = {value}"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection<S> {
    async fn run(mut self) {
        let mut idle = self.ready();
        if self.wire.flush().await.is_err() {
            return;
        }
        loop {
            let Some(message) = self.next(std::mem::take(&mut idle)).await else { return };
            let answers_leave = matches!(message, In::Query(_) | In::Sync(_) | In::Flush(_));
            match message {
                In::Terminate(_) => return,
                In::Query(query) if !self.skipping => {
                    if let Err(refusal) = self.query(&query.query).await {
                        self.refuse(&refusal);
                    }
                    idle = self.ready();
                }
                In::Sync(_) => {
                    if let Err(refusal) = self.session.end_implicit().await {
                        self.refuse(&refusal);
                    }
                    self.skipping = false;
                    self.portals.clear();
                    idle = self.ready();
                }
                _ if self.skipping => {}
                message => {
                    if let Err(refusal) = self.extended(message).await {
                        self.refuse(&refusal);
                        self.skipping = true;
                    }
                }
            }
            if answers_leave && self.wire.flush().await.is_err() {
                return;
            }
        }
    }

    /// The next message; None if the client is gone, or sat in a transaction for too long.
    async fn next(&mut self, idle_max: Option<Duration>) -> Option<In> {
        let Some(idle_max) = idle_max else { return self.wire.next().await };
        if let Ok(message) = tokio::time::timeout(idle_max, self.wire.next()).await {
            return message;
        }
        self.session.fail();
        let refusal = Refusal::fatal("25P03", "terminating connection due to idle-in-transaction timeout");
        self.wire.answer(Out::ErrorResponse(refusal.response()));
        let _ = self.wire.flush().await;
        None
    }

    /// Says that the next statement may come; for how long it may stay away.
    fn ready(&mut self) -> Option<Duration> {
        let (status, idle) = match self.session.transaction {
            Transaction::None => (TransactionStatus::Idle, None),
            Transaction::Implicit => unreachable!("an implicit transaction has ended before the server is ready"),
            Transaction::Explicit => (TransactionStatus::Transaction, self.session.settings.idle_in_transaction),
            Transaction::Failed => (TransactionStatus::Error, self.session.settings.idle_in_transaction),
        };
        self.wire.answer(Out::ReadyForQuery(ReadyForQuery::new(status)));
        idle
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.session.fail();
        self.wire.answer(Out::ErrorResponse(refusal.response()));
    }

    /// The simple protocol: several statements in one text, one transaction unless the text says otherwise.
    async fn query(&mut self, sql: &str) -> Result<(), Refusal> {
        let statements = statements(sql)?;
        if statements.is_empty() {
            self.wire.answer(Out::EmptyQueryResponse(EmptyQueryResponse::new()));
        }
        for statement in statements {
            if self.session.refuses(&statement.verb) {
                return Err(Refusal::aborted());
            }
            let plan = self.shared.database().plan(&statement, &[])?;
            let answer = self.session.execute(&plan, &[]).await?;
            if let Some(columns) = &plan.columns {
                self.wire.answer(Out::RowDescription(description(columns, &[])?));
            }
            self.answer(&plan, answer, &[])?;
        }
        self.session.end_implicit().await
    }

    fn answer(&mut self, plan: &Plan, answer: Answer, formats: &[i16]) -> Result<(), Refusal> {
        if let Some((code, message)) = answer.warning {
            let fields = [(b'S', "WARNING"), (b'V', "WARNING"), (b'C', code), (b'M', message)];
            let fields = fields.into_iter().map(|(field, text)| (field, text.to_owned())).collect();
            self.wire.answer(Out::NoticeResponse(NoticeResponse::new(fields)));
        }
        if let Some(columns) = &plan.columns {
            for values in &answer.rows {
                self.wire.answer(Out::DataRow(row(values, columns, formats)?));
            }
        }
        let message = match plan.statement.verb {
            Verb::Empty => Out::EmptyQueryResponse(EmptyQueryResponse::new()),
            _ => Out::CommandComplete(CommandComplete::new(answer.tag)),
        };
        self.wire.answer(message);
        Ok(())
    }

    async fn extended(&mut self, message: In) -> Result<(), Refusal> {
        match message {
            In::Parse(parse) => self.parse(parse),
            In::Bind(bind) => self.bind(bind),
            In::Describe(describe) => self.describe(&describe),
            In::Execute(execute) => self.execute(&execute).await,
            In::Close(close) => {
                self.close(close);
                Ok(())
            }
            // The loop sees to it.
            In::Flush(_) => Ok(()),
            other => panic!("the Postgres stand-in does not know this message: {other:?}"),
        }
    }

    fn parse(&mut self, message: Parse) -> Result<(), Refusal> {
        let known = self.shared.database().known(&message.query, &message.type_oids);
        let plan = match known {
            Some(plan) if !self.session.refuses(&plan.statement.verb) => plan,
            _ => self.plan(&message)?,
        };
        let name = message.name.unwrap_or_default();
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Refusal::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.statements.insert(name, plan);
        self.wire.answer(Out::ParseComplete(ParseComplete::new()));
        Ok(())
    }

    fn plan(&self, message: &Parse) -> Result<Arc<Plan>, Refusal> {
        let mut statements = statements(&message.query)?;
        if statements.len() > 1 {
            return Err(Refusal::new("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let empty = Statement { name: String::new(), text: String::new(), verb: Verb::Empty };
        let statement = statements.pop().unwrap_or(empty);
        if self.session.refuses(&statement.verb) {
            return Err(Refusal::aborted());
        }
        self.shared.database().plan(&statement, &message.type_oids)
    }

    fn statement(&self, name: Option<&str>) -> Result<&Arc<Plan>, Refusal> {
        let name = name.unwrap_or_default();
        self.statements.get(name).ok_or_else(|| match name {
            "" => Refusal::new("26000", "unnamed prepared statement does not exist"),
            _ => Refusal::new("26000", format!("prepared statement \"{name}\" does not exist")),
        })
    }

    fn bind(&mut self, message: Bind) -> Result<(), Refusal> {
        let plan = self.statement(message.statement_name.as_deref())?.clone();
        if self.session.refuses(&plan.statement.verb) {
            return Err(Refusal::aborted());
        }
        let (given, wanted) = (message.parameters.len(), plan.params.len());
        if given != wanted {
            let name = message.statement_name.unwrap_or_default();
            let message = format!(
                "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {wanted}"
            );
            return Err(Refusal::new("08P01", message));
        }
        let value = |(place, (bytes, kind)): (usize, (&Option<bytes::Bytes>, &Type))| match bytes {
            None => Ok(Value::Null),
            Some(bytes) => parameter(bytes, *kind, Format::of(&message.parameter_format_codes, place)?, place + 1),
        };
        let params = message.parameters.iter().zip(&plan.params).enumerate().map(value).collect::<Result<_, _>>()?;
        let portal = Portal { plan, params, formats: message.result_column_format_codes };
        self.portals.insert(message.portal_name.unwrap_or_default(), portal);
        self.wire.answer(Out::BindComplete(BindComplete::new()));
        Ok(())
    }

    fn portal(&self, name: Option<&str>) -> Result<&Portal, Refusal> {
        let name = name.unwrap_or_default();
        self.portals.get(name).ok_or_else(|| Refusal::new("34000", format!("portal \"{name}\" does not exist")))
    }

    fn describe(&mut self, message: &Describe) -> Result<(), Refusal> {
        let name = message.name.as_deref();
        let (plan, formats) = if message.target_type == TARGET_TYPE_BYTE_STATEMENT {
            let plan = self.statement(name)?.clone();
            let types = plan.params.iter().map(|kind| kind.oid()).collect();
            self.wire.answer(Out::ParameterDescription(ParameterDescription::new(types)));
            (plan, Vec::new())
        } else {
            let portal = self.portal(name)?;
            (portal.plan.clone(), portal.formats.clone())
        };
        let answer = match &plan.columns {
            Some(columns) => Out::RowDescription(description(columns, &formats)?),
            None => Out::NoData(NoData::new()),
        };
        self.wire.answer(answer);
        Ok(())
    }

    async fn execute(&mut self, message: &Execute) -> Result<(), Refusal> {
        assert_eq!(message.max_rows, 0, "the Postgres stand-in does not know cursors");
        let portal = self.portal(message.name.as_deref())?;
        let (plan, params, formats) = (portal.plan.clone(), portal.params.clone(), portal.formats.clone());
        let answer = self.session.execute(&plan, &params).await?;
        self.answer(&plan, answer, &formats)
    }

    fn close(&mut self, message: Close) {
        let name = message.name.unwrap_or_default();
        if message.target_type == TARGET_TYPE_BYTE_STATEMENT {
            self.statements.remove(&name);
        } else {
            self.portals.remove(&name);
        }
        self.wire.answer(Out::CloseComplete(CloseComplete::new()));
    }
}
