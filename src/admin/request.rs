//! What was asked over HTTP: the first line of a request's head, and the few fields that matter. Pure.

use std::net::IpAddr;

use crate::page::words::Language;

/// What was asked.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Request {
    /// GET or HEAD.
    Get(PathAsked),
    /// Another method.
    OtherMethod,
    /// No request of HTTP/1.
    Bad,
}

/// A path and what came with it.
#[derive(PartialEq, Eq, Debug, Default)]
pub(super) struct PathAsked {
    /// The path, without its query.
    pub(super) path: String,
    query: String,
    host: Option<String>,
    accepts: String,
}

impl Request {
    /// From a request's head.
    pub(super) fn parse(head: &[u8]) -> Self {
        let Ok(head) = std::str::from_utf8(head) else { return Request::Bad };
        let mut lines = head.split("\r\n");
        let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
        match words[..] {
            [method, target, version] if version.starts_with("HTTP/1.") && target.starts_with('/') => match method {
                "GET" | "HEAD" => {
                    let (path, query) = target.split_once('?').unwrap_or((target, ""));
                    let fields: Vec<(&str, &str)> = lines.filter_map(|line| line.split_once(':')).collect();
                    let field = |name: &str| {
                        let found = fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                        found.map(|(_, value)| value.trim().to_owned())
                    };
                    Request::Get(PathAsked {
                        path: path.to_owned(),
                        query: query.to_owned(),
                        host: field("host"),
                        accepts: field("accept-language").unwrap_or_default(),
                    })
                }
                _ => Request::OtherMethod,
            },
            _ => Request::Bad,
        }
    }
}

impl PathAsked {
    /// The language of the answer: the one that the query names, or that the browser asks for.
    pub(super) fn language(&self) -> Language {
        match self.query.split('&').find_map(|part| part.strip_prefix("lang=")) {
            Some("fr") => Language::French,
            Some("en") => Language::English,
            _ => Language::asked(&self.accepts),
        }
    }

    /// Whether the page may be shown to whoever calls this daemon by the name in the request. A name that somebody else
    /// owns may lead here as well, and a page of theirs would read ours: only addresses, `localhost` and the names of the
    /// configuration are answered.
    pub(super) fn is_by_a_known_name(&self, known: &[String]) -> bool {
        let Some(host) = &self.host else { return false };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name),
        };
        name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || known.iter().any(|known| name.eq_ignore_ascii_case(known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_get_of_http_1_is_answered() {
        let get = |path: &str| Some(path.to_owned());
        let cases = [
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", get("/metrics")),
            ("HEAD /readyz?x=1 HTTP/1.0\r\n\r\n", get("/readyz")),
            ("GET http://a/metrics HTTP/1.1\r\n\r\n", None),
            ("GET /metrics HTTP/2\r\n\r\n", None),
            ("GET  /metrics HTTP/1.1\r\n\r\n", None),
            ("*1\r\n$4\r\nPING\r\n", None),
            ("", None),
        ];
        for (head, path) in cases {
            let asked = match Request::parse(head.as_bytes()) {
                Request::Get(asked) => Some(asked.path),
                Request::Bad => None,
                Request::OtherMethod => panic!("{head:?}"),
            };
            assert_eq!(asked, path, "{head:?}");
        }
        assert_eq!(Request::parse(b"POST /metrics HTTP/1.1\r\n\r\n"), Request::OtherMethod);
    }

    #[test]
    fn a_name_that_somebody_else_may_own_is_not_answered() {
        let known = ["crieur.example".to_owned()];
        let cases = [
            (Some("127.0.0.1:9186"), true),
            (Some("[::1]:9186"), true),
            (Some("10.0.0.7"), true),
            (Some("localhost:9186"), true),
            (Some("LocalHost"), true),
            (Some("Crieur.example:443"), true),
            (Some("evil.example:9186"), false),
            (Some("localhost.evil.example"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some(""), false),
            (None, false),
        ];
        for (host, is_known) in cases {
            let asked = PathAsked { host: host.map(str::to_owned), ..PathAsked::default() };
            assert_eq!(asked.is_by_a_known_name(&known), is_known, "{host:?}");
        }
    }

    #[test]
    fn the_query_names_the_language_or_the_browser_does() {
        let of = |head: &str| match Request::parse(head.as_bytes()) {
            Request::Get(asked) => asked.language(),
            other => panic!("{other:?}"),
        };
        assert_eq!(of("GET /?lang=en HTTP/1.1\r\nAccept-Language: fr\r\n\r\n"), Language::English);
        assert_eq!(of("GET /?a=1&lang=fr HTTP/1.1\r\n\r\n"), Language::French);
        assert_eq!(of("GET / HTTP/1.1\r\naccept-language: fr-SN,fr;q=0.8\r\n\r\n"), Language::French);
        assert_eq!(of("GET /?lang=xx HTTP/1.1\r\n\r\n"), Language::English);
    }
}
