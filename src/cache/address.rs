//! From the configured URL to a byte stream: which server, how to log in, TLS, and who else may answer there.
//!
//! The invariant: a mistake in the configuration is found before anything is connected, as a definite error, and its
//! message never repeats the URL, because the URL holds the password.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use ::redis::{ConnectionAddr, IntoConnectionInfo};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::place::{HostPort, NodeLogin};
use super::query::plain;
use super::socket::{self, CacheSocket, HeardBytes, Stream};
use crate::config::TlsFiles;
use crate::error::{Error, Exit, Result};
use crate::secret::Secret;
use crate::stranger::{self, Stranger};
use crate::tls::{self, Roots, TlsLevel, TlsNames, Trust};
use crate::url::{CACHE_FORMS, of_cache};

/// What the files are called.
const FILES: TlsNames = TlsNames { root: "cache.tls_ca", certificate: "cache.tls_cert", key: "cache.tls_key" };

/// Where the server listens.
#[derive(Debug)]
enum Place {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// What a URL says: place, user, password, database, and whether TLS is asked for.
type Parts = (Place, Option<String>, Option<String>, i64, bool);

/// Where the cache is and how to log in.
pub struct Address {
    place: Place,
    /// `None` without TLS.
    trust: Option<Arc<Trust>>,
    /// ACL user; `None` is `default`.
    pub user: Option<String>,
    /// Password; `None` sends no AUTH at all.
    pub password: Option<String>,
    /// Database number.
    pub database: i64,
    /// For messages: "the cache at 127.0.0.1:6379 (REDIS_URL)".
    pub server: String,
}

impl Address {
    /// Parses the URL and reads the files of TLS.
    pub fn new(url: &Secret, files: &TlsFiles) -> Result<Self> {
        let (place, user, password, database, is_tls) = Address::parse(url).map_err(|error| match url.origin() {
            "" => error.at("cache.url"),
            origin => error.at(origin),
        })?;
        let trust = if is_tls { Some(trust(files)?) } else { no_trust(files)? };
        let server = match url.origin() {
            "" => format!("the cache at {place}"),
            origin => format!("the cache at {place} ({origin})"),
        };
        Ok(Address { place, trust, user, password, database, server })
    }

    /// Place, user, password and database, and whether TLS is asked for.
    fn parse(url: &Secret) -> Result<Parts> {
        if let Some(wrong) = of_cache(url.expose()) {
            return Err(bad_url(&wrong.what).hint(wrong.hint));
        }
        let malformed = |_| bad_url("is not a URL of a cache").hint(CACHE_FORMS);
        let plain = plain(url.expose()).map_err(|(what, hint)| bad_url(&what).hint(hint))?;
        let info = plain.into_connection_info().map_err(malformed)?;
        let settings = info.redis_settings();
        let (user, password) = (settings.username().map(str::to_owned), settings.password().map(str::to_owned));
        // A user without a password must not silently become `default`; `nopass` users accept the empty one.
        let password = password.or_else(|| user.as_ref().map(|_| String::new()));
        let database = settings.db();
        if database < 0 {
            return Err(bad_url("names a database below 0").hint(CACHE_FORMS));
        }
        let (place, is_tls) = match info.addr() {
            ConnectionAddr::Tcp(host, port) => (Place::Tcp { host: host.clone(), port: *port }, false),
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(bad_url("switches certificate checks off with #insecure")
                    .hint("Name the cache's certificate authority in cache.tls_ca instead."));
            }
            ConnectionAddr::TcpTls { host, port, .. } => (Place::Tcp { host: host.clone(), port: *port }, true),
            ConnectionAddr::Unix(path) => (Place::Unix(path.clone()), false),
            _ => return Err(bad_url("is not a URL of a cache").hint(CACHE_FORMS)), // ConnectionAddr is foreign and non-exhaustive.
        };
        Ok((place, user, password, database, is_tls))
    }

    /// One of several servers: `what` it is in messages ("the cache", "the Sentinel"), at a place that another server named.
    pub fn of_node(login: &NodeLogin, what: &str, place: &HostPort) -> Self {
        let NodeLogin { trust, user, password, database, nodes, written } = login.clone();
        let reached = nodes.lead(place).clone();
        let server = match reached == *place {
            true => format!("{what} at {place}{written}"),
            false => format!("{what} at {reached}, which calls itself {place}{written}"),
        };
        let place = Place::Tcp { host: reached.host, port: reached.port };
        Address { place, trust, user, password, database, server }
    }

