//! The site whose pages are fetched again: GET, no redirect followed, and of what comes nothing is kept. The page is read to
//! its end, because a site may store a value only when it has written the page.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{ACCEPT, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{StatusCode, Uri};
use tokio::time::timeout;

use super::http::{Client, FarEnd, Lane};
use super::place::HostPort;
use super::sink::time::retry_after;
use crate::amount::shown;
use crate::error::{Error, Exit, Result};
use crate::tls::{Roots, TlsLevel, TlsNames, Trust};
use crate::warm::pace::AT_ONCE;

/// Of a longer page the rest is not read.
const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A site that wants a longer pause is asked again sooner: what it says may be a mistake.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// The pause of a site that says "too many" and no time.
const PAUSE: Duration = Duration::from_secs(30);
/// How messages of TLS call the files: there are none.
const FILES: TlsNames = TlsNames { root: "", certificate: "", key: "" };

/// What a site answered.
#[derive(Debug)]
pub enum SiteAnswer {
    /// The page.
    Came,
    /// Another address.
    Elsewhere(u16),
    /// An error.
    Refused(u16),
    /// To be asked later.
    Later(u16, Duration),
    /// Nothing, or not in time.
    Silent(Error),
}

/// What an answer means. `now` is in seconds since 1970.
fn read(status: StatusCode, headers: &HeaderMap, now: u64) -> SiteAnswer {
    let said = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    let said = said.map(|seconds| Duration::from_secs(seconds).min(PAUSE_MAX));
    match (status.as_u16(), said) {
        (200..=299, _) => SiteAnswer::Came,
        (code @ 300..=399, _) => SiteAnswer::Elsewhere(code),
        (code @ (429 | 503), Some(pause)) => SiteAnswer::Later(code, pause),
        (429, None) => SiteAnswer::Later(429, PAUSE),
        (code, _) => SiteAnswer::Refused(code),
    }
}

/// One site, with a connection for each request that may be out.
struct Site {
    client: Client,
    lanes: [Lane; AT_ONCE],
}

impl Site {
    fn new(origin: &str, timeout: Duration) -> Result<Self> {
        let bad = || Error::definite(Exit::Config, "the address of the page cannot be read");
        let uri: Uri = origin.parse().map_err(|_| bad())?;
        let host = uri.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() != Some("http");
        let place = HostPort { host, port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }) };
        let trust = is_tls.then(|| Arc::new(Trust::new(TlsLevel::ChainAndName, Roots::System, None, FILES)));
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("crieur/", env!("CARGO_PKG_VERSION"), " (warm)")));
        headers.insert(ACCEPT, HeaderValue::from_static("text/html,application/json;q=0.9,*/*;q=0.8"));
        let client = Client::new(place, trust, headers, timeout, (FarEnd::Site, PAGE_BYTES_MAX))?;
        Ok(Site { client, lanes: Default::default() })
    }
}

/// Every site that is asked, each connected when its first page is.
pub struct Sites {
    timeout: Duration,
    known: RefCell<HashMap<String, Rc<Site>>>,
}

/// Scheme, host and port of an address, and the rest of it.
pub fn parted(url: &str) -> (&str, &str) {
    let begins = url.find("://").map_or(0, |at| at + 3);
    url.split_at(url[begins..].find('/').map_or(url.len(), |at| begins + at))
}

impl Sites {
    /// A page that takes longer is given up.
    pub fn new(timeout: Duration) -> Self {
        Sites { timeout, known: RefCell::default() }
    }

    fn site(&self, origin: &str) -> Result<Rc<Site>> {
        if let Some(site) = self.known.borrow().get(origin) {
            return Ok(Rc::clone(site));
        }
        let site = Rc::new(Site::new(origin, self.timeout)?);
        self.known.borrow_mut().insert(origin.to_owned(), Rc::clone(&site));
        Ok(site)
    }

