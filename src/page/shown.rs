//! The page as one value, for a command: all that the page shows, with the same of it kept back. Pure.
//!
//! Times of day are in seconds since 1970, and spans in seconds.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::{PageView, Rate, Warning};
use crate::observe::board::Posted;
use crate::observe::ids::Level;
use crate::verify::tally::{StaleKey, Verified};

fn since_1970(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
}

fn change(posted: &Posted) -> Value {
    let changed = &posted.changed;
    let key = |named: &crate::observe::trail::NamedKey| json!({ "rule": &*named.rule, "key": named.key, "is_pattern": named.is_pattern });
    let gone = posted.gone.iter().map(|(cache, after)| (cache.to_string(), json!(after.as_secs_f64())));
    json!({
        "at": since_1970(changed.committed),
        "table": &*changed.table,
        "operation": changed.operation,
        "keys": changed.keys.iter().map(key).collect::<Vec<_>>(),
        "more": changed.more,
        "deleted_after_seconds": gone.collect::<Map<_, _>>(),
    })
}

fn warning(said: &Warning) -> Value {
    let level = if said.level == Level::Error { "error" } else { "warning" };
    json!({ "at": since_1970(said.at), "id": said.id, "level": level, "text": said.text })
}

fn stale(key: &StaleKey) -> Value {
    json!({
        "at": since_1970(key.at),
        "cache": key.cache,
        "key": key.key,
        "verification": key.place,
        "known_for_seconds": key.known_for.as_secs_f64(),
        "is_stale_no_more": key.is_mended,
    })
}

fn verified(of: &Verified) -> Value {
    json!({
        "checked": of.checked,
        "stale": of.stale,
        "undecided": of.undecided,
        "stale_now": of.stale_now,
        "stale_age_seconds": of.stale_age.as_secs_f64(),
        "last_stale": of.last_stale.as_ref().map(stale),
    })
}

impl PageView {
    /// All that the page shows.
    pub fn json(&self) -> Value {
        // Plain values, of which none can fail: a number that is none becomes null.
        let mut shown = serde_json::to_value(&self.snapshot).unwrap_or_default();
        let rates = self.rates.as_deref().unwrap_or_default();
        for (index, table) in shown["tables"].as_array_mut().into_iter().flatten().enumerate() {
            let rate = |of: fn(&Rate) -> f64| json!(rates.get(index).map(of));
            table["changes_per_second"] = rate(|rate| rate.changes);
            table["keys_per_second"] = rate(|rate| rate.keys);
        }
        let gravest = self.snapshot.problems.first();
        let more = [
            ("problem", json!(gravest.map(|problem| &problem.what))),
            ("problem_seconds", json!(gravest.and_then(|problem| problem.seconds))),
            ("hit_rate", json!(self.hits())),
            ("commit_to_delete_median_seconds", json!(self.median_age())),
            ("commit_to_delete_of", json!(self.points.len())),
            ("changes", json!(self.changes.as_ref().map(|all| all.iter().map(change).collect::<Vec<_>>()))),
            ("warnings", json!(self.warnings.iter().map(warning).collect::<Vec<_>>())),
            ("verified", verified(&self.verified)),
        ];
        more.into_iter().for_each(|(name, value)| shown[name] = value);
        shown
    }
}
