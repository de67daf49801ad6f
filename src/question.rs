//! Lookups, as the rules ask them and the server answers: plain values between `rules/` and `control/`.

/// Index of a lookup in the rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LookupId(pub u32);

/// One question: a lookup's SQL with parameters, as PostgreSQL text; `None` is NULL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Question {
    /// Which SQL.
    pub lookup: LookupId,
    /// `$1`, `$2`, …
    pub args: Vec<Option<Vec<u8>>>,
}

/// One row of an answer: the columns that templates use, as they go into keys; `None` is NULL.
pub type AnswerRow = Vec<Option<Vec<u8>>>;

/// What became of one question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 0 to n rows. None at all is normal: a parent may be gone.
    Rows(Vec<AnswerRow>),
    /// The server refused the statement: the keys widen to their families. Holds the server's message.
    Refused(String),
    /// The same, because it took too long: other questions to the lookup would take as long again.
    Late(String),
}

impl Answer {
    /// Why there are no rows.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Answer::Rows(_) => None,
            Answer::Refused(why) | Answer::Late(why) => Some(why),
        }
    }
}
