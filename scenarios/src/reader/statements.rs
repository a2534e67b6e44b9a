//! What Postgres committed. A statement is one of [`sql::ALL`], and its parameters go by the names that it gives them.

use lychgate::run::Status;
use lychgate::store::sql;
use lychgate_sim::standins::postgres::observation::{Statement, Value};

use super::{LychgateReader, Misread, Run};
use crate::events::{Did, ProcessEvent, RunEvent};
use crate::names::session_of;

/// A statement that Postgres executed, beside the one of the product that it is.
pub(crate) struct Executed<'a> {
    /// The product's.
    pub(crate) sql: &'static sql::Statement,
    seen: &'a Statement,
}

/// A row that a statement returned.
pub(super) struct Returned<'a> {
    statement: &'static str,
    row: &'a std::collections::BTreeMap<String, Value>,
}

impl<'a> Executed<'a> {
    /// `None` for what has no name, as BEGIN.
    pub(super) fn of(seen: &'a Statement) -> Result<Option<Self>, Misread> {
        if seen.name.is_empty() {
            return Ok(None);
        }
        let sql = sql::ALL.iter().find(|sql| sql.name == seen.name);
        let sql = sql.ok_or_else(|| Misread(format!("no statement of the product is named `{}`", seen.name)))?;
        Ok(Some(Executed { sql, seen }))
    }

    fn param(&self, name: &str) -> Result<&Value, Misread> {
        let place = self.sql.params.iter().position(|param| *param == name);
        let value = place.and_then(|place| self.seen.params.get(place));
        value.ok_or_else(|| {
            Misread(format!("the statement `{}` was sent without its parameter `{name}`", self.sql.name))
        })
    }

    fn is_no(&self, name: &str, what: &str) -> Misread {
        Misread(format!("the parameter `{name}` of the statement `{}` is no {what}", self.sql.name))
    }

    pub(crate) fn text(&self, name: &str) -> Result<String, Misread> {
        self.param(name)?.as_text().map(str::to_owned).ok_or_else(|| self.is_no(name, "text"))
    }

    pub(crate) fn int(&self, name: &str) -> Result<i64, Misread> {
        self.param(name)?.as_int().ok_or_else(|| self.is_no(name, "number"))
    }

    fn flag(&self, name: &str) -> Result<bool, Misread> {
        match self.param(name)? {
            Value::Bool(flag) => Ok(*flag),
            _ => Err(self.is_no(name, "boolean")),
        }
    }

    fn rows(&self) -> impl Iterator<Item = Returned<'a>> {
        let statement = self.sql.name;
        self.seen.rows.iter().map(move |row| Returned { statement, row })
    }

    fn row(&self) -> Result<Returned<'a>, Misread> {
        self.rows().next().ok_or_else(|| Misread(format!("the statement `{}` returned no row", self.sql.name)))
    }

    /// The pool that its connection is of.
    fn pool(&self) -> String {
        self.seen.application.split_once('/').map_or("store", |(_, pool)| pool).to_string()
    }
}

impl Returned<'_> {
    fn column(&self, name: &str) -> Result<&Value, Misread> {
        let missing = || Misread(format!("the statement `{}` returned no column `{name}`", self.statement));
        self.row.get(name).ok_or_else(missing)
    }

    fn is_no(&self, name: &str, what: &str) -> Misread {
        Misread(format!("the column `{name}` that the statement `{}` returned is no {what}", self.statement))
    }

    fn text(&self, name: &str) -> Result<&str, Misread> {
        self.column(name)?.as_text().ok_or_else(|| self.is_no(name, "text"))
    }

    fn int(&self, name: &str) -> Result<i64, Misread> {
        self.column(name)?.as_int().ok_or_else(|| self.is_no(name, "number"))
    }

    fn status(&self) -> Result<Status, Misread> {
        Status::parse(self.text("status")?).ok_or_else(|| self.is_no("status", "status"))
    }
}

