//! The cache: reachable, permitted, and which server it is.
//!
//! What is tried, and that nothing is changed by it, is `cache/probe.rs`, which the daemon runs through before it deletes
//! anything; what a refusal means is the table in `cache/reply.rs`. Here both become lines of the report. Pure.

use crate::cache::acl;
use crate::cache::identity::Info;
use crate::cache::probe::{Examined, Tried};
use crate::cache::reply::{self, Mends};
use crate::cli::check::sentinels;
use crate::cli::finding::{Finding, Grade, folded};
use crate::config::{CacheConfig, Leases, Metering, Transport};
use crate::error::Result;
use crate::rules::Rules;

/// Findings on one of the caches, each with its name where it has one.
pub fn of(cache: &CacheConfig, examined: Result<Examined>, rules: &Rules) -> Vec<Finding> {
    let seen = rules.seen_by(&cache.name, &cache.protect);
    let families = seen.as_ref().unwrap_or(rules).patterns();
    let found = match examined {
        Ok(examined) => {
            let channel = cache.publish.as_ref().map(|publish| publish.channel.as_str());
            let mut found = findings(&examined, &families, (cache.leases, channel), cache.metering);
            found.extend(way(cache));
            found.extend(price(cache));
            found
        }
        Err(error) => vec![Finding::wrong("cache", error.chain()).mend_all(error.hint)],
    };
    let called = cache.called();
    let named = |finding: Finding| Finding { subject: finding.subject.replacen("cache", &called, 1), ..finding };
    found.into_iter().map(named).collect()
}

/// Findings on a cache that was examined, with its leases and the channel of `publish`.
pub fn findings(
    examined: &Examined,
    families: &[Vec<u8>],
    (leases, channel): (Leases, Option<&str>),
    metering: Metering,
) -> Vec<Finding> {
    let mut out = vec![server(&examined.info)];
    out.extend(examined.sentinels.iter().flat_map(sentinels::findings));
    out.extend(replica(&examined.info));
    out.extend(eviction(&examined.memory).filter(|_| metering == Metering::None));
    let mut grant = acl::grant(&examined.user, families, leases);
    if is_cluster(&examined.info) {
        grant = format!("{grant} {}", acl::IN_CLUSTER);
        out.extend(apart(families, leases));
    }
    if metering == Metering::ByCommand {
        grant = format!("Write the token that is not the read-only one. A user of your own needs: {grant}");
    }
    out.extend(identity(&examined.info, metering).map(|finding| match finding.verdict {
        Grade::Ready => finding,
        Grade::Note | Grade::Wrong => finding.mend(grant.clone()),
    }));
    let version = examined.info.field("redis_version");
    let publishing = channel.map(|channel| acl::grant_to_publish(&examined.user, channel, version));
    let granting = |tried: &Tried| publishing.as_ref().filter(|_| tried.command == "PUBLISH").unwrap_or(&grant);
    out.extend(examined.tried.iter().map(|tried| answer(tried, granting(tried))));
    mended_together(out)
}

fn is_cluster(info: &Info) -> bool {
    info.field("redis_mode") == Some("cluster")
}

/// In a cluster a key and its lease must lie in one slot: readers look at both in one step, which a cluster does only then.
/// The lease of K is `lease:{K}`, whose slot is that of the part before the first `}`; with a `}` in K that is never K's.
fn apart(families: &[Vec<u8>], leases: Leases) -> Vec<Finding> {
    if leases == Leases::None {
        return Vec::new();
    }
    let named = families.iter().filter(|family| family.contains(&b'}'));
    let finding = |family: &Vec<u8>| {
        let family = String::from_utf8_lossy(family).escape_debug().to_string();
        Finding::wrong(
            "cache, leases in a cluster",
            format!("the keys {family} hold a }}: in a cluster such a key and its lease lie in different slots"),
        )
        .mend("write the keys of that rule without }, or let readers keep the lease in the key itself (leases = \"none\")")
    };
    named.map(finding).collect()
}

