//! What the database says of a key, over an ordinary session that only reads.

use std::time::Duration;

use futures_util::future::join3;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use crate::config::{Config, Mode};
use crate::control::lookups::Text;
use crate::error::{Error, Exit, Result};
use crate::postgres::dsn::Dsn;
use crate::postgres::session::Session;
use crate::postgres::sqlstate::{is_connection, session_error, statement_text};
use crate::rules::read::sql;
use crate::verify::Verification;
use crate::verify::compare::{Compare, DatabaseSays};

/// How the database is reached.
#[derive(Clone, Debug)]
pub struct Access {
    dsn: Dsn,
    /// How the changes come.
    pub mode: Mode,
    /// They may come from a standby.
    pub standby: bool,
    /// The name of the marks.
    pub slot: String,
    connect: Duration,
    limit: Duration,
}

impl Access {
    /// As the configuration says.
    pub fn of(config: &Config) -> Result<Self> {
        let postgres = &config.postgres;
        Ok(Access {
            dsn: postgres.dsn()?,
            mode: postgres.mode,
            standby: postgres.standby,
            slot: postgres.slot.clone(),
            connect: postgres.connect_timeout,
            limit: postgres.lookup_timeout,
        })
    }

    /// A session of the verifier's own.
    pub async fn asker(&self) -> Result<Asker> {
        let session = match self.mode {
            Mode::Replication => Session::connect(&self.dsn, self.connect, "").await?,
            Mode::Outbox => Session::through_pooler(&self.dsn, self.connect).await?,
        };
        Ok(Asker { session, limit: self.limit, patience: self.connect + self.limit })
    }
}

/// The session.
#[derive(Debug)]
pub struct Asker {
    /// Also for questions about positions.
    pub session: Session,
    limit: Duration,
    /// After so long nobody answers any more.
    patience: Duration,
}

/// What came of a question.
#[derive(Debug)]
pub enum Response {
    /// The database says this.
    Told(DatabaseSays),
    /// Nothing can be said of this key: its value is none of the column's type, or the question took too long.
    Unclear,
    /// The server takes no such SQL.
    Refused(String),
}

impl Asker {
    /// Asks for the key with these values; `None` are NULLs.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub async fn ask(&self, of: &Verification, values: &[Option<&str>]) -> Result<Response> {
        let question = question(of);
        let asked = self.rows(&question, values);
        let Ok(rows) = timeout(self.patience, asked).await else {
            return Err(Error::transient("PostgreSQL does not answer the verifier"));
        };
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return refused(&error),
        };
        if rows.len() > 1 {
            let said = "it gives several rows for one key: add LIMIT 1, or make one of them with json_agg";
            return Ok(Response::Refused(said.to_owned()));
        }
        let Some(row) = rows.first() else { return Ok(Response::Told(DatabaseSays::Nothing)) };
        let text: Option<String> = row.try_get(0).map_err(|error| session_error(&error))?;
        if of.compare == Compare::Text {
            return Ok(Response::Told(DatabaseSays::Text(text)));
        }
        let read = serde_json::from_str(&text.unwrap_or_default());
        let row = read.map_err(|_| Error::definite(Exit::Protocol, "the server's JSON cannot be read"))?;
        Ok(Response::Told(DatabaseSays::Row(row)))
    }

    /// One transaction that only reads, in one round trip: a pooler may give each transaction another session.
    async fn rows(&self, sql: &str, values: &[Option<&str>]) -> std::result::Result<Vec<Row>, tokio_postgres::Error> {
        let client = &self.session.client;
        let texts: Vec<Text<'_>> = values.iter().map(|value| Text(value.map(str::as_bytes))).collect();
        let typed: Vec<(&(dyn ToSql + Sync), Type)> = texts.iter().map(|text| (text as _, Type::UNKNOWN)).collect();
        let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {}", self.limit.as_millis());
        // Polled in order, the three leave in order. Behind an error COMMIT rolls back.
        let (begun, rows, ended) =
            join3(client.batch_execute(&begin), client.query_typed(sql, &typed), client.batch_execute("COMMIT")).await;
        begun?;
        let rows = rows?;
        ended?;
        Ok(rows)
    }
}

/// The SQL of a `[[verify]]` with its row as one text. The line break ends a comment at its end.
fn question(of: &Verification) -> String {
    let asked = sql::subselect(&of.sql);
    match of.compare {
        Compare::Text => format!("SELECT q.crieur_value::text FROM ({asked}\n) AS q (crieur_value) LIMIT 2"),
        Compare::Json | Compare::Path(_) => {
            format!("SELECT pg_catalog.to_jsonb(q)::text FROM ({asked}\n) AS q LIMIT 2")
        }
    }
}

/// An answer that is an error: of the connection, of this key, or of the SQL.
fn refused(error: &tokio_postgres::Error) -> Result<Response> {
    let Some(said) = error.as_db_error() else { return Err(session_error(error)) };
    let code = said.code().code();
    if is_connection(code) {
        return Err(session_error(error));
    }
    // Class 22: a text that is no number, no date, no UUID. 57014 is our own bound, 55P03 that of a lock, and class 40 a
    // transaction that lost against others.
    if ["22", "40"].iter().any(|class| code.starts_with(class)) || ["57014", "55P03"].contains(&code) {
        return Ok(Response::Unclear);
    }
    Ok(Response::Refused(statement_text(code, said.message())))
}
