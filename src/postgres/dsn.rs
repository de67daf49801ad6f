//! Connection strings: libpq URLs and key/value strings, read once and proved.
//!
//! `tokio_postgres::Config` reads most parameters; what it lacks or reads differently from libpq (`sslmode`,
//! certificates, `tcp_user_timeout` in milliseconds, `keepalives_count`, `target_session_attrs`) is read here.
//! Invariant: no error and no debug output holds the password, the URL, or a text that may be a part of them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Exit, Result};
use crate::mistake::suggestion;
use crate::secret::Secret;
use crate::tls::{Roots, TlsLevel, TlsNames, Trust};
use crate::url::{DATABASE_FORMS, of_database};

/// `sslmode`, weakest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only when the server refuses plain sessions.
    Allow,
    /// TLS when the server has it.
    Prefer,
    /// Always TLS, without verification.
    Require,
    /// The chain must end in a trusted authority.
    VerifyCa,
    /// And the certificate must name the host.
    VerifyFull,
}

/// What TLS needs to know.
#[derive(Clone, Debug)]
pub struct TlsSettings {
    /// How much TLS, and how much proof.
    pub mode: SslMode,
    /// By which authorities, and with which certificate of our own.
    pub trust: Arc<Trust>,
}

/// What libpq calls the files.
const FILES: TlsNames = TlsNames { root: "sslrootcert", certificate: "sslcert", key: "sslkey" };

/// `target_session_attrs`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SessionTarget {
    /// Whatever answers.
    Any,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
}

/// Where a host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostPlace {
    /// A name to resolve, unless `hostaddr` gave the address.
    Tcp {
        /// The name, for resolution and for certificates.
        name: String,
        /// `hostaddr`.
        addr: Option<IpAddr>,
    },
    /// The directory of a unix socket.
    Unix(PathBuf),
}

/// One host of the connection string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// Where it is.
    pub place: HostPlace,
    /// The port, which also names the unix socket.
    pub port: u16,
}

impl std::fmt::Display for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.place {
            HostPlace::Tcp { name, .. } if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            HostPlace::Tcp { name, .. } => write!(f, "{name}:{}", self.port),
            HostPlace::Unix(directory) => write!(f, "{}/.s.PGSQL.{}", directory.display(), self.port),
        }
    }
}

/// A connection string, parsed. Its debug output leaves out the password.
#[derive(Clone, Debug)]
pub struct Dsn {
    /// What `tokio_postgres` knows: user, password, database, options, keepalives, channel binding.
    pub config: tokio_postgres::Config,
    /// Every host, in the order to try; never empty.
    pub hosts: Vec<Host>,
    /// TLS.
    pub tls: TlsSettings,
    /// Which hosts will do.
    pub target: SessionTarget,
    /// The connection string says so.
    is_target_said: bool,
    /// `tcp_user_timeout`; unset means the default of the socket.
    pub tcp_user_timeout: Option<Duration>,
    /// Where it was written.
    origin: String,
}

/// Parameters that libpq or common object mappers accept and that change nothing here.
const IGNORED: &[&str] = &[
    "client_encoding",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "krbsrvname",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "sslcompression",
    "sslnegotiation",
    "sslsni",
    "statement_cache_size",
];

/// Parameters that `tokio_postgres::Config` reads as libpq does.
const PASSED: &[&str] = &[
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "options",
    "password",
    "port",
    "user",
];

/// Parameters that are read here.
const OWN: &[&str] = &["sslmode", "sslrootcert", "sslcert", "sslkey", "target_session_attrs", "tcp_user_timeout"];

/// Their values.
#[derive(Default)]
struct Own {
    sslmode: Option<SslMode>,
    sslrootcert: Option<String>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    target: Option<SessionTarget>,
    tcp_user_timeout: Option<Duration>,
}

