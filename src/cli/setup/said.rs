//! What `crieur setup` prints: its plan as a script, what stands in the way, and what the server refused.

use std::io::Write;

use crate::cli::finding::{Finding, report};
use crate::cli::setup::plan::Statement;
use crate::error::{Error, Exit};

/// Writers queue behind a waiting ALTER TABLE: after this long it gives up and may be run again.
pub(super) const LOCK_TIMEOUT: &str = "SET lock_timeout = '5s';";

/// What to do with the plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Doing {
    /// Run it.
    Execute,
    /// Print it.
    Print,
}

/// The plan as a script for psql. Without ON_ERROR_STOP a failed identity would be published all the same.
pub fn script(plan: &[Statement]) -> String {
    let mut out =
        String::from("-- Not in one transaction: CONCURRENTLY and the slot refuse one.\n\\set ON_ERROR_STOP on\n");
    out.push_str(LOCK_TIMEOUT);
    out.push('\n');
    for Statement { why, sql, .. } in plan {
        // A name with a line end would end the comment.
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        out.push_str(&format!("\n-- {why}\n{sql}\n"));
    }
    out
}

/// Says what stands in the way; nothing was begun.
pub(super) fn refuse(out: &mut dyn Write, obstacles: &[Finding]) -> anyhow::Result<Exit> {
    let exit = report(out, obstacles)?;
    writeln!(out, "nothing was changed: setup begins when none of this is wrong")?;
    Ok(exit)
}

/// The script on standard output; what it cannot mend as comments, so that psql can run the whole. While names are wrong
/// there is no script: it would publish what the rules do not mean.
pub(super) fn print(out: &mut dyn Write, obstacles: &[Finding], plan: &[Statement]) -> anyhow::Result<Exit> {
    for line in obstacles.iter().flat_map(|finding| finding.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        writeln!(out, "-- {line}")?;
    }
    // The script is for whoever owns the tables, and for the server as it is when it is run.
    let is_for_another =
        |finding: &Finding| finding.subject == "role" || finding.mend.iter().any(|step| step.contains("--print"));
    let text = match obstacles.iter().all(is_for_another) {
        false => "-- Nothing is printed while this is wrong: the script would not get to its end.\n".to_owned(),
        true if plan.is_empty() => "-- Nothing to do.\n".to_owned(),
        true => script(plan),
    };
    out.write_all(text.as_bytes())?;
    Ok(if obstacles.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// The server's refusal, with what the role lacks.
pub(super) fn refused_by_server(sql: &str, error: &tokio_postgres::Error) -> Error {
    let Some(server) = error.as_db_error() else {
        return Error::definite(Exit::Unavailable, format!("run \"{sql}\": {error}"));
    };
    let said = format!("run \"{sql}\": {} ({})", server.message(), server.code().code());
    match server.code().code() {
        "42501" => Error::definite(Exit::NoPermission, said)
            .hint("Run `crieur setup --print` and have the owner of the tables run its output."),
        "55P03" => Error::definite(Exit::Unavailable, said)
            .hint("A long transaction holds the table; run `crieur setup` again when it has ended."),
        "57014" => Error::definite(Exit::Unavailable, said)
            .hint("A slot waits for every open transaction to end; raise statement_timeout or run it again later."),
        _ => Error::definite(Exit::Unavailable, said),
    }
}
