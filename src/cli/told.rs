//! What a daemon tells of itself over its control socket, in lines for a person. Pure.
//!
//! The daemon may be of another version than the command: what it does not tell has no line.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::page::clock;
use crate::page::words::Language::English;
use crate::shown::shown;

/// Of changes, and of warnings, so many are printed: the last.
const LAST: usize = 3;

/// Tables that are printed.
const TABLES_MAX: usize = 10;

/// Characters of a warning.
const WARNING_MAX: usize = 200;

/// The lines.
pub(super) fn lines(daemon: &Value) -> Vec<String> {
    if let Some(wrong) = daemon["wrong"].as_str() {
        return vec![wrong.to_owned()];
    }
    let is_ready = if daemon["ready"] == true { "ready" } else { "not ready" };
    let mut lines = vec![format!("{is_ready}: {}", daemon["standing"].as_str().unwrap_or_default())];
    lines.extend(daemon["dead"].as_str().map(str::to_owned));
    let shown = &daemon["shown"];
    lines.extend(wrong(shown));
    lines.extend(numbers(shown));
    lines.extend(slot(&shown["postgres"]));
    lines.extend(list(&daemon["caches"]).filter_map(|line| line.as_str()).map(str::to_owned));
    lines.extend(tables(shown));
    lines.extend(verified(&shown["verified"]));
    // As in a log the newest stands last.
    let mut last: Vec<String> = list(&shown["changes"]).take(LAST).map(change).collect();
    lines.extend(last.drain(..).rev());
    last.extend(list(&shown["warnings"]).take(LAST).map(warning));
    lines.extend(last.into_iter().rev());
    lines
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().chars().filter(|c| !c.is_control()).collect()
}

/// The time of day of seconds since 1970.
fn at(value: &Value) -> String {
    let since = Duration::try_from_secs_f64(value.as_f64().unwrap_or_default()).unwrap_or_default();
    clock(SystemTime::UNIX_EPOCH + since)
}

/// What is wrong now, or that nothing is.
fn wrong(shown: &Value) -> Vec<String> {
    let Some(problems) = shown["problems"].as_array() else { return Vec::new() };
    let said = |problem: &Value| {
        let since = problem["seconds"].as_f64().map(|seconds| English.since(seconds));
        format!("WRONG {}{}", text(&problem["what"]), since.unwrap_or_default())
    };
    if problems.is_empty() { vec!["nothing is wrong".to_owned()] } else { problems.iter().map(said).collect() }
}

/// What the page has in its four tiles, besides keys a second.
fn numbers(shown: &Value) -> Option<String> {
    let oldest = English.span(shown["oldest_undeleted_seconds"].as_f64()?);
    let mut parts = vec![format!("oldest change not deleted yet {oldest}")];
    if let Some(median) = shown["commit_to_delete_median_seconds"].as_f64() {
        let of = English.count(shown["commit_to_delete_of"].as_u64().unwrap_or_default());
        parts.push(format!("commit to delete {} (median of {of} in 5 min)", English.span(median)));
    }
    parts.extend(shown["hit_rate"].as_f64().map(|hits| format!("hit rate {}", English.percent(hits))));
    Some(parts.join("; "))
}

/// The position, and what room the server has for it.
fn slot(postgres: &Value) -> Option<String> {
    let mut parts = vec![format!("{} at {}", text(&postgres["slot"]), postgres["confirmed"].as_str()?)];
    let bytes = |name: &str| postgres[name].as_u64().map(|bytes| English.bytes(bytes));
    parts.extend(bytes("held_bytes").map(|held| format!("{held} of WAL kept for it")));
    parts.extend(bytes("safe_bytes").map(|safe| format!("{safe} until it can be lost")));
    let lasts = postgres["seconds_to_loss"].as_f64().map(|seconds| English.span(seconds));
    parts.extend(lasts.map(|lasts| format!("which lasts {lasts} should it stand still")));
    parts.extend(postgres["outbox_rows"].as_u64().map(|rows| format!("{} rows in the outbox", English.count(rows))));
    parts.extend(bytes("outbox_bytes").map(|bytes| format!("{bytes} on disk")));
    // An outbox has no slot: what `postgres.slot` names is a row of crieur.progress.
    let what = if postgres["outbox_rows"].is_u64() { "outbox position" } else { "slot" };
    Some(format!("{what} {}", parts.join(", ")))
}

/// The tables of which anything came since the daemon started.
fn tables(shown: &Value) -> Vec<String> {
    let changes = |table: &Value| list(&table["changes"]).filter_map(Value::as_u64).sum::<u64>();
    let came: Vec<&Value> = list(&shown["tables"]).filter(|table| changes(table) > 0).collect();
    let line = |table: &&Value| {
        let rate = |name: &str| table[name].as_f64().map_or_else(|| "–".to_owned(), |rate| English.rate(rate));
        format!(
            "table {}: {} keys/s, {} changes/s; {} keys of {} changes since the start",
            text(&table["table"]),
            rate("keys_per_second"),
            rate("changes_per_second"),
            English.count(table["keys"].as_u64().unwrap_or_default()),
            English.count(changes(table)),
        )
    };
    let more = came.len().saturating_sub(TABLES_MAX);
    let more = (more > 0).then(|| format!("{more} more tables: crieur status --json"));
    came.iter().take(TABLES_MAX).map(line).chain(more).collect()
}