    /// Connects, and does the handshake of TLS; logs nobody in.
    pub(super) async fn open(&self) -> Result<(Stream, HeardBytes)> {
        let (host, port) = match &self.place {
            Place::Unix(path) => {
                let socket = socket::unix(path).await.map(CacheSocket::Unix).map_err(unconnected)?;
                return Ok(Stream::new(socket));
            }
            Place::Tcp { host, port } => (host, *port),
        };
        let socket = socket::tcp(host, port).await.map_err(unconnected)?;
        let Some(trust) = &self.trust else { return Ok(Stream::new(CacheSocket::Tcp(socket))) };
        let bad_name = |cause| bad_url("names a host that no certificate can name").because(cause);
        let name = ServerName::try_from(host.clone()).map_err(bad_name)?;
        let connector = TlsConnector::from(trust.config().await?);
        match connector.connect(name, socket).await {
            Ok(stream) => Ok(Stream::new(CacheSocket::Tls(Box::new(stream)))),
            Err(cause) => Err(self.failed(cause, false).await),
        }
    }

    /// The error of a connection that failed before it was of use: `cause` says how, and if that says nothing, who
    /// answers there.
    pub(super) async fn failed(&self, cause: io::Error, is_silent: bool) -> Error {
        let tells_nothing = is_silent
            || tls::is_foreign(&cause)
            || matches!(
                cause.kind(),
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            );
        if tells_nothing && let Some(error) = self.stranger().await {
            return error;
        }
        match (&self.trust, &self.place) {
            (Some(trust), Place::Tcp { host, .. }) => tls::failed(cause, host, trust),
            _ => Error::transient("the connection failed").because(cause),
        }
    }

    /// Who answers there, if that explains why the cache does not.
    pub(super) async fn stranger(&self) -> Option<Error> {
        let Place::Tcp { host, port } = &self.place else { return None };
        self.unlike(stranger::ask(async || socket::tcp(host, *port).await).await?)
    }

