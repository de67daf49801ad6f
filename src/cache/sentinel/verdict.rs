//! What Sentinels say, and what a majority of them says. Pure.
//!
//! A Sentinel alone proves nothing: it may be cut off, or be told lies. A failover needs the votes of a majority, so the
//! word of a majority is the only one that moves crieur. Sentinels count as many as the address names.

use std::collections::BTreeMap;

use ::redis::Value;

use crate::cache::place::{HostPort, SERVER_PORT};
use crate::error::Error;

/// What one Sentinel says of the primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SentinelWord {
    /// Where it is.
    pub place: HostPort,
    /// Counts failovers: the configuration with the highest is the last.
    pub epoch: u64,
    /// Sentinels that must find a primary down before a failover begins.
    pub quorum: u64,
    /// Other Sentinels that it knows.
    pub others: u64,
    /// `master`, and what is wrong with it: `s_down`, `o_down`, `failover_in_progress`.
    pub flags: String,
    /// Its clock jumped: it acts on nothing, and what it says may be old (TILT mode).
    pub tilt: bool,
}

/// What became of asking one Sentinel.
#[derive(Debug)]
pub enum SentinelSaid {
    /// It answered.
    Word(SentinelWord),
    /// It watches no primary of this name, but others.
    NoSuchName(Vec<String>),
    /// It did not answer, or is none.
    Failed(Error),
}

/// What all of them say together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SentinelVerdict {
    /// A majority names this primary, with this configuration epoch at most.
    Named {
        /// Where it is.
        place: HostPort,
        /// The highest epoch that one of this majority told.
        epoch: u64,
    },
    /// A majority answers, and there is no majority for one primary.
    Divided,
    /// Fewer than a majority answer: no evidence of anything.
    Silent,
}

/// So many of `all` are a majority.
pub fn majority(all: usize) -> usize {
    all / 2 + 1
}

/// The majority's word; those of `all` who are not in `said` did not answer.
pub fn verdict<'a>(said: impl Iterator<Item = &'a SentinelSaid>, all: usize) -> SentinelVerdict {
    let mut named: BTreeMap<&HostPort, (usize, u64)> = BTreeMap::new();
    let mut words = 0;
    for word in said {
        let SentinelSaid::Word(word) = word else { continue };
        if !word.tilt {
            words += 1;
            let (votes, epoch) = named.entry(&word.place).or_default();
            (*votes, *epoch) = (*votes + 1, word.epoch.max(*epoch));
        }
    }
    let most = majority(all);
    match named.into_iter().find(|(_, (votes, _))| *votes >= most) {
        Some((place, (_, epoch))) => SentinelVerdict::Named { place: place.clone(), epoch },
        None if words >= most => SentinelVerdict::Divided,
        None => SentinelVerdict::Silent,
    }
}

/// The replies to `SENTINEL GET-MASTER-ADDR-BY-NAME`, `SENTINEL MASTER` and `INFO sentinel`. The first names the new primary
/// as soon as it was promoted, a moment before the second does (`sentinelGetCurrentMasterAddress`, src/sentinel.c).
/// `None` where they are no such replies.
pub fn word(place: &Value, details: &Value, info: &Value) -> Option<SentinelWord> {
    let Value::Array(parts) = place else { return None };
    let [host, port] = parts.as_slice() else { return None };
    let place = HostPort { host: text(host)?, port: text(port)?.parse().ok()? };
    let details = fields(details)?;
    let number = |name: &str| details.get(name).and_then(|text| text.parse().ok());
    let tilt = text(info).is_some_and(|info| info.lines().any(|line| line.trim_end() == "sentinel_tilt:1"));
    Some(SentinelWord {
        place,
        epoch: number("config-epoch")?,
        quorum: number("quorum").unwrap_or(0),
        others: number("num-other-sentinels").unwrap_or(0),
        flags: details.get("flags").cloned().unwrap_or_default(),
        tilt,
    })
}

/// The names in a reply to `SENTINEL MASTERS`.
pub fn names(reply: &Value) -> Vec<String> {
    let Value::Array(all) = reply else { return Vec::new() };
    all.iter().filter_map(|each| fields(each)?.remove("name")).collect()
}

/// Names and values in turn, as RESP2 has maps.
fn fields(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Array(parts) => {
            Some(parts.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect())
        }
        Value::Map(pairs) => Some(pairs.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?))).collect()),
        _ => None, // Value is foreign and non-exhaustive.
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None, // Value is foreign and non-exhaustive.
    }
}

