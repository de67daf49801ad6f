//! From the configured URL to a client that can connect: addresses, log-in, TLS.
//!
//! Nothing is connected here. The invariant: a mistake in the configuration is found now, as a definite error, and its
//! message never repeats the URL, because the URL holds the password.

use std::path::Path;
use std::time::Duration;

use ::redis::io::tcp::{TcpSettings, socket2};
use ::redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::Secret;
use crate::error::{Error, Exit, Result};

const FORMS: &str =
    "Write redis://[user:password@]host[:port][/db], rediss://… for TLS, or unix:///path[?db=n&user=…&pass=…].";

/// Where the cache is and how to log in.
pub struct Address {
    /// Connects; logs nobody in.
    pub client: Client,
    /// ACL user; `None` is `default`.
    pub user: Option<String>,
    /// Password; `None` sends no AUTH at all.
    pub password: Option<String>,
    /// Database number.
    pub database: i64,
}

/// Chooses ring for the process, once; a second call changes nothing.
///
/// The redis crate builds its TLS configuration from the process default.
pub fn install_tls_provider() {
    // An error says that a provider is installed already, by us or by the PostgreSQL side: ring as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Address {
    /// Parses the URL and reads the certificate authority.
    pub fn new(url: &Secret, tls_ca: Option<&Path>) -> Result<Self> {
        let info = url.expose().into_connection_info().map_err(|_| bad_url())?;
        let settings = info.redis_settings();
        let (user, password) = (settings.username().map(str::to_owned), settings.password().map(str::to_owned));
        // A user without a password must not silently become `default`; `nopass` users accept the empty one.
        let password = password.or_else(|| user.as_ref().map(|_| String::new()));
        let database = settings.db();
        if database < 0 {
            return Err(bad_url());
        }
        // AUTH and SELECT are ours: the crate folds every error of the log-in into one kind and loses its code.
        let anonymous = RedisConnectionInfo::default().set_skip_set_lib_name();
        let info = info.set_redis_settings(anonymous).set_tcp_settings(tcp_settings());
        Ok(Address { client: client(info, tls_ca)?, user, password, database })
    }
}

fn bad_url() -> Error {
    Error::definite(Exit::Config, "cache.url is not a URL of a cache").hint(FORMS)
}

/// A dead peer is noticed within a minute on an idle connection; on a busy one the response timeout is faster.
fn tcp_settings() -> TcpSettings {
    let keepalive =
        socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    TcpSettings::default().set_nodelay(true).set_keepalive(keepalive)
}

fn client(info: ConnectionInfo, tls_ca: Option<&Path>) -> Result<Client> {
    match (info.addr(), tls_ca) {
        (ConnectionAddr::TcpTls { insecure: true, .. }, _) => {
            Err(Error::definite(Exit::Config, "cache.url switches certificate checks off with #insecure")
                .hint("Name the cache's certificate authority in cache.tls_ca instead."))
        }
        (ConnectionAddr::TcpTls { .. }, Some(path)) => {
            install_tls_provider();
            let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority(path)?) };
            Client::build_with_tls(info, certificates).map_err(|_| bad_authority())
        }
        (ConnectionAddr::TcpTls { .. }, None) => {
            install_tls_provider();
            Client::open(info).map_err(|_| bad_url())
        }
        (_, Some(_)) => Err(Error::definite(Exit::Config, "cache.tls_ca is set, but cache.url is not rediss://")
            .hint("Write rediss:// to use TLS, or remove cache.tls_ca.")),
        (_, None) => Client::open(info).map_err(|_| bad_url()),
    }
}

fn authority(path: &Path) -> Result<Vec<u8>> {
    let pem = std::fs::read(path)
        .map_err(|error| Error::definite(Exit::NoInput, "cache.tls_ca cannot be read").because(error))?;
    // Without a single certificate every handshake would fail, with a message about the server.
    if !CertificateDer::pem_slice_iter(&pem).any(|certificate| certificate.is_ok()) {
        return Err(bad_authority());
    }
    Ok(pem)
}

fn bad_authority() -> Error {
    Error::definite(Exit::Config, "cache.tls_ca holds no usable certificate").hint("It must be a PEM file.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> Result<Address> {
        Address::new(&Secret::new(url), None)
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
            "redis://localhost?protocol=hunter2",
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
            let error = Address::new(&Secret::new(url), Some(path)).err().expect("the file is of no use");
            assert_eq!(error.exit(), exit, "{url} {path:?}: {}", error.chain());
        }
    }
}