    /// What it means that this one answers.
    pub(super) fn unlike(&self, stranger: Stranger) -> Option<Error> {
        let (message, hint) = match (stranger, &self.trust) {
            (Stranger::Tls, None) => (
                "the server speaks TLS, and cache.url begins with redis://",
                "Write rediss:// for TLS, with cache.tls_ca where the authority is your own; or name the server's port without TLS.",
            ),
            (Stranger::Cache, Some(_)) => (
                "the server speaks no TLS at this port, and cache.url begins with rediss://",
                "Name the server's TLS port, or write redis:// where the network itself is safe.",
            ),
            (Stranger::Postgres, _) => (
                "PostgreSQL answers there, not a cache",
                "Name host and port of the cache (6379 unless told otherwise); cache.url and postgres.url may be exchanged.",
            ),
            (Stranger::Web, _) => (
                "a web server answers there, not a cache",
                "Name the port of the Redis protocol (6379 unless told otherwise), not that of a REST interface.",
            ),
            (Stranger::Cache, None) | (Stranger::Tls, Some(_)) => return None,
        };
        Some(Error::transient(message).hint(hint))
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Place::Tcp { host, port } => write!(f, "{host}:{port}"),
            Place::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

pub(super) fn bad_url(what: &str) -> Error {
    Error::definite(Exit::Config, format!("the address {what}"))
}

pub(super) fn unconnected(cause: io::Error) -> Error {
    let hint = match cause.kind() {
        io::ErrorKind::ConnectionRefused => {
            "Nobody listens there: start the cache, or correct host and port in the address."
        }
        io::ErrorKind::NotFound => "There is no such socket: start the cache, or correct the path in the address.",
        io::ErrorKind::PermissionDenied => {
            "Let the user connect whom crieur runs as (Redis: unixsocketperm, and the user's groups)."
        }
        _ if socket::is_unresolved(&cause) => {
            "Correct the host's name in the address, or the resolver of this machine."
        }
        _ => return Error::transient("cannot connect").because(cause),
    };
    Error::transient("cannot connect").hint(hint).because(cause)
}

/// Reads the files once, so that a mistake is found at the start.
pub(super) fn trust(files: &TlsFiles) -> Result<Arc<Trust>> {
    let roots = files.authority.clone().map_or(Roots::System, Roots::File);
    let client = match (&files.certificate, &files.key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return Err(alone("cache.tls_cert", "cache.tls_key")),
        (None, Some(_)) => return Err(alone("cache.tls_key", "cache.tls_cert")),
    };
    let trust = Trust::new(TlsLevel::ChainAndName, roots, client, FILES);
    trust.read()?;
    Ok(Arc::new(trust))
}

fn alone(given: &str, missing: &str) -> Error {
    Error::definite(Exit::Config, format!("{given} is set, and {missing} is not"))
        .hint(format!("A client certificate needs its key: set {missing} as well, or remove {given}."))
}

/// Without TLS there is nothing that the files could be for.
pub(super) fn no_trust(files: &TlsFiles) -> Result<Option<Arc<Trust>>> {
    let TlsFiles { authority, certificate, key } = files;
    let of = |file: &Option<PathBuf>, name| file.as_ref().map(|_| name);
    let named = of(authority, FILES.root).or(of(certificate, FILES.certificate)).or(of(key, FILES.key));
    named.map_or(Ok(None), |name| {
        Err(Error::definite(Exit::Config, format!("{name} is set, and cache.url does not begin with rediss://"))
            .hint(format!("Write rediss:// to use TLS, or remove {name}.")))
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(url: &str) -> Result<Address> {
        Address::new(&Secret::new(url), &TlsFiles::default())
    }

    #[test]
    fn urls_carry_user_password_and_database() {
        type Login<'a> = (Option<&'a str>, Option<&'a str>, i64);
        let cases: [(&str, Login); 8] = [
            ("redis://localhost", (None, None, 0)),
            ("redis://:p%40ss@localhost:7000/3", (None, Some("p@ss"), 3)),
            ("redis://ann:pw@[::1]/0", (Some("ann"), Some("pw"), 0)),
            ("redis://ann@localhost", (Some("ann"), Some(""), 0)),
            ("rediss://ann:pw@localhost", (Some("ann"), Some("pw"), 0)),
            ("valkey://localhost/1", (None, None, 1)),
            ("unix:///run/cache.sock?db=2&user=ann&pass=pw", (Some("ann"), Some("pw"), 2)),
            ("redis+unix:///run/cache.sock", (None, None, 0)),
        ];
        for (url, login) in cases {
            let address = parsed(url).unwrap_or_else(|error| panic!("{url}: {}", error.chain()));
            assert_eq!((address.user.as_deref(), address.password.as_deref(), address.database), login, "{url}");
        }
    }

    #[test]
    fn a_bad_url_is_a_definite_error_that_does_not_show_it() {
        let urls = [
            "",
            "hunter2",
            "http://:hunter2@localhost",
            "redis://:hunter2@",
            "redis://:hunter2@localhost/zero",
            "redis://:hunter2@localhost/-1",
            "redis://:hunter2@localhost:99999",
            "redis://:hunter2@0.0.0.0",
            "redis://:hunter2%ff@localhost",
            "redis://localhost?db=hunter2",
            "rediss://:hunter2@localhost#insecure",
            "rediss://:hunter2@localhost#hunter2",
        ];
        for url in urls {
            let error = parsed(url).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert_eq!(error.exit(), Exit::Config, "{url}");
            assert!(!format!("{} {:?}", error.chain(), error).contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn a_certificate_authority_must_be_readable_pem_and_of_use() {
        let empty = tempfile::NamedTempFile::new().expect("the temporary directory is writable");
        let cases = [
            ("rediss://localhost", Path::new("/nonexistent/ca.pem"), Exit::NoInput),
            ("rediss://localhost", empty.path(), Exit::Config),
            ("redis://localhost", empty.path(), Exit::Config),
        ];
        for (url, path, exit) in cases {
            let files = TlsFiles { authority: Some(path.to_owned()), ..TlsFiles::default() };
            let error = Address::new(&Secret::new(url), &files).err().expect("the file is of no use");
            assert_eq!(error.exit(), exit, "{url} {path:?}: {}", error.chain());
        }
    }
}