/// A message of the channel `+switch-master`: `NAME OLD-HOST OLD-PORT NEW-HOST NEW-PORT`. Only a hint.
pub fn switched(message: &[u8], name: &str) -> Option<HostPort> {
    let message = String::from_utf8_lossy(message);
    let mut words = message.strip_prefix(name)?.strip_prefix(' ')?.split(' ').skip(2);
    let place = HostPort { host: words.next()?.to_owned(), port: words.next()?.parse().unwrap_or(SERVER_PORT) };
    words.next().is_none().then_some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(place: &str, epoch: u64) -> SentinelSaid {
        let place = HostPort::parse(place, SERVER_PORT).expect("a place");
        SentinelSaid::Word(SentinelWord { place, epoch, quorum: 2, others: 2, flags: "master".into(), tilt: false })
    }

    fn tilted(place: &str, epoch: u64) -> SentinelSaid {
        let SentinelSaid::Word(word) = said(place, epoch) else { unreachable!() };
        SentinelSaid::Word(SentinelWord { tilt: true, ..word })
    }

    fn silent() -> SentinelSaid {
        SentinelSaid::Failed(Error::transient("no answer"))
    }

    #[test]
    fn only_a_majority_of_all_names_a_primary() {
        let named = |place: &str, epoch| SentinelVerdict::Named {
            place: HostPort::parse(place, SERVER_PORT).expect("a place"),
            epoch,
        };
        let unknown = || SentinelSaid::NoSuchName(vec!["other".into()]);
        for (what, all, expected) in [
            ("all agree", vec![said("a", 1), said("a", 1), said("a", 1)], named("a", 1)),
            ("one is away", vec![said("a", 1), silent(), said("a", 2)], named("a", 2)),
            ("a stale minority", vec![said("b", 2), said("a", 1), said("b", 2)], named("b", 2)),
            (
                "a minority that lies with a high epoch",
                vec![said("evil", 99), said("a", 1), said("a", 1)],
                named("a", 1),
            ),
            (
                "the first of three knows of a failover",
                vec![said("b", 2), said("a", 1), silent()],
                SentinelVerdict::Divided,
            ),
            ("each says another", vec![said("a", 1), said("b", 2), said("c", 3)], SentinelVerdict::Divided),
            ("two are away", vec![said("a", 1), silent(), silent()], SentinelVerdict::Silent),
            ("two do not know the name", vec![said("a", 1), unknown(), unknown()], SentinelVerdict::Silent),
            ("a clock jumped", vec![said("a", 1), tilted("b", 2), said("a", 1)], named("a", 1)),
            ("two clocks jumped", vec![said("a", 1), tilted("a", 1), tilted("a", 1)], SentinelVerdict::Silent),
            ("one alone", vec![said("a", 1)], named("a", 1)),
            ("two that agree", vec![said("a", 1), said("a", 1)], named("a", 1)),
            ("two that do not", vec![said("a", 1), said("b", 1)], SentinelVerdict::Divided),
            ("one of two", vec![said("a", 1), silent()], SentinelVerdict::Silent),
            ("two of four", vec![said("a", 1), said("a", 1), silent(), silent()], SentinelVerdict::Silent),
            ("two against two", vec![said("a", 1), said("a", 1), said("b", 1), said("b", 1)], SentinelVerdict::Divided),
        ] {
            assert_eq!(verdict(all.iter(), all.len()), expected, "{what}");
        }
        assert_eq!(verdict([].iter(), 3), SentinelVerdict::Silent);
    }

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn a_word_is_read_from_three_replies() {
        let place = Value::Array(vec![bulk("::1"), bulk("7000")]);
        let details =
            ["name", "m", "ip", "::2", "config-epoch", "5", "quorum", "2", "num-other-sentinels", "2", "flags"];
        let details: Vec<Value> = details.iter().map(|text| bulk(text)).chain([bulk("master,s_down")]).collect();
        let read = |info: &str| word(&place, &Value::Array(details.clone()), &bulk(info));
        let expected = SentinelWord {
            place: HostPort { host: "::1".into(), port: 7000 },
            epoch: 5,
            quorum: 2,
            others: 2,
            flags: "master,s_down".into(),
            tilt: false,
        };
        assert_eq!(read("sentinel_masters:1\r\nsentinel_tilt:0\r\n"), Some(expected.clone()));
        assert_eq!(read("sentinel_tilt:1\r\n"), Some(SentinelWord { tilt: true, ..expected }));
        assert_eq!(word(&Value::Nil, &Value::Nil, &Value::Nil), None);
        assert_eq!(names(&Value::Array(vec![Value::Array(details)])), ["m"]);
    }

    #[test]
    fn a_switch_is_heard_for_the_name_that_is_followed() {
        let heard = |message: &str, name: &str| switched(message.as_bytes(), name).map(|place| place.to_string());
        assert_eq!(heard("m 10.0.0.1 1 10.0.0.2 2", "m").as_deref(), Some("10.0.0.2:2"));
        assert_eq!(heard("my m ::1 1 ::2 2", "my m").as_deref(), Some("[::2]:2"));
        assert_eq!(heard("mm ::1 1 ::2 2", "m"), None);
        assert_eq!(heard("m", "m"), None);
    }
}
