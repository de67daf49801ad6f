//! Caches that bill each command: which they are, and what that changes. Pure.
//!
//! While nothing happens the mark is all that is sent, so its heartbeat decides the price of an idle month.

use crate::budget::{Budget, MarkCost};
use crate::config::merged::Merged;
use crate::config::reference::Checked;

/// Whether each command costs money.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metering {
    /// No.
    None,
    /// Yes: nothing is sent twice for the sake of milliseconds, and the mark seldom.
    ByCommand,
}

/// The default of `budget` on a host of Upstash: less than half of what the free plan gives, since the site needs some.
const BUDGET: &str = "200k";

/// Defaults where each command costs money, in the place of those in the reference.
const DEFAULTS: &[(&str, &str)] = &[("cache.heartbeat", "1m"), ("cache.connection_age_max", "5m")];

/// Ends of host names of services that bill commands: Upstash, and Upstash as Vercel sold it.
const HOSTS: &[&str] = &[".upstash.io", ".kv.vercel-storage.com"];

/// The host of an address, in lower case; of several the first.
pub(super) fn host(url: &str) -> String {
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = behind_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.split([':', ',']).next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase()
}

/// Whether the host is one of Upstash.
pub(super) fn is_upstash(host: &str) -> bool {
    HOSTS.iter().any(|end| host.ends_with(end))
}

/// Whether it is the address of a REST interface.
pub(super) fn is_web(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme.trim().to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("https" | "http"))
}

/// Whether the address is one of a service that bills commands.
fn of_url(url: &str) -> Metering {
    if is_upstash(&host(url)) { Metering::ByCommand } else { Metering::None }
}

/// Whether commands are billed, as it is written or as the address says; puts the other defaults into their places. A mark
/// costs `mark` over the way that was chosen.
pub(super) fn settle(merged: &mut Merged, mark: MarkCost) -> Metering {
    let metering = match merged.text("cache.metered").as_str() {
        "yes" => Metering::ByCommand,
        "no" => Metering::None,
        // Whoever speaks this interface bills, and a budget is for commands that are billed.
        _ if merged.text("cache.transport") == "rest" => Metering::ByCommand,
        _ if matches!(merged.get("cache.budget"), Some(Checked::Budget(Some(_)))) => Metering::ByCommand,
        _ => of_url(&merged.text("cache.url")),
    };
    if metering == Metering::ByCommand {
        let origin = "default where commands are billed";
        DEFAULTS.iter().for_each(|(name, default)| merged.set_default(name, default, origin));
        // A heartbeat that somebody chose may eat the default: then there is none.
        let fits = crate::amount::commands(BUDGET)
            .is_some_and(|budget| Budget::new(budget, merged.duration("cache.heartbeat"), mark).is_ok());
        if is_upstash(&host(&merged.text("cache.url"))) && fits {
            merged.set_default("cache.budget", BUDGET, "default on a host of Upstash");
        }
    }
    metering
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_alone_decides() {
        for (url, metered) in [
            ("rediss://default:token@eu1-nice-cat-12345.upstash.io:6379", true),
            ("rediss://default:t@Nice-Cat-1.Upstash.io", true),
            ("rediss://default:p%40@x.kv.vercel-storage.com:6379/0?x=y", true),
            ("redis://x.upstash.io.example.com", false),
            ("redis://upstash.io:p@localhost:6379", false),
            ("redis://localhost/.upstash.io", false),
            ("unix:///run/x.upstash.io", false),
            ("", false),
        ] {
            assert_eq!(of_url(url) == Metering::ByCommand, metered, "{url}");
        }
    }
}
