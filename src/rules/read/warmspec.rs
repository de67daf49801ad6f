//! `warm` of a rule: the address of the page that is made from its keys. No row may lead a request elsewhere, so a
//! placeholder in scheme, host or port is a mistake.

use std::ops::Range;
use std::rc::Rc;

use toml::de::DeTable;

use crate::rules::about::warm::PageFit;
use crate::rules::read::rule::{NamedLookup, RuleReader};
use crate::rules::read::template::{Piece, TemplateError, pieces};
use crate::rules::value::page::{AddressPart, PageAddress, encode_literal};
use crate::url::LOOPBACK;

const FORM: &str = "write warm = \"https://www.example.sn/annonces/{id}\"; http:// is for this machine alone (127.0.0.1, localhost, [::1])";

fn refuse<T>(at: Range<usize>, message: &str, note: &str) -> Result<T, TemplateError> {
    Err(TemplateError { at, message: message.to_owned(), note: note.to_owned() })
}

/// Reads the template of an address. What is wrong never repeats the text, which may hold a password.
pub fn address(text: &str) -> Result<PageAddress, TemplateError> {
    let (whole, pieces) = (0..text.len(), pieces(text)?);
    let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| !scheme.contains('{')) else {
        return refuse(whole, "warm does not begin with https://", FORM);
    };
    let is_tls = match scheme.to_ascii_lowercase().as_str() {
        "https" => true,
        "http" => false,
        _ => return refuse(whole, "warm is not the address of a page", FORM),
    };
    if let Some(at) = text.find('#') {
        return refuse(at..at + 1, "warm holds a #", "remove # and what follows: no server sees it");
    }
    let Some(Piece::Literal(first)) = pieces.first() else {
        return refuse(whole, "warm does not begin with https://", FORM);
    };
    let rest = first.split_once("://").map_or("", |(_, rest)| rest);
    let end = rest.find(['/', '?']);
    let authority = &rest[..end.unwrap_or(rest.len())];
    let begins = scheme.len() + 3;
    if authority.contains('@') {
        let note = "remove both: a page that only some may see is not one to be warmed";
        return refuse(begins..begins + authority.len(), "warm holds a user or a password", note);
    }
    if end.is_none() && pieces.len() > 1 {
        let note = "write scheme, host and port out: no row may lead crieur to another server";
        return refuse(whole, "warm has a placeholder before its path", note);
    }
    let place = begins..begins + authority.len();
    let Some(origin) = origin(authority, is_tls) else {
        return refuse(place, "warm names no host that can be reached", FORM);
    };
    if !is_tls && !LOOPBACK.contains(&host_of(authority).to_ascii_lowercase().as_str()) {
        let note = "write https://: without TLS anybody between may answer in the site's place";
        return refuse(place, "warm begins with http:// and leads to another machine", note);
    }
    let path = &rest[authority.len()..];
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut parts = vec![AddressPart::Literal(encode_literal(&format!("{origin}{slash}{path}")))];
    for piece in pieces.into_iter().skip(1) {
        parts.push(match piece {
            Piece::Literal(text) => AddressPart::Literal(encode_literal(&text)),
            Piece::Value(column, reading, _) => AddressPart::Value(column, reading),
            Piece::Star => return refuse(whole, "warm holds *", "a key has one page; write %2A for the character"),
            Piece::Choice(_) => {
                return refuse(whole, "warm holds a list", "a key has one page: write a rule for each, or one of them");
            }
        });
    }
    let shown = text.split('?').next().unwrap_or_default().into();
    Ok(PageAddress { source: text.to_owned(), shown, origin, parts })
}

/// The host of an authority, without its port.
fn host_of(authority: &str) -> &str {
    authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(authority, |(host, _)| host)
}

