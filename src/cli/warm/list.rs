//! A file of addresses, one a line. Pure.

use crate::error::{Error, Exit, Result};
use crate::rules::read::warmspec;
use crate::shown::quoted;

/// Lines that a message names.
const NAMED_MAX: usize = 5;

/// The addresses of a list, each once. Every one must lead to a site of `origins`: an empty line and one that begins with #
/// count as none, and so does the mark (BOM) that some editors put before the first line.
///
/// # Errors
///
/// A line is no address, or leads elsewhere; nothing is asked for then.
pub(super) fn read(name: &str, text: &str, origins: &[&str]) -> Result<Vec<String>> {
    let (mut urls, mut wrong): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut known = std::collections::BTreeSet::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match address(line, origins) {
            Ok(url) if known.insert(url.clone()) => urls.push(url),
            Ok(_) => {}
            Err(why) => wrong.push(format!("line {number} {why}")),
        }
    }
    if wrong.is_empty() {
        return Ok(urls);
    }
    let more = wrong.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more lines") } else { String::new() };
    let named = wrong[..wrong.len().min(NAMED_MAX)].join("; ");
    let why = format!("{} cannot be warmed, and no page is asked for: {named}{more}", quoted(name.as_bytes()));
    let hint = match origins {
        [] => "Write warm = \"https://…\" into a rule first: it says which site may be asked.".to_owned(),
        origins => format!("The sites of the rules' warm are: {}.", origins.join(", ")),
    };
    Err(Error::definite(Exit::Data, why).hint(hint))
}

fn address(line: &str, origins: &[&str]) -> std::result::Result<String, &'static str> {
    if line.contains(['{', '}', ' ']) {
        return Err("is no address: it holds a brace or a space");
    }
    let address = warmspec::address(line).map_err(|_| "is no address that can be asked for")?;
    if !origins.contains(&address.origin()) {
        return Err("leads to another site than warm of the rules");
    }
    if address.is_too_long() {
        return Err("is longer than 8 KiB");
    }
    address.url().ok_or("leads elsewhere: its path holds . or ..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_or_its_lines_are_named() {
        let origins = ["https://a.sn", "http://127.0.0.1:3000"];
        let of = |text: &str| read("list", text, &origins).map_err(|error| error.message);
        let text = "# pages\nhttps://a.sn/1\n\n  HTTPS://A.sn:443/2?x=1 \r\nhttp://127.0.0.1:3000/é\nhttps://a.sn/1\n";
        assert_eq!(
            of(text),
            Ok(["https://a.sn/1", "https://a.sn/2?x=1", "http://127.0.0.1:3000/%C3%A9"].map(str::to_owned).to_vec())
        );
        assert_eq!(of("\u{feff}https://a.sn/1\r\n"), Ok(vec!["https://a.sn/1".to_owned()]));
        let long = format!("https://a.sn/{}", "x".repeat(8 * 1024));
        for (text, words) in [
            (long.as_str(), "line 1 is longer than 8 KiB"),
            ("https://a.sn/1\nhttps://b.sn/2", "line 2 leads to another site"),
            ("http://a.sn/1", "line 1 is no address that can be asked for"),
            ("https://u:hunter2@a.sn/1", "line 1 is no address"),
            ("/annonces/1", "line 1 is no address"),
            ("https://a.sn/{id}", "line 1 is no address: it holds a brace"),
            ("https://a.sn/x/../y", "line 1 leads elsewhere"),
            ("https://a.sn.evil.sn/", "line 1 leads to another site"),
            ("x\nx\nx\nx\nx\nx\nx", "and 2 more lines"),
        ] {
            let said = of(text).expect_err(text);
            assert!(said.contains(words) && !said.contains("hunter2"), "{text}: {said}");
        }
        assert!(
            read("list", "https://a.sn/", &[])
                .is_err_and(|error| error.hint.is_some_and(|hint| hint.contains("into a rule")))
        );
    }
}
