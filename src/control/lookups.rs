//! Lookups on an ordinary session: prepared once, and one statement for all questions of a batch to the same lookup.
//!
//! Nothing is kept here but statements: which answers are still true is `feed/answers.rs`'s business. Statements last
//! until a table is altered, a row's columns are of other types than they were, or the connection ends.
//!
//! Invariants: every question gets an answer; a statement that the server refuses widens the keys of its questions and
//! of no others; no lookup holds a batch up for longer than twice the statement timeout, however many its questions.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;
use futures_util::{StreamExt, pin_mut};
use tokio::time::{Instant, timeout_at};
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row, Statement};

use crate::error::{Error, Exit, Result};
use crate::postgres::sqlstate::{is_connection, session_error, statement_text};
use crate::question::{Answer, AnswerRow, LookupId, Question};
use crate::rules::Lookup;
use crate::rules::read::sql;
use crate::rules::value::reading::Form;

/// Answers of one lookup to one batch may take so much memory; questions whose answers go past it widen.
const ANSWER_BYTES_MAX: usize = 4 << 20;

pub(crate) type Refusable<T> = std::result::Result<T, RefusedStatement>;

/// A parameter as PostgreSQL text, whatever its type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<'a>(pub(crate) Option<&'a [u8]>);

impl ToSql for Text<'_> {
    fn to_sql(
        &self,
        _ty: &Type,
        out: &mut BytesMut,
    ) -> std::result::Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self.0 {
            Some(text) => {
                out.extend_from_slice(text);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_ty: &Type) -> bool {
        true
    }

    fn encode_format(&self, _ty: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A text of an answer, byte for byte: in a database without an encoding it need not be UTF-8.
struct Bytes(Vec<u8>);

impl<'a> FromSql<'a> for Bytes {
    fn from_sql(_ty: &Type, raw: &'a [u8]) -> std::result::Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Bytes(raw.to_vec()))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

/// A lookup as it is prepared on one connection.
#[derive(Debug)]
struct Prepared {
    shape: AnswerShape,
    one: Statement,
    /// For several questions; `None` where the server does not take the SQL in that form.
    many: Option<Statement>,
}

/// The lookups of one connection.
#[derive(Debug, Default)]
pub struct PreparedLookups(RefCell<HashMap<LookupId, Rc<Prepared>>>);

/// What the server said to all questions.
#[derive(Debug)]
pub struct Answered {
    /// In the order of the questions.
    pub answers: Vec<Answer>,
    /// Some statements were given up and may still run: the connection is of no more use.
    pub given_up: bool,
}

impl PreparedLookups {
    /// Prepares all of them anew at their next use.
    pub fn forget(&self) {
        self.0.borrow_mut().clear();
    }

    /// Answers all questions, in order. Statements are prepared at first use; then this is one round trip, but for a
    /// lookup of which the server refused many questions at once: these are asked one by one behind it.
    pub async fn ask(
        &self,
        client: &Client,
        lookups: &[Lookup],
        questions: &[Question],
        limit: Duration,
    ) -> Result<Answered> {
        let mut groups: BTreeMap<LookupId, Vec<usize>> = BTreeMap::new();
        for (index, question) in questions.iter().enumerate() {
            groups.entry(question.lookup).or_default().push(index);
        }
        let mut asked = Vec::with_capacity(groups.len());
        for (id, indexes) in groups {
            let prepared = self.prepare(client, lookups, id).await?;
            asked.push((prepared, indexes));
        }
        // Polled together, they leave in one flight and are answered in order.
        let answered = asked.iter().map(|(prepared, indexes)| async move {
            let questions: Vec<&Question> = indexes.iter().map(|index| &questions[*index]).collect();
            match prepared {
                Ok(prepared) => {
                    let answered = group(client, prepared, &questions, limit).await;
                    prepared.shape.confirmed().and(answered)
                }
                Err(refused) => Ok(Answered::refused(questions.len(), refused.clone())),
            }
        });
        let mut all = Answered { answers: vec![Answer::Rows(Vec::new()); questions.len()], given_up: false };
        for (answered, (_, indexes)) in join_all(answered).await.into_iter().zip(&asked) {
            let answered = answered?;
            all.given_up |= answered.given_up;
            for (index, answer) in indexes.iter().zip(answered.answers) {
                all.answers[*index] = answer;
            }
        }
        Ok(all)
    }

    async fn prepare(&self, client: &Client, lookups: &[Lookup], id: LookupId) -> Result<Refusable<Rc<Prepared>>> {
        if let Some(known) = self.0.borrow().get(&id) {
            return Ok(Ok(Rc::clone(known)));
        }
        let lookup = lookups.get(id.0 as usize);
        let lookup = lookup.ok_or_else(|| Error::definite(Exit::Software, "a lookup that the rules do not have"))?;
        // What is refused is tried again with the next batch: somebody may mend the table while we run.
        let wanted = match client.prepare(&lookup.sql).await {
            Ok(written) => written.params().len(),
            Err(error) => return refusal(&error).map(Err),
        };
        if wanted != lookup.args {
            let text = format!("it takes {wanted} parameters, the rule gives {}", lookup.args);
            return Ok(Err(RefusedStatement { text, code: SqlState::PROTOCOL_VIOLATION }));
        }
        let nulls = vec![Text(None); lookup.args];
        let nulls: Vec<(&(dyn ToSql + Sync), Type)> = nulls.iter().map(|null| (null as _, Type::UNKNOWN)).collect();
        let types = match client.query_typed(&sql::types(&lookup.sql, &lookup.columns), &nulls).await {
            Ok(rows) => Types::read(&rows, lookup)?,
            Err(error) => return refusal(&error).map(Err),
        };
        let columns = types.of(lookup);
        let one = match client.prepare(&sql::for_one(&lookup.sql, &columns)).await {
            Ok(one) => one,
            Err(error) => return refusal(&error).map(Err),
        };
        let many = match one.params() {
            [] => None, // There is only one question.
            types => {
                let types: Vec<(&str, &str)> = types.iter().map(|ty| (ty.schema(), ty.name())).collect();
                let many = client.prepare(&sql::for_many(&lookup.sql, &columns, &types)).await;
                many.map(Some).or_else(|error| refusal(&error).map(|_| None))?
            }
        };
        let prepared = Rc::new(Prepared { shape: AnswerShape::new(lookup, types), one, many });
        self.0.borrow_mut().insert(id, Rc::clone(&prepared));
        Ok(Ok(prepared))
    }
}

/// What [`sql::types`] told.
pub(crate) struct Types {
    oids: Vec<u32>,
    kinds: String,
}

impl Types {
    pub(crate) fn read(rows: &[Row], lookup: &Lookup) -> Result<Types> {
        let unexpected = || Error::definite(Exit::Protocol, "the types of a lookup cannot be read");
        let row = rows.first().ok_or_else(unexpected)?;
        let read = || {
            let oids = (0..lookup.columns.len()).map(|column| row.try_get(column));
            let oids = oids.collect::<std::result::Result<Vec<u32>, tokio_postgres::Error>>()?;
            Ok(Types { oids, kinds: row.try_get(lookup.columns.len())? })
        };
        read().map_err(|error| session_error(&error))
    }

    /// The columns of the lookup with their types.
    pub(crate) fn of<'a>(&self, lookup: &'a Lookup) -> Vec<sql::AskedColumn<'a>> {
        lookup.columns.iter().map(|column| column.name.as_str()).zip(self.oids.iter().copied()).collect()
    }
}

/// How rows of a lookup are read.
#[derive(Debug)]
pub(crate) struct AnswerShape {
    /// How the texts of the answer's columns are written in keys.
    forms: Vec<Form>,
    /// The types of these columns.
    kinds: String,
    /// A row had other ones.
    altered: Cell<bool>,
}

impl AnswerShape {
    pub(crate) fn new(lookup: &Lookup, types: Types) -> AnswerShape {
        let forms = lookup.columns.iter().zip(&types.oids).map(|(column, oid)| Form::of(*oid, column.writing));
        AnswerShape { forms: forms.collect(), kinds: types.kinds, altered: Cell::new(false) }
    }

    /// The columns behind the first `from`, as keys want them.
    pub(crate) fn texts(&self, row: &Row, from: usize) -> std::result::Result<AnswerRow, tokio_postgres::Error> {
        let kinds: &str = row.try_get(from + self.forms.len())?;
        if kinds != self.kinds {
            self.altered.set(true);
        }
        let text = |(column, form): (usize, &Form)| {
            let text = row.try_get::<_, Option<Bytes>>(from + column)?;
            Ok(text.map(|Bytes(text)| form.written(&text).into_owned()))
        };
        self.forms.iter().enumerate().map(text).collect()
    }

    /// An error where rows came that are to be written otherwise: the session prepares everything anew.
    pub(crate) fn confirmed(&self) -> Result<()> {
        match self.altered.get() {
            true => Err(Error::transient("a column that a lookup reads is of another type than it was")),
            false => Ok(()),
        }
    }
}

impl Answered {
    fn refused(count: usize, refused: RefusedStatement) -> Self {
        Answered { answers: vec![refused.answer(); count], given_up: false }
    }
}

/// All questions to one lookup.
async fn group(client: &Client, prepared: &Prepared, questions: &[&Question], limit: Duration) -> Result<Answered> {
    let refused = match &prepared.many {
        Some(many) if questions.len() > 1 => match at_once(client, prepared, many, questions).await? {
            Ok(answers) => return Ok(Answered { answers, given_up: false }),
            Err(refused) => refused,
        },
        Some(_) | None => RefusedStatement { text: String::new(), code: SqlState::SUCCESSFUL_COMPLETION },
    };
    // Each of them would take as long again.
    if refused.code == SqlState::QUERY_CANCELED {
        return Ok(Answered::refused(questions.len(), refused));
    }
    one_by_one(client, prepared, questions, limit).await
}

async fn at_once(
    client: &Client,
    prepared: &Prepared,
    many: &Statement,
    questions: &[&Question],
) -> Result<std::result::Result<Vec<Answer>, RefusedStatement>> {
    let count = questions.first().map_or(0, |question| question.args.len());
    let arrays = (0..count).map(|arg| sql::array(questions.iter().map(|question| question.args[arg].as_deref())));
    let arrays: Vec<Vec<u8>> = arrays.collect();
    let mut answers = Collected::new(questions.len());
    let rows = query(client, many, arrays.iter().map(|array| Some(array.as_slice())), |row| {
        let number: i64 = row.try_get(0)?;
        answers.add(usize::try_from(number).unwrap_or_default().saturating_sub(1), prepared.shape.texts(row, 1)?);
        Ok(())
    });
    Ok(rows.await?.map(|()| answers.answers))
}

async fn one_by_one(
    client: &Client,
    prepared: &Prepared,
    questions: &[&Question],
    limit: Duration,
) -> Result<Answered> {
    let give_up = Instant::now() + limit;
    let each = questions.iter().map(|question| async move {
        let mut answers = Collected::new(1);
        let rows = query(client, &prepared.one, question.args.iter().map(Option::as_deref), |row| {
            answers.add(0, prepared.shape.texts(row, 0)?);
            Ok(())
        });
        // The first of them has the whole limit for itself, and the server's own comes before ours.
        let late = give_up + Duration::from_millis(500);
        Ok(match timeout_at(late, rows).await {
            Ok(rows) => match rows? {
                Ok(()) => (answers.only(), false),
                Err(refused) => (refused.answer(), false),
            },
            Err(_) => (Answer::Late(format!("its {} questions took longer than {limit:?}", questions.len())), true),
        })
    });
    let answers: Result<Vec<(Answer, bool)>> = join_all(each).await.into_iter().collect();
    let (answers, late): (Vec<Answer>, Vec<bool>) = answers?.into_iter().unzip();
    Ok(Answered { answers, given_up: late.contains(&true) })
}

/// Runs a statement and hands its rows over, one at a time.
async fn query<'a>(
    client: &Client,
    statement: &Statement,
    args: impl Iterator<Item = Option<&'a [u8]>>,
    mut take: impl FnMut(&Row) -> std::result::Result<(), tokio_postgres::Error>,
) -> Result<std::result::Result<(), RefusedStatement>> {
    let args: Vec<Text<'_>> = args.map(Text).collect();
    let rows = match client.query_raw(statement, &args).await {
        Ok(rows) => rows,
        Err(error) => return refusal(&error).map(Err),
    };
    pin_mut!(rows);
    while let Some(row) = rows.next().await {
        match row.and_then(|row| take(&row)) {
            Ok(()) => {}
            Err(error) => return refusal(&error).map(Err),
        }
    }
    Ok(Ok(()))
}

/// Answers that arrive row by row, within [`ANSWER_BYTES_MAX`].
pub(crate) struct Collected {
    answers: Vec<Answer>,
    bytes: usize,
}

impl Collected {
    pub(crate) fn new(count: usize) -> Self {
        Collected { answers: vec![Answer::Rows(Vec::new()); count], bytes: 0 }
    }

    /// The answer to the one question.
    pub(crate) fn only(mut self) -> Answer {
        self.answers.remove(0)
    }

    pub(crate) fn add(&mut self, index: usize, row: AnswerRow) {
        let Some(Answer::Rows(rows)) = self.answers.get_mut(index) else { return };
        let bytes: usize = row.iter().map(|text| size_of_val(text) + text.as_ref().map_or(0, Vec::len)).sum();
        if self.bytes + bytes <= ANSWER_BYTES_MAX {
            self.bytes += bytes + size_of_val(&row);
            rows.push(row);
        } else {
            self.answers[index] = Answer::Refused("the answer has too many rows".to_owned());
        }
    }
}

/// The server did not take a statement.
#[derive(Clone, Debug)]
pub(crate) struct RefusedStatement {
    /// Without values.
    pub(crate) text: String,
    pub(crate) code: SqlState,
}

impl RefusedStatement {
    /// What it means for the question.
    pub(crate) fn answer(self) -> Answer {
        match self.code == SqlState::QUERY_CANCELED {
            true => Answer::Late(self.text),
            false => Answer::Refused(self.text),
        }
    }
}

/// The server's refusal of a statement; an error when the session is what failed. The severity tells them apart: a row
/// that cannot be read (XX001) or a full disk (53100) refuses one statement, and would refuse it for ever.
pub(crate) fn refusal(error: &tokio_postgres::Error) -> Result<RefusedStatement> {
    let of_statement = |refused: &DbError| match refused.parsed_severity() {
        Some(severity) => severity == Severity::Error,
        // A pooler's own words have none.
        None => !is_connection(refused.code().code()),
    };
    match error.as_db_error() {
        Some(refused) if of_statement(refused) => {
            let text = statement_text(refused.code().code(), refused.message());
            Ok(RefusedStatement { text, code: refused.code().clone() })
        }
        _ => Err(session_error(error)),
    }
}