impl LychgateReader {
    pub(super) fn statement(&mut self, seen: &Statement, process: &str) -> Result<Vec<Did>, Misread> {
        let Some(executed) = Executed::of(seen)? else { return Ok(Vec::new()) };
        if *executed.sql == sql::RUN_BEAT {
            return Ok(vec![self.beat(&executed, process)?]);
        }
        if seen.affected == 0 {
            return Ok(Vec::new());
        }
        if let Some(did) = self.agents.statement(&executed)? {
            return Ok(vec![did]);
        }
        let did = match *executed.sql {
            sql::RUN_MARK | sql::RUN_UNMARK => return self.marks(&executed),
            sql::SESSION_CREATE => {
                self.needs.insert(executed.text("session")?, executed.text("agent")?);
                None
            }
            sql::MESSAGE_ACCEPT => Some(self.accepted(&executed)?),
            sql::RUN_CLAIM => self.claimed(&executed, process)?,
            sql::RUN_CHECKPOINT => self.checkpointed(&executed)?,
            sql::CHECKPOINT_WRITE => self.answered(&executed)?,
            sql::RUN_HAND_BACK => self.handed_back(&executed)?,
            sql::NOTICE_RUN => {
                self.named(&executed.text("run")?).map(|(session, run)| Did::Run(RunEvent::Noticed { session, run }))
            }
            sql::SESSION_SUSPEND => {
                self.session(&executed.text("session")?).map(|session| Did::Run(RunEvent::Suspended { session }))
            }
            sql::SESSION_UNSUSPEND => {
                self.session(&executed.text("session")?).map(|session| Did::Run(RunEvent::Unsuspended { session }))
            }
            sql::RUN_CANCEL => self
                .named(&executed.text("run")?)
                .map(|(session, run)| Did::Run(RunEvent::CancelRequested { session, run })),
            sql::RUN_TERMINAL => {
                let fence = executed.int("fence")?;
                self.ended(&executed, fence, true)?
            }
            sql::RUN_END_UNOWNED => {
                let fence = executed.row()?.int("fence")?;
                self.ended(&executed, fence, false)?
            }
            sql::MESSAGE_CONSUME => self.consumed(&executed)?,
            sql::MESSAGE_REPORT => self.reported(&executed)?,
            _ => None,
        };
        Ok(did.into_iter().collect())
    }

    fn accepted(&mut self, executed: &Executed) -> Result<Did, Misread> {
        let label = executed.text("key")?;
        let session = session_of(&label);
        let run = Run {
            session_id: executed.text("session")?,
            session: session.clone(),
            label: label.clone(),
            owner: None,
            marked_by: String::new(),
            ended: false,
            unshown: false,
        };
        self.runs.insert(executed.text("run")?, run);
        self.messages.insert(executed.text("message")?, label.clone());
        self.words.insert(executed.text("body")?, label.clone());
        Ok(Did::Run(RunEvent::Accepted { session, run: label }))
    }

    fn claimed(&mut self, executed: &Executed, process: &str) -> Result<Option<Did>, Misread> {
        let mark = format!("{}/{}", executed.text("owner")?, executed.int("incarnation")?);
        let fence = executed.row()?.int("fence")?;
        let Some(run) = self.runs.get_mut(&executed.text("run")?) else { return Ok(None) };
        // Two incarnations may go by one name: the owner is the process that sent this.
        let owner = process.to_string();
        run.owner = Some(owner.clone());
        Ok(Some(Did::Run(RunEvent::Claimed {
            session: run.session.clone(),
            run: run.label.clone(),
            fence,
            owner,
            mark,
        })))
    }

    fn checkpointed(&self, executed: &Executed) -> Result<Option<Did>, Misread> {
        let Some((session, run)) = self.named(&executed.text("run")?) else { return Ok(None) };
        let (turn, fence, last) = (executed.int("turn")?, executed.int("fence")?, executed.flag("last")?);
        Ok(Some(Did::Run(RunEvent::Checkpointed { session, run, turn, fence, last, pool: executed.pool() })))
    }

    fn answered(&mut self, executed: &Executed) -> Result<Option<Did>, Misread> {
        if let Some((_, run)) = self.named(&executed.text("run")?) {
            self.answers.insert(executed.text("answer")?, format!("{run}/{}", executed.int("turn")?));
        }
        Ok(None)
    }

    fn handed_back(&mut self, executed: &Executed) -> Result<Option<Did>, Misread> {
        let fence = executed.int("fence")?;
        let Some(run) = self.runs.get_mut(&executed.text("run")?) else { return Ok(None) };
        run.owner = None;
        Ok(Some(Did::Run(RunEvent::HandedBack { session: run.session.clone(), run: run.label.clone(), fence })))
    }

    fn consumed(&self, executed: &Executed) -> Result<Option<Did>, Misread> {
        let Some(label) = self.messages.get(&executed.text("message")?) else { return Ok(None) };
        let turn = executed.int("turn")?;
        Ok(Some(Did::Run(RunEvent::Consumed { session: session_of(label), message: label.clone(), turn })))
    }