impl Own {
    /// Takes `key` if it is one of ours; says whether it was.
    fn take(&mut self, key: &str, value: &str) -> Result<bool> {
        match key {
            "sslmode" => self.sslmode = Some(ssl_mode(value)?),
            // As libpq reads JDBC's word (`conninfo_uri_parse_params` in fe-connect.c): true and nothing else.
            "ssl" if value == "true" => self.sslmode = Some(SslMode::Require),
            "ssl" => return Err(invalid("ssl", "true, or write sslmode=disable")),
            "sslrootcert" => self.sslrootcert = Some(value.to_owned()).filter(|path| !path.is_empty()),
            "sslcert" => self.sslcert = Some(PathBuf::from(value)),
            "sslkey" => self.sslkey = Some(PathBuf::from(value)),
            "target_session_attrs" => self.target = Some(target(value)?),
            "tcp_user_timeout" => {
                let millis = value.parse().map_err(|_| invalid("tcp_user_timeout", "a number of milliseconds"))?;
                self.tcp_user_timeout = Some(Duration::from_millis(millis)).filter(|time| !time.is_zero());
            }
            key => return Ok(IGNORED.contains(&key)),
        }
        Ok(true)
    }

    /// TLS as libpq understands the combination.
    fn tls(&self) -> Result<TlsSettings> {
        let system = self.sslrootcert.as_deref() == Some("system");
        let mode = match self.sslmode {
            // libpq 16 refuses weaker modes with `system`: anybody can get a certificate of a public authority.
            Some(mode) if system && mode < SslMode::VerifyFull => {
                return Err(invalid("sslmode", "\"verify-full\" together with sslrootcert=system"));
            }
            // A root certificate turns `require` into `verify-ca`, as in libpq.
            Some(SslMode::Require) if self.sslrootcert.is_some() => SslMode::VerifyCa,
            Some(mode) => mode,
            None if system => SslMode::VerifyFull,
            None => SslMode::Prefer,
        };
        let root = match &self.sslrootcert {
            Some(path) if !system => Roots::File(PathBuf::from(path)),
            Some(_) | None => Roots::System,
        };
        let client = match (&self.sslcert, &self.sslkey) {
            (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
            (None, None) => None,
            (Some(_), None) => return Err(invalid("sslkey", "a file, because sslcert is given")),
            (None, Some(_)) => return Err(invalid("sslcert", "a file, because sslkey is given")),
        };
        let level = match mode {
            SslMode::Disable | SslMode::Allow | SslMode::Prefer | SslMode::Require => TlsLevel::None,
            SslMode::VerifyCa => TlsLevel::Chain,
            SslMode::VerifyFull => TlsLevel::ChainAndName,
        };
        Ok(TlsSettings { mode, trust: Arc::new(Trust::new(level, root, client, FILES)) })
    }
}

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

fn ssl_mode(value: &str) -> Result<SslMode> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" => SslMode::Allow,
        "prefer" => SslMode::Prefer,
        "require" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => {
            // The value itself is not shown, what it may have been meant to be is.
            let near = suggestion(value, SSL_MODES);
            let error = Error::definite(Exit::Config, "connection parameter \"sslmode\" has a value that does not fit");
            return Err(error.hint(near));
        }
    })
}

fn target(value: &str) -> Result<SessionTarget> {
    Ok(match value {
        "any" | "prefer-standby" => SessionTarget::Any,
        "read-write" | "primary" => SessionTarget::Primary,
        "read-only" | "standby" => SessionTarget::Standby,
        _ => {
            let allowed = "any, read-write, read-only, primary, standby or prefer-standby";
            return Err(invalid("target_session_attrs", allowed));
        }
    })
}

/// What a parameter that `tokio_postgres` reads must be.
fn allowed(parameter: &str) -> &'static str {
    match parameter {
        "port" => "a number from 1 to 65535, or one for each host with commas between them",
        "connect_timeout" | "keepalives_idle" | "keepalives_interval" => "a number of seconds",
        "keepalives_retries" => "a number",
        "keepalives" => "0 or 1",
        "channel_binding" => "disable, prefer or require",
        "hostaddr" => "an address of IPv4 or IPv6, or one for each host with commas between them",
        _ => "a text that PostgreSQL's manual allows (\"Parameter Key Words\" of libpq)",
    }
}

