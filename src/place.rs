//! Places of servers: host and port, and which address leads there. Pure.

use std::fmt;

/// Where servers listen unless they are told otherwise.
pub const SERVER_PORT: u16 = 6379;

/// A host and its port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `host`, `host:port` or `[::1]:port`.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, behind) = rest.split_once(']')?;
                (host, if behind.is_empty() { None } else { Some(behind.strip_prefix(':')?) })
            }
            None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None | Some("") => default_port,
            Some(port) => port.parse().ok()?,
        };
        (!host.is_empty()).then(|| HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Other addresses of the same servers, `cache.nodes`: behind Docker or NAT servers know themselves by addresses that
/// lead nowhere from here.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodeMap(Vec<(HostPort, HostPort)>);

impl NodeMap {
    /// From pairs of texts: as the servers say it, and as it is reached from here. An error is the text that cannot be read.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, &'a str> {
        let read = |text: &'a str| HostPort::parse(text, SERVER_PORT).ok_or(text);
        let pair = |(told, reached)| Ok((read(told)?, read(reached)?));
        pairs.into_iter().map(pair).collect::<Result<_, _>>().map(NodeMap)
    }

    /// Where the server is reached that is told to be at `place`.
    pub fn lead<'a>(&'a self, place: &'a HostPort) -> &'a HostPort {
        self.0.iter().find(|(told, _)| told == place).map_or(place, |(_, reached)| reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_read_and_written_in_one_way() {
        for (text, shown) in [
            ("h", Some("h:6379")),
            ("h:", Some("h:6379")),
            ("10.0.0.1:7001", Some("10.0.0.1:7001")),
            ("[::1]", Some("[::1]:6379")),
            ("[fe80::1]:7", Some("[fe80::1]:7")),
            ("", None),
            (":7", None),
            ("h:x", None),
            ("h:65536", None),
            ("[::1", None),
            ("[::1]7", None),
        ] {
            assert_eq!(HostPort::parse(text, SERVER_PORT).map(|place| place.to_string()).as_deref(), shown, "{text}");
        }
    }

    #[test]
    fn a_place_that_the_map_does_not_name_is_itself() {
        let map = NodeMap::new([("172.17.0.2", "cache.example:7000"), ("[::1]:2", "h")]).expect("places");
        let led = |text| map.lead(&HostPort::parse(text, SERVER_PORT).expect("a place")).to_string();
        assert_eq!(
            ["172.17.0.2", "172.17.0.2:1", "[::1]:2"].map(led),
            ["cache.example:7000", "172.17.0.2:1", "h:6379"]
        );
        assert_eq!(NodeMap::new([("h:1", "h:x")]), Err("h:x"));
    }
}