    fn reported(&self, executed: &Executed) -> Result<Option<Did>, Misread> {
        let Some((session, run)) = self.named(&executed.text("run")?) else { return Ok(None) };
        Ok(Some(Did::Run(RunEvent::Reported {
            session,
            run,
            messages: executed.seen.affected,
            reason: executed.text("reason")?,
        })))
    }

    fn ended(&mut self, executed: &Executed, fence: i64, by_owner: bool) -> Result<Option<Did>, Misread> {
        let returned = executed.row()?;
        let (status, reason) = (returned.status()?, returned.text("end_reason")?.to_owned());
        let Some(run) = self.runs.get_mut(&executed.text("run")?) else { return Ok(None) };
        run.ended = true;
        let (session, label) = (run.session.clone(), run.label.clone());
        Ok(Some(Did::Run(RunEvent::Ended { session, run: label, fence, status, reason, by_owner })))
    }

    /// A session's label.
    fn session(&self, id: &str) -> Option<String> {
        self.runs.values().find(|run| run.session_id == id).map(|run| run.session.clone())
    }

    /// Each run that a statement marked, or took a mark off.
    fn marks(&mut self, executed: &Executed) -> Result<Vec<Did>, Misread> {
        let by = executed.text("mark")?;
        let mut all = Vec::new();
        for row in executed.rows() {
            let Some(run) = self.runs.get_mut(row.text("run_id")?) else { continue };
            let (session, label) = (run.session.clone(), run.label.clone());
            all.push(if *executed.sql == sql::RUN_MARK {
                run.marked_by.clone_from(&by);
                Did::Run(RunEvent::Marked { session, run: label, by: by.clone() })
            } else {
                Did::Run(RunEvent::Unmarked {
                    session,
                    run: label,
                    by: by.clone(),
                    marked_by: std::mem::take(&mut run.marked_by),
                })
            });
        }
        Ok(all)
    }

    fn beat(&self, executed: &Executed, process: &str) -> Result<Did, Misread> {
        let label = |id: &str| self.runs.get(id).map_or_else(|| id.to_string(), |run| run.label.clone());
        let named = |pair: &str| {
            let (run, fence) = pair.split_once(':')?;
            Some((label(run), fence.parse::<i64>().ok()?))
        };
        let runs = executed.text("runs")?;
        let named = runs.split('|').filter(|pair| !pair.is_empty()).map(named).collect::<Option<Vec<_>>>();
        let named = named.ok_or_else(|| executed.is_no("runs", "list of `RUN:FENCE`"))?;
        let confirmed = executed.rows().map(|row| -> Result<_, Misread> {
            let cancel = *row.column("cancel_requested_at")? != Value::Null;
            Ok((label(row.text("run_id")?), row.int("fence")?, cancel))
        });
        Ok(Did::Process(ProcessEvent::Beat {
            owner: process.to_string(),
            named,
            confirmed: confirmed.collect::<Result<_, _>>()?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use super::*;

    fn hand_back(params: Vec<Value>) -> Statement {
        Statement {
            peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
            application: "executor-1".into(),
            name: sql::RUN_HAND_BACK.name.into(),
            params,
            rows: Vec::new(),
            affected: 1,
        }
    }

    #[test]
    fn a_parameter_goes_by_its_name_and_one_that_is_missing_is_named() {
        let seen = hand_back(vec![Value::Text("r".into()), Value::Int(3)]);
        let executed = Executed::of(&seen).unwrap().unwrap();
        assert_eq!((executed.text("run"), executed.int("fence")), (Ok("r".into()), Ok(3)));
        let wrong = executed.int("run").unwrap_err();
        assert_eq!(wrong.0, "the parameter `run` of the statement `run.hand_back` is no number");
        let missing = executed.int("turn").unwrap_err();
        assert_eq!(missing.0, "the statement `run.hand_back` was sent without its parameter `turn`");
    }

    #[test]
    fn what_the_product_does_not_say_is_no_silence() {
        let seen = Statement { name: "run.vanish".into(), ..hand_back(Vec::new()) };
        assert!(Executed::of(&seen).is_err_and(|misread| misread.0.contains("run.vanish")));
        let seen = Statement { name: String::new(), ..hand_back(Vec::new()) };
        assert!(Executed::of(&seen).unwrap().is_none());
    }
}