/// What the verifier found, where it looked at anything.
fn verified(verified: &Value) -> Option<String> {
    let number = |name: &str| verified[name].as_u64().unwrap_or_default();
    if number("checked") + number("stale") == 0 {
        return None;
    }
    let count = |name: &str| English.count(number(name));
    let mut line = format!("verified {} values, {} stale now", count("checked"), count("stale_now"));
    let last = &verified["last_stale"];
    if last.is_object() {
        let key = last["key"].as_str().map_or_else(|| "a key".to_owned(), |key| text(&key.into()));
        let mended = if last["is_stale_no_more"] == true { ", stale no more" } else { "" };
        line.push_str(&format!(
            "; last stale: {key} in {} ({}, {} UTC{mended})",
            text(&last["cache"]),
            text(&last["verification"]),
            at(&last["at"])
        ));
    }
    Some(line)
}

fn change(change: &Value) -> String {
    let mut keys: Vec<String> = list(&change["keys"])
        .filter_map(|key| key["key"].as_str())
        .map(|key| shown(key.as_bytes()))
        .take(LAST)
        .collect();
    let all = list(&change["keys"]).count() as u64 + change["more"].as_u64().unwrap_or_default();
    let more = all.saturating_sub(keys.len() as u64);
    keys.extend((more > 0).then(|| format!("+{more}")));
    let gone = change["deleted_after_seconds"].as_object().into_iter().flatten();
    let gone: Vec<String> =
        gone.filter_map(|(cache, after)| Some(format!("{cache} {}", English.span(after.as_f64()?)))).collect();
    let gone = if gone.is_empty() { "not deleted yet".to_owned() } else { gone.join(", ") };
    format!(
        "{} UTC {} {} {}: {gone}",
        at(&change["at"]),
        text(&change["table"]),
        text(&change["operation"]),
        keys.join(" ")
    )
}

fn warning(warning: &Value) -> String {
    let said = text(&warning["text"]);
    let cut: String = said.chars().take(WARNING_MAX).collect();
    let more = if cut.len() < said.len() { "…" } else { "" };
    format!("{} UTC {} {cut}{more}", at(&warning["at"]), text(&warning["id"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_comes_first_and_the_newest_of_what_happened_last() {
        let key = |key: &str| json!({ "key": key, "rule": "crieur.toml:3", "is_pattern": false });
        let change = |at: f64, keys: &[&str], gone| {
            json!({ "at": at, "table": "public.t", "operation": "update", "more": 2, "deleted_after_seconds": gone,
                    "keys": keys.iter().map(|text| key(text)).collect::<Vec<_>>() })
        };
        let daemon = json!({
            "ready": true, "standing": "ready", "dead": null, "caches": ["cache main answers"],
            "shown": {
                "problems": [{ "what": "the cache dakar does not answer", "seconds": 14.0 }, { "what": "b", "seconds": null }],
                "oldest_undeleted_seconds": 14.0, "commit_to_delete_median_seconds": 0.0031, "commit_to_delete_of": 1200,
                "hit_rate": 0.914,
                "postgres": { "slot": "crieur", "confirmed": "0/16B3748", "held_bytes": 2048, "safe_bytes": 1048576,
                              "seconds_to_loss": 7200.0 },
                "tables": [
                    { "table": "public.t", "changes": [1, 2, 0, 0], "keys": 6, "keys_per_second": 1.25, "changes_per_second": null },
                    { "table": "public.quiet", "changes": [0, 0, 0, 0], "keys": 0 },
                ],
                "verified": { "checked": 50, "stale": 1, "stale_now": 1, "last_stale":
                    { "at": 3661.0, "cache": "main", "key": "detail:7", "verification": "crieur.toml:9" } },
                "changes": [change(3662.0, &["detail:8", "a\u{1b}[2J", "c", "d"], json!({})),
                            change(3661.0, &["detail:7"], json!({ "main": 0.003 }))],
                "warnings": [{ "at": 3600.0, "id": "cache.failing", "text": "x".repeat(300) }],
            },
        });
        let expected = [
            "ready: ready",
            "WRONG the cache dakar does not answer for 14 s",
            "WRONG b",
            "oldest change not deleted yet 14 s; commit to delete 3.1 ms (median of 1,200 in 5 min); hit rate 91.4 %",
            "slot crieur at 0/16B3748, 2.0 KiB of WAL kept for it, 1.0 MiB until it can be lost, which lasts 2 h should it stand still",
            "cache main answers",
            "table public.t: 1.2 keys/s, – changes/s; 6 keys of 3 changes since the start",
            "verified 50 values, 1 stale now; last stale: detail:7 in main (crieur.toml:9, 01:01:01 UTC)",
            "01:01:01 UTC public.t update detail:7 +2: main 3.0 ms",
            "01:01:02 UTC public.t update detail:8 \"a\\x1b[2J\" c +3: not deleted yet",
            &format!("01:00:00 UTC cache.failing {}…", "x".repeat(200)),
        ];
        assert_eq!(lines(&daemon), expected);
    }

    #[test]
    fn a_daemon_that_tells_less_has_fewer_lines() {
        assert_eq!(lines(&json!({ "wrong": "does not answer" })), ["does not answer"]);
        let old =
            json!({ "ready": false, "standing": "x", "dead": "the loop has been silent for a minute", "caches": [] });
        assert_eq!(lines(&old), ["not ready: x", "the loop has been silent for a minute"]);
        let well = json!({ "ready": true, "standing": "ready", "shown": { "problems": [], "changes": null,
            "postgres": { "slot": "crieur", "confirmed": "0/2A", "outbox_rows": 3, "outbox_bytes": 8192 } } });
        let outbox = "outbox position crieur at 0/2A, 3 rows in the outbox, 8.0 KiB on disk";
        assert_eq!(lines(&well), ["ready: ready", "nothing is wrong", outbox]);
    }
}