/// What one step mends is one line: without a right, or on a replica, most of what is tried is refused. What a replica
/// refuses adds nothing to that it is one.
fn mended_together(findings: Vec<Finding>) -> Vec<Finding> {
    let (wrong, mut out): (Vec<Finding>, Vec<Finding>) =
        folded(&findings).into_iter().partition(|finding| finding.verdict == Grade::Wrong);
    let mut lines: Vec<(Finding, bool)> = Vec::new();
    for finding in wrong {
        let tried = finding.subject.strip_prefix("cache, ").map(|subject| format!("{subject}: {}", finding.seen));
        match (tried, lines.iter_mut().find(|(line, _)| !line.mend.is_empty() && line.mend == finding.mend)) {
            (Some(_), Some((_, false))) => {}
            (Some(tried), Some((line, true))) => line.seen.push_str(&format!("; {tried}")),
            (tried, None) | (tried @ None, Some(_)) => lines.push((finding, tried.is_some())),
        }
    }
    out.extend(lines.into_iter().map(|(line, _)| line));
    out
}

/// What the reply to one attempt means.
fn answer(tried: &Tried, grant: &str) -> Finding {
    let (subject, command) = (format!("cache, {}", tried.subject), tried.command);
    match &tried.refusal {
        None => Finding::ready(subject, format!("{command} is permitted")),
        Some((error, Mends::Itself)) => {
            Finding::note(subject, format!("{}; crieur tries again until it passes", error.message))
        }
        Some((_, Mends::Rights)) if command == "EVAL" => {
            Finding::wrong(subject, "EVAL, or a command inside of its script, is not permitted to this user")
                .mend(grant)
        }
        Some((_, Mends::Rights)) => {
            Finding::wrong(subject, format!("{command} is not permitted to this user")).mend(grant)
        }
        Some((error, Mends::Person)) => Finding::wrong(subject, error.message.clone()).mend_all(error.hint.clone()),
    }
}

/// Which server it is; Redis before 6 has no ACL and no SCAN TYPE, Valkey begins at 7.
fn server(info: &Info) -> Finding {
    if let Some(version) = info.field("valkey_version") {
        return Finding::ready("cache", format!("Valkey {version} answers"));
    }
    let Some(version) = info.field("redis_version") else {
        return Finding::ready("cache", "answers, and does not say which version it is");
    };
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(0..6) => Finding::wrong("cache", format!("Redis {version}; 6 is the oldest that is supported"))
            .mend("upgrade the cache"),
        Some(_) | None => Finding::ready("cache", format!("Redis {version} answers")),
    }
}

/// A server without a name works, and its failovers are seen by the mark alone.
fn identity(info: &Info, metering: Metering) -> Option<Finding> {
    if ["run_id", "master_replid"].iter().any(|name| info.field(name).is_some()) {
        return None;
    }
    let seen = "INFO does not say which process this is (run_id, master_replid): a failover is noticed by the mark alone, \
                which carries what was deleted since the last one";
    Some(match metering {
        // A service of this kind never says it.
        Metering::ByCommand => Finding::ready("cache, identity", seen),
        Metering::None => Finding::note("cache, identity", seen),
    })
}

/// How an address that is that of a REST interface is reached.
fn way(cache: &CacheConfig) -> Option<Finding> {
    let way = match cache.transport {
        Transport::Rest => "over REST (transport = \"rest\")",
        Transport::Tcp => "over the Redis protocol, at port 6379 of the same host and with the same token",
    };
    cache.token.is_some().then(|| Finding::ready("cache, transport", format!("the service is reached {way}")))
}

/// What the budget buys.
fn price(cache: &CacheConfig) -> Option<Finding> {
    if cache.metering == Metering::None {
        return None;
    }
    Some(match cache.budget().ok().flatten() {
        Some(budget) => {
            let verifier = match budget.verifier() {
                0 => String::new(),
                commands => format!("; what [[verify]] looks at, up to {commands}"),
            };
            Finding::ready(
                "cache, budget",
                format!(
                    "{} commands a month: a change is deleted at most {} late while the cache answers; the marks alone cost {}{verifier}",
                    budget.commands(),
                    budget.bound_shown(),
                    budget.marks()
                ),
            )
        }
        None => Finding::note("cache, budget", "there is none: each change may cost commands as it comes"),
    })
}

fn replica(info: &Info) -> Option<Finding> {
    let is_replica = info.field("role") == Some("slave");
    is_replica
        .then(|| Finding::wrong("cache", "this is a replica, which crieur refuses").mend_all(reply::replica().hint))
}

