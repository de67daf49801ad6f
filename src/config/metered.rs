//! Caches that bill each command: which they are, and what that changes. Pure.
//!
//! While nothing happens the mark is all that is sent, so its heartbeat decides the price of an idle month.

use std::time::Duration;

use crate::config::merged::Merged;
use crate::config::reference::ConfigKind;

/// Whether each command costs money.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Metering {
    /// No.
    None,
    /// Yes: nothing is sent twice for the sake of milliseconds, and the mark seldom.
    ByCommand,
}

/// Defaults where each command costs money, in the place of those in the reference.
const DEFAULTS: &[(&str, &str)] = &[("cache.heartbeat", "1m"), ("cache.connection_age_max", "5m")];

/// Ends of host names of services that bill commands: Upstash, and Upstash as Vercel sold it.
const HOSTS: &[&str] = &[".upstash.io", ".kv.vercel-storage.com"];

/// Whether the address is one of a service that bills commands.
fn of_url(url: &str) -> Metering {
    let behind_scheme = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = behind_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let host = host.split(':').next().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    if HOSTS.iter().any(|end| host.ends_with(end)) { Metering::ByCommand } else { Metering::None }
}

/// Whether commands are billed, as it is written or as the address says; puts the other defaults into their places.
pub(super) fn settle(merged: &mut Merged) -> Metering {
    let metering = match merged.text("cache.metered").as_str() {
        "yes" => Metering::ByCommand,
        "no" => Metering::None,
        _ => of_url(&merged.text("cache.url")),
    };
    for (name, default) in DEFAULTS.iter().filter(|_| metering == Metering::ByCommand) {
        let setting = merged.0.iter_mut().find(|(key, _)| key.name == *name).and_then(|(_, setting)| setting.as_mut());
        if let Some((checked, text, origin)) = setting.filter(|(_, _, origin)| origin == "default") {
            let value = config::Value::new(None, *default);
            *checked = ConfigKind::Duration(Duration::ZERO, Duration::MAX).check(&value).expect("a duration");
            (*text, *origin) = ((*default).to_owned(), "default where commands are billed".to_owned());
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