fn invalid(parameter: &str, allowed: &str) -> Error {
    Error::definite(Exit::Config, format!("connection parameter \"{parameter}\" has a value that does not fit"))
        .hint(format!("It must be {allowed}."))
}

fn malformed() -> Error {
    Error::definite(Exit::Config, "the address cannot be read as a connection string").hint(format!(
        "{DATABASE_FORMS} In a URL percent-encode special characters of the password (@ is %40, / is %2F); in \
                       a key/value string quote values with spaces in single quotes."
    ))
}

impl Dsn {
    /// Reads a libpq URL or key/value string.
    pub fn parse(text: &str) -> Result<Dsn> {
        let text = text.trim();
        // Nothing at all is libpq's way to say "by the defaults".
        if !text.is_empty()
            && let Some(wrong) = of_database(text)
        {
            return Err(Error::definite(Exit::Config, format!("the address {}", wrong.what)).hint(wrong.hint));
        }
        let mut own = Own::default();
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let rest = if is_url { url_rest(text, &mut own)? } else { pairs_rest(text, &mut own)? };
        // The parser's own messages may quote a part of a password: only the parameter's name passes on.
        let config: tokio_postgres::Config = rest.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            match PASSED.iter().find(|name| cause == format!("invalid value for option `{name}`")) {
                Some(name) => invalid(name, allowed(name)),
                None => malformed(),
            }
        })?;
        let hosts = hosts(&config)?;
        let target = own.target.unwrap_or(if hosts.len() > 1 { SessionTarget::Primary } else { SessionTarget::Any });
        let tcp_user_timeout = own.tcp_user_timeout;
        let is_target_said = own.target.is_some();
        Ok(Dsn { config, hosts, tls: own.tls()?, target, is_target_said, tcp_user_timeout, origin: String::new() })
    }

    /// Any server will do, unless the connection string says which.
    #[must_use]
    pub fn of_any_server(mut self) -> Dsn {
        if !self.is_target_said {
            self.target = SessionTarget::Any;
        }
        self
    }

    /// Reads what was configured.
    pub fn read(url: &Secret) -> Result<Dsn> {
        let parsed = Dsn::parse(url.expose());
        let parsed = parsed.map_err(|error| if url.origin().is_empty() { error } else { error.at(url.origin()) })?;
        Ok(Dsn { origin: url.origin().to_owned(), ..parsed })
    }

    /// For messages: one of the hosts, and where it was written.
    pub fn server(&self, host: &Host) -> String {
        self.named(&host.to_string())
    }

    /// The same of all hosts: a session is with one of them.
    pub fn servers(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        self.named(&hosts.join(" or "))
    }

    fn named(&self, place: &str) -> String {
        match self.origin.as_str() {
            "" => format!("PostgreSQL at {place}"),
            origin => format!("PostgreSQL at {place} ({origin})"),
        }
    }

    /// The role to log in as: `user`, else the operating system's user by its environment.
    pub fn user(&self) -> Result<String> {
        let given = self.config.get_user().map(str::to_owned);
        given.or_else(|| std::env::var("USER").ok()).ok_or_else(|| invalid("user", "given"))
    }

    /// What to use instead, when the string looks like Supabase's pooler: no pooler passes replication on.
    pub fn pooler_hint(&self) -> Option<String> {
        let pooled = |host: &Host| match &host.place {
            HostPlace::Tcp { name, .. } => name.ends_with(".pooler.supabase.com") || host.port == 6543,
            HostPlace::Unix(_) => false,
        };
        self.hosts.iter().any(pooled).then(|| {
            // Behind the pooler the role is `postgres.<project reference>`.
            let user = self.config.get_user().unwrap_or_default();
            let reference = user.split_once('.').map_or("<ref>", |(_, reference)| reference);
            format!("A pooler cannot replicate: use the direct host db.{reference}.supabase.co, port 5432.")
        })
    }
}

