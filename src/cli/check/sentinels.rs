//! Sentinels: which primary a majority names, which of them answer, and what they see of it. Pure.

use crate::cache::sentinel::SentinelReport;
use crate::cache::sentinel::verdict::{SentinelSaid, SentinelVerdict, majority};
use crate::cli::finding::Finding;

/// Findings on Sentinels that were asked.
pub fn findings(report: &SentinelReport) -> Vec<Finding> {
    let all = report.said.len();
    let answered = report.words().count();
    let quorum = report.words().map(|word| word.quorum).max().unwrap_or(0);
    let asked = format!("{answered} of {all} Sentinels answer, quorum {quorum}");
    let mut out = vec![match &report.verdict {
        SentinelVerdict::Named { place, epoch } => Finding::ready(
            "cache, Sentinels",
            format!("the primary \"{}\" is at {place} (epoch {epoch}); {asked}", report.name),
        ),
        SentinelVerdict::Divided => {
            Finding::wrong("cache, Sentinels", format!("they do not agree on the primary; {asked}"))
                .mend("SENTINEL RESET at each that is behind")
        }
        SentinelVerdict::Silent => Finding::wrong("cache, Sentinels", format!("fewer than a majority answer: {asked}"))
            .mend("start the Sentinels, or correct their addresses"),
    }];
    out.extend(report.said.iter().filter_map(|(server, said)| one(report, server, said)));
    let known = report.words().map(|word| word.others + 1).max().unwrap_or(0);
    let all = u64::try_from(all).unwrap_or(u64::MAX);
    if known > all {
        let seen = format!("the Sentinels are {known}, and the address names {all}: a majority of those named decides");
        out.push(Finding::note("cache, Sentinels", seen).mend("name all of them in the address"));
    }
    out.extend(quorum_of(report, quorum));
    out
}

/// What is wrong with one of them, or with the primary as that one sees it.
fn one(report: &SentinelReport, server: &str, said: &SentinelSaid) -> Option<Finding> {
    let note = |seen: String| Some(Finding::note("cache, Sentinels", format!("{server}: {seen}")));
    match said {
        SentinelSaid::Failed(error) => {
            Some(Finding::note("cache, Sentinels", error.chain()).mend_all(error.hint.clone()))
        }
        SentinelSaid::NoSuchName(names) => {
            note(format!("knows no primary \"{}\", only: {}", report.name, names.join(", ")))
        }
        SentinelSaid::Word(word) if word.tilt => {
            note("its clock jumped, and its word does not count (TILT)".to_owned())
        }
        SentinelSaid::Word(word) => match &report.verdict {
            SentinelVerdict::Named { place, .. } if *place != word.place => note(format!("it names {}", word.place)),
            _ if word.flags != "master" => note(format!("it sees the primary as {}", word.flags)),
            SentinelVerdict::Named { .. } | SentinelVerdict::Divided | SentinelVerdict::Silent => None,
        },
    }
}

/// A failover needs a majority whatever the quorum is; a quorum above all of them is never reached.
fn quorum_of(report: &SentinelReport, quorum: u64) -> Option<Finding> {
    let named = u64::try_from(report.said.len()).unwrap_or(u64::MAX);
    let known = report.words().map(|word| word.others + 1).max()?.max(named);
    (quorum > known).then(|| {
        let seen = format!("the quorum is {quorum}, and there are {known} Sentinels: no failover can ever begin");
        let least = majority(usize::try_from(known).unwrap_or(usize::MAX));
        Finding::wrong("cache, Sentinels", seen).mend(format!("SENTINEL SET {} quorum {least}", report.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::place::HostPort;
    use crate::cache::sentinel::verdict::{SentinelWord, verdict};
    use crate::cli::finding::Grade;
    use crate::error::Error;

    fn word(host: &str, others: u64, quorum: u64) -> SentinelSaid {
        let place = HostPort { host: host.into(), port: 6379 };
        SentinelSaid::Word(SentinelWord { place, epoch: 3, quorum, others, flags: "master".into(), tilt: false })
    }

    #[test]
    fn each_finding_says_what_a_majority_says_and_who_is_apart() {
        let away = || SentinelSaid::Failed(Error::transient("cannot connect").at("the Sentinel at c:26379"));
        for (said, grade, words) in [
            (
                vec![word("a", 2, 2), word("a", 2, 2), word("a", 2, 2)],
                Grade::Ready,
                "3 of 3 Sentinels answer, quorum 2",
            ),
            (vec![word("a", 2, 2), word("a", 2, 2), away()], Grade::Note, "c:26379: cannot connect"),
            (vec![word("a", 2, 2), word("b", 2, 2), word("a", 2, 2)], Grade::Note, "it names b:6379"),
            (vec![word("a", 2, 2), word("b", 2, 2), away()], Grade::Wrong, "they do not agree"),
            (vec![word("a", 2, 2), away(), away()], Grade::Wrong, "fewer than a majority"),
            (vec![word("a", 4, 3)], Grade::Note, "the Sentinels are 5, and the address names 1"),
            (vec![word("a", 0, 2)], Grade::Wrong, "no failover can ever begin"),
        ] {
            let verdict = verdict(said.iter(), said.len());
            let said = said.into_iter().enumerate().map(|(at, said)| (format!("the Sentinel {at}"), said)).collect();
            let found = findings(&SentinelReport { name: "m".into(), said, verdict });
            assert!(
                found.iter().any(|found| found.verdict == grade && found.seen.contains(words)),
                "{words}: {found:?}"
            );
        }
    }
}
