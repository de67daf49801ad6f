//! Whether the deletes of all that was committed by a look are done: what the mark of the cache says.

use crate::cli::status::{self, Until, Wanted};
use crate::cli::verify::ask::Access;
use crate::config::Mode;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::mark::{Mark, deleted};
use crate::postgres::session::Session;

/// Everything that was committed by then.
#[derive(Debug)]
pub enum Committed {
    /// Up to a position of the WAL.
    Position(Wanted),
    /// Rows of the outbox: the question whether some are left.
    Rows(String),
}

/// Which of its deletes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deletes {
    /// The first of each change.
    First,
    /// The echoes, too.
    Echoes,
}

/// What is committed by now.
pub async fn committed(session: &Session, access: &Access) -> Result<Committed> {
    match access.mode {
        Mode::Replication => status::of_wal(session, Until::Now, access.standby).await.map(Committed::Position),
        Mode::Outbox => status::rows_left(session, Until::Now).await.map(Committed::Rows),
    }
}

impl Committed {
    /// Whether the cache with this mark has had the deletes.
    pub async fn is_deleted(&self, session: &Session, slot: &str, mark: Option<&[u8]>, which: Deletes) -> Result<bool> {
        match self {
            Committed::Position(wanted) => Ok(says(mark, wanted, which)),
            Committed::Rows(left) => {
                if status::text(&session.client, left).await? == "true" {
                    return Ok(false);
                }
                Ok(says(mark, &status::of_outbox(session, slot).await?, which))
            }
        }
    }
}

fn says(mark: Option<&[u8]>, wanted: &Wanted, which: Deletes) -> bool {
    if status::lacks(mark, wanted).is_some() {
        return false;
    }
    let lsn = |text| serde_json::from_slice::<Mark>(text).ok()?.lsn.parse::<Lsn>().ok();
    let upto = match which {
        Deletes::First => mark.and_then(deleted),
        Deletes::Echoes => mark.and_then(lsn),
    };
    upto.is_some_and(|upto| upto >= wanted.upto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_done_when_the_marks_position_says_so() {
        let mark = br#"{"system":"7/5","timeline":1,"slot":"s","lsn":"0/10","deleted":"0/20","at":1,"rules":""}"#;
        let wanted = |upto| Wanted { server: Some(("7".into(), 1)), upto: Lsn(upto) };
        let said = |upto, which| says(Some(mark), &wanted(upto), which);
        assert!(said(0x10, Deletes::Echoes) && said(0x20, Deletes::First));
        assert!(!said(0x11, Deletes::Echoes) && !said(0x21, Deletes::First));
        assert!(!says(None, &wanted(1), Deletes::First) && !says(Some(b"{}"), &wanted(1), Deletes::Echoes));
        let other = Wanted { server: Some(("8".into(), 1)), upto: Lsn(1) };
        assert!(!says(Some(mark), &other, Deletes::First), "a mark of another server says nothing");
    }
}