/// A URL without the parameters that are ours.
fn url_rest(text: &str, own: &mut Own) -> Result<String> {
    let credentials_end = text.find('@').unwrap_or(0);
    let Some(question) = text[credentials_end..].find('?').map(|at| at + credentials_end) else {
        return Ok(text.to_owned());
    };
    let mut kept = Vec::new();
    for part in text[question + 1..].split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(malformed)?;
        let value_text = percent_decode(value).ok_or_else(malformed)?;
        if key == "keepalives_count" {
            kept.push(format!("keepalives_retries={value}"));
        } else if !own.take(key, &value_text)? {
            known(key, true)?;
            kept.push(part.to_owned());
        }
    }
    Ok(format!("{}?{}", &text[..question], kept.join("&")))
}

fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok()
}

/// A key/value string without the parameters that are ours, quoted anew.
fn pairs_rest(text: &str, own: &mut Own) -> Result<String> {
    let mut kept = String::new();
    let mut password_seen = false;
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(malformed)?;
        let key = key.trim();
        let (value, after) = pair_value(after.trim_start())?;
        rest = after.trim_start();
        let key = if key == "keepalives_count" { "keepalives_retries" } else { key };
        if !own.take(key, &value)? {
            // After an unquoted password with a space, the "key" may be the password's second half.
            known(key, !password_seen)?;
            password_seen |= key == "password";
            let quoted = value.replace('\\', "\\\\").replace('\'', "\\'");
            kept.push_str(&format!("{key}='{quoted}' "));
        }
    }
    Ok(kept)
}

/// One value, quoted or not, and what follows it.
fn pair_value(text: &str) -> Result<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            space if space.is_whitespace() && !quoted => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    if quoted { Err(malformed()) } else { Ok((value, "")) }
}

fn known(key: &str, may_show: bool) -> Result<()> {
    if PASSED.contains(&key) {
        return Ok(());
    }
    let plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    if may_show && plain {
        let known = suggestion(key, PASSED.iter().chain(OWN).copied());
        return Err(Error::definite(Exit::Config, format!("unknown connection parameter \"{key}\"")).hint(known));
    }
    Err(malformed())
}