/// Scheme, host and port as they are compared; `None` where the host cannot be one.
fn origin(authority: &str, is_tls: bool) -> Option<String> {
    let host = host_of(authority);
    let port = &authority[host.len()..];
    let number = match port.strip_prefix(':') {
        Some(port) => Some(port.parse::<u16>().ok().filter(|port| *port > 0)?),
        None => None,
    };
    let is_name = |host: &str| {
        let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        !host.is_empty() && host.bytes().all(is_sign)
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<core::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    let (scheme, usual) = if is_tls { ("https", 443) } else { ("http", 80) };
    let port = number.filter(|port| *port != usual).map_or_else(String::new, |port| format!(":{port}"));
    is_host.then(|| format!("{scheme}://{}{port}", host.to_ascii_lowercase()))
}

impl RuleReader<'_, '_> {
    /// Gives the keys of the rule, which were read, their page.
    pub(super) fn warm(&mut self, block: &DeTable<'_>, lookups: &[NamedLookup]) {
        let Some(value) = block.get("warm") else { return };
        let Some(text) = self.text(value, "warm") else { return };
        let address = match address(&text) {
            Ok(address) => Rc::new(address),
            Err(error) => {
                let at = self.inside(&value.span(), &text, &error.at);
                return self.error(at, error.message, error.note);
            }
        };
        if let Some((name, _)) = address.values().find(|(name, _)| lookups.iter().any(|lookup| lookup.name == *name)) {
            let message = format!("warm takes columns of the row, and \"{name}\" is a lookup");
            return self.error(value.span(), message, "name a column of the table, or leave warm out of this rule");
        }
        let rule = self.reader.rules.rules.len() - 1;
        let has_keys =
            self.reader.rules.templates.iter().any(|template| template.rule == rule && template.coarse.is_none());
        let fit = self.reader.rules.warm(rule, &address);
        if fit == PageFit::None && has_keys {
            let message =
                "warm has no key that it could follow: all keys of the rule are made by a lookup, or patterns";
            self.error(value.span(), message, "write a key of columns, or remove warm");
        } else if fit == PageFit::Several {
            let message = "no key of the rule holds every placeholder of warm, and several hold a value";
            let note = "write a rule of its own for the key that the page is made from: else each of them would fetch the page";
            self.error(value.span(), message, note);
        } else if !has_keys && !block.contains_key("keys") {
            let note = "write the key that the page is made from: only a cache tells whether somebody had it";
            self.error(value.span(), "rule has warm and no keys", note);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mistake::{Mistakes, SourceFile};
    use crate::rules::read::reader::RulesReader;
    use crate::rules::ruleset::Rules;

    fn shown(text: &str) -> String {
        match address(text) {
            Ok(address) => {
                let part = |part: &AddressPart| match part {
                    AddressPart::Literal(text) => String::from_utf8_lossy(text).into_owned(),
                    AddressPart::Value(column, reading) => {
                        format!("<{}>", [std::slice::from_ref(column), &reading.path[..]].concat().join("/"))
                    }
                };
                address.parts.iter().map(part).collect()
            }
            Err(error) => {
                assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
                format!("{}..{} {}", error.at.start, error.at.end, error.message)
            }
        }
    }

    #[test]
    fn an_address_is_read_or_what_is_wrong_is_said() {
        for (text, expected) in [
            ("https://a.sn/annonces/{id}", "https://a.sn/annonces/<id>"),
            ("HTTPS://WWW.A.sn:443/Bien/{slug}?l={lang.code}", "https://www.a.sn/Bien/<slug>?l=<lang/code>"),
            ("https://a.sn", "https://a.sn/"),
            ("https://a.sn?q={q}", "https://a.sn/?q=<q>"),
            ("https://a.sn/é {id}/{{x}}", "https://a.sn/%C3%A9%20<id>/%7Bx%7D"),
            ("http://127.0.0.1:3000/{id}", "http://127.0.0.1:3000/<id>"),
            ("http://[::1]/{id}", "http://[::1]/<id>"),
            ("http://LocalHost:3000/{id}", "http://localhost:3000/<id>"),
            ("https://a.sn:8443/", "https://a.sn:8443/"),
            ("http://a.sn/{id}", "7..11 warm begins with http:// and leads to another machine"),
            ("http://127.0.0.1.evil.sn/{id}", "7..24 warm begins with http:// and leads to another machine"),
            ("https://{host}/x", "0..16 warm has a placeholder before its path"),
            ("https://a.{tld}/x", "0..17 warm has a placeholder before its path"),
            ("https://a.sn{path}", "0..18 warm has a placeholder before its path"),
            ("https://a.sn:{port}/", "0..20 warm has a placeholder before its path"),
            ("{scheme}://a.sn/", "0..16 warm does not begin with https://"),
            ("{url}", "0..5 warm does not begin with https://"),
            ("/annonces/{id}", "0..14 warm does not begin with https://"),
            ("ftp://a.sn/{id}", "0..15 warm is not the address of a page"),
            ("https://u:hunter2@a.sn/{id}", "8..22 warm holds a user or a password"),
            ("https:///x", "8..8 warm names no host that can be reached"),
            ("https://a b/x", "8..11 warm names no host that can be reached"),
            ("https://a.sn:99999/x", "8..18 warm names no host that can be reached"),
            ("https://[::1/x", "8..12 warm names no host that can be reached"),
            ("https://a.sn/{id}#top", "17..18 warm holds a #"),
            ("https://a.sn/*", "0..14 warm holds *"),
            ("https://a.sn/{4,8}", "0..18 warm holds a list"),
            ("https://a.sn/{", "13..14 brace is never closed"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    fn read(more: &str) -> (Rules, String) {
        let text = format!("[[rules]]\ntable = 't'\n{more}");
        let file = Rc::new(SourceFile { name: "r.toml".to_owned(), text });
        let table = DeTable::parse(&file.text).expect("TOML").into_inner();
        let mut mistakes = Mistakes::default();
        let mut reader = RulesReader::new(&[], &mut mistakes);
        reader.read(&file, table.get("rules").expect("rules"));
        (reader.finish(), mistakes.to_string())
    }

    #[test]
    fn a_page_follows_the_keys_that_hold_its_placeholders() {
        let lookup = "lookup.o = { sql = 'select c from u where id = $1', args = ['id'] }";
        for (more, expected) in [
            ("keys = ['all', 'detail:{id}', 'city:{city}']\nwarm = 'https://a/{id}'", &["detail:*"][..]),
            ("keys = ['all', 'detail:{id}', 'city:{city}']\nwarm = 'https://a/'", &["all"]),
            ("keys = ['detail:{id}', 'city:{city}']\nwarm = 'https://a/'", &["detail:*", "city:*"]),
            ("keys = ['all', 'detail:{id}']\nwarm = 'https://a/{slug}'", &["detail:*"]),
            ("keys = ['all']\nwarm = 'https://a/{slug}'", &["all"]),
            ("keys = ['d:{id}:{lang}', 'd:{id}']\nwarm = 'https://a/{lang}/{id}'", &["d:*:*"]),
            ("keys = ['d:{id}', 'd:{id}:*']\nwarm = 'https://a/{id}'", &["d:*"]),
            ("keys = ['d:{id}']\ncompanions = [':meta']\nwarm = 'https://a/{id}'", &["d:*", "d:*:meta"]),
            ("keys = ['d:{loc.city}', 'd:{loc.zip}']\nwarm = 'https://a/{loc.city}'", &["d:*"]),
            ("keys = ['d:{id}', 'o:{o.c}']\nwarm = 'https://a/{id}'\nLOOKUP", &["d:*"]),
            ("keys = ['d:{id}']\ntags = ['t:{id}']\ntags_all = 't'\nwarm = 'https://a/{id}'", &["d:*"]),
        ] {
            let (rules, said) = read(&more.replace("LOOKUP", lookup));
            assert_eq!(said, "", "{more}");
            let warmed = rules.families().filter(|(family, _)| rules.page_of(*family).is_some());
            let warmed: Vec<String> =
                warmed.map(|(_, pattern)| String::from_utf8_lossy(pattern).into_owned()).collect();
            assert_eq!(warmed.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{more}");
        }
    }

    #[test]
    fn what_is_wrong_with_warm_is_said_with_the_way_out() {
        let lookup = "lookup.o = { sql = 'select c from u where id = $1', args = ['id'] }";
        for (more, words) in [
            ("keys = ['k:{id}']\nwarm = 7", &["warm", "a string"][..]),
            ("keys = ['k:{id}']\nwarm = 'https://{id}/x'", &["placeholder before its path", "write scheme, host"]),
            ("keys = ['k:{id}']\nwarm = 'https://u:hunter2@a/{id}'", &["a user or a password", "remove both"]),
            ("keys = ['k:{o.c}']\nwarm = 'https://a/{o.c}'\nLOOKUP", &["\"o\" is a lookup", "a column of the table"]),
            ("keys = ['k:{o.c}']\nwarm = 'https://a/{id}'\nLOOKUP", &["no key that it could follow", "remove warm"]),
            ("tags = ['t:{id}']\ntags_all = 't'\nwarm = 'https://a/{id}'", &["rule has warm and no keys"]),
            (
                "keys = ['k:{id}', 'c:{city}']\nwarm = 'https://a/{slug}'",
                &["several hold a value", "a rule of its own"],
            ),
            ("keys = ['k:{id}']\nwarn = 'https://a/{id}'", &["unknown key \"warn\"", "\"warm\""]),
        ] {
            let said = read(&more.replace("LOOKUP", lookup)).1;
            assert!(words.iter().all(|words| said.contains(words)) && !said.contains("hunter2"), "{more}\n{said}");
        }
    }
}