/// What happens when the cache is full.
fn eviction(memory: &Info) -> Option<Finding> {
    let policy = memory.field("maxmemory_policy")?;
    let limited = memory.field("maxmemory").is_some_and(|bytes| bytes != "0");
    Some(match (limited, policy) {
        (true, "noeviction") => {
            Finding::note("cache", "maxmemory with noeviction: when full, the mark cannot be written")
        }
        (true, _) => Finding::ready("cache", format!("evicts by {policy} when full")),
        (false, _) => Finding::note("cache", "no maxmemory: the cache grows until the system's memory is full"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Exit};
    use redis::Value;

    fn info(text: &str) -> Info {
        Info::read(&[Value::BulkString(text.as_bytes().to_vec())])
    }

    #[test]
    fn info_tells_the_server_and_what_happens_when_it_is_full() {
        for (text, verdict, words) in [
            ("redis_version:7.2.4\r\nvalkey_version:8.0.1\r\n", Grade::Ready, "Valkey 8.0.1"),
            ("redis_version:7.0.15\r\n", Grade::Ready, "Redis 7.0.15"),
            ("redis_version:5.0.3\r\n", Grade::Wrong, "6 is the oldest"),
            ("", Grade::Ready, "does not say"),
        ] {
            let found = server(&info(text));
            assert_eq!(found.verdict, verdict);
            assert!(found.seen.contains(words), "{found:?}");
        }
        let full = info("maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n");
        assert_eq!(eviction(&full).map(|found| found.verdict), Some(Grade::Note));
        let evicting = info("maxmemory:9\r\nmaxmemory_policy:allkeys-lru\r\n");
        assert_eq!(eviction(&evicting).map(|found| found.verdict), Some(Grade::Ready));
        for (text, named) in
            [("run_id:a\r\n", true), ("master_replid:a\r\n", true), ("redis_mode:standalone\r\n", false)]
        {
            assert_eq!(identity(&info(text), Metering::None).is_none(), named, "{text}");
            let billed = identity(&info(text), Metering::ByCommand);
            assert!(billed.is_none_or(|found| found.verdict == Grade::Ready), "{text}");
        }
        assert!(replica(&info("role:slave\r\n")).is_some() && replica(&info("role:master\r\n")).is_none());
    }

    #[test]
    fn a_key_that_a_lease_cannot_share_a_slot_with_is_refused_in_a_cluster() {
        let families = [b"a:*".to_vec(), b"{b}:*".to_vec(), b"c{:*".to_vec()];
        let examined = |mode: &str| Examined {
            info: info(&format!("redis_version:7.0.15\r\nrun_id:a\r\nredis_mode:{mode}\r\n")),
            memory: info(""),
            tried: Vec::new(),
            user: "ann".into(),
            sentinels: None,
        };
        let wrong = |mode: &str, leases| {
            let found = findings(&examined(mode), &families, (leases, None), Metering::None);
            found
                .iter()
                .filter(|finding| finding.verdict == Grade::Wrong)
                .map(|finding| finding.seen.clone())
                .collect::<Vec<_>>()
        };
        let found = wrong("cluster", Leases::Companion);
        assert!(found.len() == 1 && found[0].contains("{b}:*"), "{found:?}");
        assert!(wrong("standalone", Leases::Companion).is_empty() && wrong("cluster", Leases::None).is_empty());
    }

    #[test]
    fn replies_tell_what_a_person_must_mend_from_weather() {
        let tried = |refusal| Tried { subject: "sweep".into(), command: "SCAN", refusal };
        let noperm = Error::transient("the cache answered SCAN with NOPERM").hint("general");
        let off = Error::definite(Exit::Unavailable, "the cache answered SCAN with ERR").hint("renamed");
        let loading = Error::transient("the cache answered SCAN with LOADING").hint("wait");
        for (refusal, verdict, mend) in [
            (None, Grade::Ready, None),
            (Some((noperm, Mends::Rights)), Grade::Wrong, Some("ACL SETUSER ann")),
            (Some((off, Mends::Person)), Grade::Wrong, Some("renamed")),
            (Some((loading, Mends::Itself)), Grade::Note, None),
        ] {
            let found = answer(&tried(refusal), "ACL SETUSER ann");
            assert_eq!((found.verdict, found.mend.first().map(String::as_str)), (verdict, mend), "{found:?}");
        }
    }
}