/// Pairs hosts, addresses and ports; one port serves every host.
fn hosts(config: &tokio_postgres::Config) -> Result<Vec<Host>> {
    use tokio_postgres::config::Host as Given;
    let (names, addrs, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = names.len().max(addrs.len()).max(1);
    if !addrs.is_empty() && !names.is_empty() && addrs.len() != names.len() {
        return Err(invalid("hostaddr", "one address for each host"));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(invalid("port", "one port, or one for each host"));
    }
    (0..count)
        .map(|index| {
            let addr = addrs.get(index).copied();
            let place = match (names.get(index), addr) {
                (Some(Given::Unix(directory)), _) => HostPlace::Unix(directory.clone()),
                // An unescaped '@' in a password lands here: the "host" would show half of the password.
                (Some(Given::Tcp(name)), _) if name.contains(['@', ':', ' ']) && name.parse::<IpAddr>().is_err() => {
                    return Err(malformed());
                }
                (Some(Given::Tcp(name)), None) if name.is_empty() => HostPlace::Unix(PathBuf::from(SOCKET_DIRECTORY)),
                (Some(Given::Tcp(name)), addr) => HostPlace::Tcp { name: name.clone(), addr },
                (None, Some(addr)) => HostPlace::Tcp { name: addr.to_string(), addr: Some(addr) },
                (None, None) => HostPlace::Unix(PathBuf::from(SOCKET_DIRECTORY)),
            };
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            Ok(Host { place, port })
        })
        .collect()
}

/// Where Debian and Ubuntu put the socket, and so where libpq looks without a host.
const SOCKET_DIRECTORY: &str = "/var/run/postgresql";

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let dsn = match Dsn::parse(text) {
            Ok(dsn) => dsn,
            Err(error) => return format!("error: {error}"),
        };
        let hosts: Vec<String> = dsn.hosts.iter().map(ToString::to_string).collect();
        let database = dsn.config.get_dbname().unwrap_or("-");
        format!("{} {database} {:?} {:?} {:?}", hosts.join(","), dsn.tls.mode, dsn.target, dsn.tls.trust.roots())
    }

    #[test]
    fn reads_what_libpq_reads() {
        for (text, expected) in [
            ("postgres://u:p@h/d", "h:5432 d Prefer Any System"),
            ("postgresql://u@a:1,b:2/d", "a:1,b:2 d Prefer Primary System"),
            ("postgres://u@[::1]:5/d?sslmode=disable", "[::1]:5 d Disable Any System"),
            ("postgres://u@%2Fvar%2Frun/d", "/var/run/.s.PGSQL.5432 d Prefer Any System"),
            ("postgres:///d?host=/tmp&port=7", "/tmp/.s.PGSQL.7 d Prefer Any System"),
            ("host=/tmp port=7 dbname='a b'", "/tmp/.s.PGSQL.7 a b Prefer Any System"),
            ("host=a,b port=9 target_session_attrs=any", "a:9,b:9 - Prefer Any System"),
            ("hostaddr=127.0.0.1 sslmode=verify-full", "127.0.0.1:5432 - VerifyFull Any System"),
            ("host=h sslmode=require sslrootcert=/ca", "h:5432 - VerifyCa Any File(\"/ca\")"),
            ("postgres://u@h/d?sslrootcert=%2Fmy%20ca&sslmode=verify-ca", "h:5432 d VerifyCa Any File(\"/my ca\")"),
            ("host=h sslrootcert=system", "h:5432 - VerifyFull Any System"),
            ("host=h keepalives_count=3 pgbouncer=true", "h:5432 - Prefer Any System"),
            ("", "/var/run/postgresql/.s.PGSQL.5432 - Prefer Any System"),
            ("host=h sslmode=weird", "error: connection parameter \"sslmode\" has a value that does not fit"),
            ("host=h port=secret", "error: connection parameter \"port\" has a value that does not fit"),
            ("host=h sslcert=/c", "error: connection parameter \"sslkey\" has a value that does not fit"),
            ("host=h colour=red", "error: unknown connection parameter \"colour\""),
            (
                "host=h sslmode=require sslrootcert=system",
                "error: connection parameter \"sslmode\" has a value that does not fit",
            ),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn no_error_shows_a_part_of_the_password() {
        for text in [
            "host=h password=one geheim",
            "host=h password=one geheim=two",
            "host=h password='geheim",
            "postgres://u:one@geheim@h/d",
            "postgres://u:geheim@h:geheim/d",
            "postgres://u:geheim@h/d?sslmode=geheim",
            "postgres://u:%ffgeheim@h/d?connect_timeout=geheim",
        ] {
            let error = Dsn::parse(text).expect_err(text);
            let all = format!("{} {error:?}", error.chain());
            assert!(!all.contains("geheim"), "{text}: {all}");
        }
        let dsn = Dsn::parse("postgres://u:geheim@h/d").expect("a good URL");
        assert!(!format!("{dsn:?}").contains("geheim"));
    }

    #[test]
    fn a_pooler_is_told_from_the_direct_host() {
        for (text, expected) in [
            ("postgres://postgres.abc:p@eu.pooler.supabase.com:5432/postgres", Some("db.abc.supabase.co")),
            ("postgres://postgres:p@db.abc.supabase.co:6543/postgres", Some("db.<ref>.supabase.co")),
            ("postgres://postgres:p@db.abc.supabase.co/postgres", None),
        ] {
            let hint = Dsn::parse(text).expect("a good URL").pooler_hint();
            assert_eq!(hint.is_some(), expected.is_some(), "{text}");
            assert!(expected.is_none_or(|part| hint.is_some_and(|hint| hint.contains(part))), "{text}");
        }
    }

    #[test]
    fn tcp_user_timeout_is_in_milliseconds_as_in_libpq() {
        let dsn = Dsn::parse("host=h tcp_user_timeout=1500").expect("a good string");
        assert_eq!(dsn.tcp_user_timeout, Some(Duration::from_millis(1500)));
    }
}