    /// Asks for a page, over the connection with this number.
    pub async fn fetch(&self, lane: usize, url: &str) -> SiteAnswer {
        let (origin, path) = parted(url);
        let site = match self.site(origin) {
            Ok(site) => site,
            Err(error) => return SiteAnswer::Silent(error),
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs());
        // The client has this time for the connection and once more for the answer.
        match timeout(self.timeout, site.client.get(&site.lanes[lane % AT_ONCE], path)).await {
            Ok(Ok(answer)) => read(answer.status, &answer.headers, now),
            Ok(Err(unanswered)) => SiteAnswer::Silent(unanswered.into_error()),
            Err(_) => SiteAnswer::Silent(Error::transient(format!("no answer within {}", shown(self.timeout)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// A site whose connections do this, one after the other.
    fn site(mut connections: impl FnMut(usize, TcpStream) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
        std::thread::spawn(move || {
            listener.incoming().flatten().enumerate().for_each(|(number, stream)| connections(number, stream))
        });
        url
    }

    /// Reads a request; whether one came.
    fn asked(stream: &mut TcpStream) -> bool {
        stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0)
    }

    fn answers(stream: &mut TcpStream) {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    }

    #[tokio::test]
    async fn a_site_that_closes_a_connection_as_the_next_page_is_asked_for_is_asked_over_another() {
        let url = site(|number, mut stream| {
            let is_served = asked(&mut stream) && number < 2;
            if is_served {
                answers(&mut stream);
                asked(&mut stream); // And closes.
            }
        });
        let sites = Sites::new(Duration::from_secs(30));
        assert!(matches!(sites.fetch(0, &url).await, SiteAnswer::Came));
        assert!(matches!(sites.fetch(0, &url).await, SiteAnswer::Came), "over the second connection");
        // A connection that was never answered on says that the page does not come.
        assert!(matches!(sites.fetch(0, &url).await, SiteAnswer::Silent(_)));
        assert!(matches!(sites.fetch(1, &url).await, SiteAnswer::Silent(_)));
    }

    #[tokio::test]
    async fn a_page_takes_the_timeout_once_whatever_became_of_its_connection() {
        let url = site(|_, mut stream| {
            if asked(&mut stream) {
                std::thread::sleep(Duration::from_millis(1_800));
                answers(&mut stream);
                asked(&mut stream);
                std::thread::sleep(Duration::from_millis(1_800));
            }
        });
        let sites = Sites::new(Duration::from_secs(3));
        assert!(matches!(sites.fetch(0, &url).await, SiteAnswer::Came));
        let answer = sites.fetch(0, &url).await;
        assert!(matches!(&answer, SiteAnswer::Silent(error) if error.chain().contains("within 3s")), "{answer:?}");
    }

    #[test]
    fn each_status_has_one_meaning() {
        for (code, after, expected) in [
            (200, None, "Came"),
            (204, None, "Came"),
            (301, None, "Elsewhere(301)"),
            (308, Some("5"), "Elsewhere(308)"),
            (404, None, "Refused(404)"),
            (500, Some("5"), "Refused(500)"),
            (503, None, "Refused(503)"),
            (503, Some("7"), "Later(503, 7s)"),
            (429, Some("99999"), "Later(429, 3600s)"),
            (429, None, "Later(429, 30s)"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert(RETRY_AFTER, after.parse().expect("a value"));
            }
            let answer = read(StatusCode::from_u16(code).expect("a status"), &headers, 0);
            assert_eq!(format!("{answer:?}"), expected);
        }
    }

    #[test]
    fn an_address_is_parted_behind_its_port() {
        for (url, expected) in [
            ("https://a.sn/x?y=/z", ("https://a.sn", "/x?y=/z")),
            ("http://[::1]:80/", ("http://[::1]:80", "/")),
            ("https://a.sn", ("https://a.sn", "")),
        ] {
            assert_eq!(parted(url), expected);
        }
    }
}
