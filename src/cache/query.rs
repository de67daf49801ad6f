//! What other programs read of a cache's URL and the redis crate passes over: the query, the fragment, the user of a
//! socket. It is understood as redis-py, ioredis, go-redis, Lettuce and Predis do, or refused by the parameter's name. Pure.
//!
//! Nothing of a URL but the name of a parameter is ever repeated: a part of the password may stand anywhere.

/// What is wrong with the URL: goes behind "cache.url"; and the way out.
pub type RefusedQuery = (String, String);

/// What a parameter means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Meaning {
    Database,
    User,
    Password,
    /// TLS, when true.
    Tls,
    /// Certificates are checked, when true.
    Checks,
    /// Certificates are not checked, when true.
    NoChecks,
    /// The program's clients put this before each key.
    Prefix,
    /// A file, which has a key of our configuration.
    File(&'static str),
    /// Who logs in at the Sentinels.
    SentinelUser,
    SentinelPassword,
    /// TLS to the Sentinels, when true.
    SentinelTls,
    /// How a client waits, pools, or speaks: it does not tell where the keys are.
    Manner,
}

/// Parameters by their names, which differ in case, `_` and `-` from program to program.
const PARAMETERS: &[(&str, Meaning)] = &[
    ("db", Meaning::Database),
    ("database", Meaning::Database),
    ("virtualhost", Meaning::Database),
    ("user", Meaning::User),
    ("username", Meaning::User),
    ("pass", Meaning::Password),
    ("password", Meaning::Password),
    ("ssl", Meaning::Tls),
    ("tls", Meaning::Tls),
    ("sslcertreqs", Meaning::Checks),
    ("sslcheckhostname", Meaning::Checks),
    ("rejectunauthorized", Meaning::Checks),
    ("verifypeer", Meaning::Checks),
    ("insecure", Meaning::NoChecks),
    ("skipverify", Meaning::NoChecks),
    ("prefix", Meaning::Prefix),
    ("keyprefix", Meaning::Prefix),
    ("sslcacerts", Meaning::File("cache.tls_ca")),
    ("sslcafile", Meaning::File("cache.tls_ca")),
    ("sslcertfile", Meaning::File("cache.tls_cert")),
    ("sslkeyfile", Meaning::File("cache.tls_key")),
    ("sentineluser", Meaning::SentinelUser),
    ("sentinelusername", Meaning::SentinelUser),
    ("sentinelpassword", Meaning::SentinelPassword),
    ("sentineltls", Meaning::SentinelTls),
];

/// Those that change nothing here.
const MANNERS: &[&str] = &[
    "clientname",
    "connecttimeout",
    "connectionlimit",
    "connectiontimeout",
    "connmaxidletime",
    "connmaxlifetime",
    "decoderesponses",
    "dialtimeout",
    "enableofflinequeue",
    "enablereadycheck",
    "encoding",
    "encodingerrors",
    "family",
    "healthcheckinterval",
    "keepalive",
    "lazyconnect",
    "libname",
    "libver",
    "maxactiveconns",
    "maxconnections",
    "maxidleconns",
    "maxretries",
    "maxretriesperrequest",
    "maxretrybackoff",
    "minidleconns",
    "minretrybackoff",
    "persistent",
    "poolfifo",
    "poolsize",
    "pooltimeout",
    "protocol",
    "readtimeout",
    "readwritetimeout",
    "retryonerror",
    "retryontimeout",
    "socketconnecttimeout",
    "socketkeepalive",
    "sockettimeout",
    "tcpnodelay",
    "timeout",
    "writetimeout",
];

const TLS_CHECKS: &str = "Certificates are always checked: name the cache's certificate authority in cache.tls_ca.";

fn meaning(name: &str) -> Option<Meaning> {
    let name: String = name.chars().filter(|c| *c != '_' && *c != '-').map(|c| c.to_ascii_lowercase()).collect();
    let found = PARAMETERS.iter().find(|(known, _)| *known == name).map(|(_, meaning)| *meaning);
    found.or_else(|| MANNERS.contains(&name.as_str()).then_some(Meaning::Manner))
}

/// A URL in parts, and what its query adds.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) database: Option<u32>,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) tls: Option<bool>,
    pub(super) sentinel_user: Option<String>,
    pub(super) sentinel_password: Option<String>,
    pub(super) sentinel_tls: Option<bool>,
}

/// A URL whose query and user are understood.
struct ReadUrl<'a> {
    scheme: String,
    parts: Parts,
    hosts: &'a str,
    path: &'a str,
}

/// A URL that names several servers.
pub(super) struct Several {
    pub(super) parts: Parts,
    /// As they are written, parted by commas.
    pub(super) hosts: String,
    /// The parts of the path, decoded.
    pub(super) path: Vec<String>,
}

impl Parts {
    fn take(&mut self, name: &str, value: &str) -> Result<(), RefusedQuery> {
        match meaning(name) {
            Some(Meaning::Database) => once(&mut self.database, number(value)?, "database"),
            Some(Meaning::User) => once(&mut self.user, value.to_owned(), "user"),
            Some(Meaning::Password) => once(&mut self.password, value.to_owned(), "password"),
            Some(Meaning::Tls) => once(&mut self.tls, truth(name, value)?, "use of TLS"),
            Some(Meaning::Checks) if truth(name, value)? => Ok(()),
            Some(Meaning::NoChecks) if !truth(name, value)? => Ok(()),
            Some(Meaning::Checks | Meaning::NoChecks) => {
                Err((format!("switches certificate checks off with \"{name}\""), TLS_CHECKS.to_owned()))
            }
            Some(Meaning::Prefix) => Err((
                format!("has the parameter \"{name}\", a text before each key, which crieur does not add"),
                "Write this text into the rules, as namespace or in the templates, and take the parameter away."
                    .to_owned(),
            )),
            Some(Meaning::File(key)) => {
                Err((format!("has the parameter \"{name}\""), format!("Write the file into {key} instead.")))
            }
            Some(Meaning::SentinelUser) => once(&mut self.sentinel_user, value.to_owned(), "Sentinels' user"),
            Some(Meaning::SentinelPassword) => {
                once(&mut self.sentinel_password, value.to_owned(), "Sentinels' password")
            }
            Some(Meaning::SentinelTls) => once(&mut self.sentinel_tls, truth(name, value)?, "Sentinels' use of TLS"),
            Some(Meaning::Manner) => Ok(()),
            None => Err((
                format!("has the parameter \"{name}\", which crieur does not know"),
                "Take it away if it changes neither the server nor the database nor the keys.".to_owned(),
            )),
        }
    }
}

impl Parts {
    /// What Sentinels are told has no meaning where there are none.
    pub(super) fn refuse_sentinels(&self) -> Result<(), RefusedQuery> {
        let Parts { sentinel_user, sentinel_password, sentinel_tls, .. } = self;
        if sentinel_user.is_none() && sentinel_password.is_none() && sentinel_tls.is_none() {
            return Ok(());
        }
        let hint = "Write redis+sentinel://host:port,host:port/NAME, or take the parameter away.";
        Err(("has a parameter for Sentinels and names none".to_owned(), hint.to_owned()))
    }

    /// What the settings beside the URL say of Sentinels.
    pub(super) fn of_settings(
        &mut self,
        user: Option<&str>,
        password: Option<&str>,
        tls: Option<bool>,
    ) -> Result<(), RefusedQuery> {
        if let Some(user) = user {
            once(&mut self.sentinel_user, user.to_owned(), "Sentinels' user")?;
        }
        if let Some(password) = password {
            once(&mut self.sentinel_password, password.to_owned(), "Sentinels' password")?;
        }
        tls.map_or(Ok(()), |tls| once(&mut self.sentinel_tls, tls, "Sentinels' use of TLS"))
    }

    /// A database that stands in the path.
    pub(super) fn database_of_path(&mut self, text: &str) -> Result<(), RefusedQuery> {
        once(&mut self.database, number(text)?, "database")
    }
}

/// A second value must be the first one again: programs differ in which of two they take.
fn once<T: PartialEq>(place: &mut Option<T>, value: T, what: &str) -> Result<(), RefusedQuery> {
    match place {
        Some(other) if *other != value => {
            Err((format!("says the {what} twice, and not the same"), format!("Leave one {what} in it.")))
        }
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn number(text: &str) -> Result<u32, RefusedQuery> {
    let wrong = || ("names a database that is no number".to_owned(), "Write redis://host:port/3, or ?db=3.".to_owned());
    text.parse().map_err(|_| wrong())
}

fn truth(name: &str, value: &str) -> Result<bool, RefusedQuery> {
    match value.to_ascii_lowercase().as_str() {
        "" | "1" | "true" | "yes" | "on" | "required" | "cert_required" => Ok(true),
        "0" | "false" | "no" | "off" | "none" | "optional" | "cert_none" | "cert_optional" => Ok(false),
        _ => Err((
            format!("has a value of \"{name}\" that is neither true nor false"),
            "Write true or false.".to_owned(),
        )),
    }
}

/// Without its percent-encoding; a `%` that begins none stays, as with other programs. `None` where it is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let digits = |text: &[u8]| u8::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    let (mut out, bytes, mut at) = (Vec::with_capacity(text.len()), text.as_bytes(), 0);
    while let Some(byte) = bytes.get(at) {
        match bytes.get(at + 1..at + 3).filter(|_| *byte == b'%').and_then(digits) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn malformed() -> RefusedQuery {
    let hint = "Percent-encode # as %23, ? as %3F, & as %26, @ as %40 and % as %25 in user and password.";
    ("has a part behind ? or # that is no parameter".to_owned(), hint.to_owned())
}

fn not_text() -> RefusedQuery {
    ("has a user or password that is not UTF-8".to_owned(), "Percent-encode them as UTF-8: é is %C3%A9.".to_owned())
}

/// What the query and the user of a URL say; `None` where it has no scheme.
fn read(url: &str) -> Result<Option<ReadUrl<'_>>, RefusedQuery> {
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
    let scheme = scheme.to_ascii_lowercase();
    let rest = match rest.split_once('#') {
        Some((rest, "")) => rest,
        Some((_, "insecure")) => {
            return Err(("switches certificate checks off with #insecure".to_owned(), TLS_CHECKS.to_owned()));
        }
        Some(_) => return Err(malformed()),
        None => rest,
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut parts = Parts::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(malformed)?;
        let shown = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        let value =
            decoded(&value.replace('+', " ")).filter(|_| shown && !value.contains('@')).ok_or_else(malformed)?;
        parts.take(name, &value)?;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (login, hosts) = authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));
    if let Some(login) = login {
        let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
        if !user.is_empty() {
            once(&mut parts.user, decoded(user).ok_or_else(not_text)?, "user")?;
        }
        if let Some(password) = password {
            once(&mut parts.password, decoded(password).ok_or_else(not_text)?, "password")?;
        }
    }
    Ok(Some(ReadUrl { scheme, parts, hosts, path }))
}

/// The same URL in the words that the redis crate knows: database in the path, TLS in the scheme, nothing else.
pub fn plain(url: &str) -> Result<String, RefusedQuery> {
    let url = url.trim();
    let Some(ReadUrl { scheme, mut parts, hosts, path }) = read(url)? else { return Ok(url.to_owned()) };
    parts.refuse_sentinels()?;
    match scheme.as_str() {
        "unix" | "redis+unix" | "valkey+unix" => socket(&parts, hosts, path),
        "redis" | "valkey" | "rediss" | "valkeys" => server(&mut parts, &scheme, hosts, path),
        _ => Ok(url.to_owned()), // The crate refuses it.
    }
}

/// A URL that names several servers, of Sentinels or of a cluster: the path is the caller's to read.
pub(super) fn several(url: &str) -> Result<Several, RefusedQuery> {
    let Some(ReadUrl { scheme, mut parts, hosts, path }) = read(url.trim())? else { return Err(malformed()) };
    let base = scheme.split('+').next().unwrap_or_default();
    if matches!(base, "rediss" | "valkeys") {
        once(&mut parts.tls, true, "use of TLS")?;
    }
    let path = path.split('/').filter(|part| !part.is_empty());
    let path = path.map(|part| decoded(part).ok_or_else(malformed)).collect::<Result<_, _>>()?;
    Ok(Several { parts, hosts: hosts.to_owned(), path })
}

fn socket(parts: &Parts, host: &str, path: &str) -> Result<String, RefusedQuery> {
    if !matches!(host, "" | "localhost") {
        let hint = "Write unix:///path/of/the.sock, with three slashes.";
        return Err(("names a host before the path of a socket".to_owned(), hint.to_owned()));
    }
    if parts.tls == Some(true) {
        return Err(("asks for TLS on a socket of this machine".to_owned(), "Take the parameter away.".to_owned()));
    }
    let mut query = format!("?db={}", parts.database.unwrap_or(0));
    for (name, value) in [("user", &parts.user), ("pass", &parts.password)] {
        query += &value.as_ref().map_or_else(String::new, |value| format!("&{name}={}", encoded(value)));
    }
    Ok(format!("unix://{path}{query}"))
}

fn server(parts: &mut Parts, scheme: &str, host: &str, path: &str) -> Result<String, RefusedQuery> {
    if host.contains('%') {
        let hint = "Write the host as it is; for a socket write unix:///path/of/the.sock.";
        return Err(("has a % in its host".to_owned(), hint.to_owned()));
    }
    let path = decoded(path.trim_matches('/')).ok_or_else(malformed)?;
    if !path.is_empty() {
        parts.database_of_path(&path)?;
    }
    if scheme.ends_with("ss") || scheme == "valkeys" {
        once(&mut parts.tls, true, "use of TLS")?;
    }
    let login = match (&parts.user, &parts.password) {
        (None, None) => String::new(),
        (user, None) => format!("{}@", encoded(user.as_deref().unwrap_or_default())),
        (user, Some(password)) => format!("{}:{}@", encoded(user.as_deref().unwrap_or_default()), encoded(password)),
    };
    let scheme = if parts.tls == Some(true) { "rediss" } else { "redis" };
    Ok(format!("{scheme}://{login}{host}/{}", parts.database.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_programs_read_is_understood() {
        for (url, expected) in [
            ("redis://h", "redis://h/0"),
            ("redis://h:7000?db=3", "redis://h:7000/3"),
            ("redis://h/?db=3", "redis://h/3"),
            ("redis://h/3?db=3", "redis://h/3"),
            ("redis://h?database=3&timeout=5s&protocol=3&socket_timeout=5&keepAlive=1000", "redis://h/3"),
            ("redis://h/%33", "redis://h/3"),
            ("redis://h?db=%33", "redis://h/3"),
            ("redis://h/3/", "redis://h/3"),
            ("REDIS://h/3#", "redis://h/3"),
            ("redis://h?ssl=true", "rediss://h/0"),
            ("redis://h:6380/1?tls=1", "rediss://h:6380/1"),
            ("rediss://h?ssl=True&ssl_cert_reqs=required&skip_verify=false", "rediss://h/0"),
            ("valkeys://h", "rediss://h/0"),
            ("redis://h?ssl=false", "redis://h/0"),
            ("redis://ann:p%40ss%2B@[::1]:7000?db=2", "redis://ann:p%40ss%2B@[::1]:7000/2"),
            ("redis://:100%@h", "redis://:100%25@h/0"),
            ("redis://ann@h", "redis://ann@h/0"),
            ("redis://:@h", "redis://:@h/0"),
            ("redis://:pw@h?password=pw", "redis://:pw@h/0"),
            ("redis://h?username=ann&password=a+b%2B", "redis://ann:a%20b%2B@h/0"),
            ("unix:///run/a%20b.sock?db=2&user=ann&pass=pw", "unix:///run/a%20b.sock?db=2&user=ann&pass=pw"),
            ("unix://ann:p%3Aw@/run/r.sock?db=2", "unix:///run/r.sock?db=2&user=ann&pass=p%3Aw"),
            ("redis+unix:///run/r.sock", "unix:///run/r.sock?db=0"),
        ] {
            assert_eq!(plain(url).as_deref(), Ok(expected), "{url}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name_and_nothing_else_is_repeated() {
        for (url, what) in [
            ("redis://h/1?db=3", "says the database twice, and not the same"),
            ("redis://h?db=1&db=3", "says the database twice, and not the same"),
            ("redis://h?db=hunter2", "names a database that is no number"),
            ("redis://h?db=-1", "names a database that is no number"),
            ("redis://h?db=", "names a database that is no number"),
            ("redis://h/1/2", "names a database that is no number"),
            ("rediss://h?ssl=false", "says the use of TLS twice, and not the same"),
            ("redis://h?ssl=hunter2", "has a value of \"ssl\" that is neither true nor false"),
            ("rediss://h?ssl_cert_reqs=none", "switches certificate checks off with \"ssl_cert_reqs\""),
            ("rediss://h?insecure=true", "switches certificate checks off with \"insecure\""),
            ("rediss://h#insecure", "switches certificate checks off with #insecure"),
            ("redis://h#hunter2", "has a part behind ? or # that is no parameter"),
            ("redis://h?hunter2", "has a part behind ? or # that is no parameter"),
            ("redis://:x?hunter2=y@h", "has a part behind ? or # that is no parameter"),
            ("redis://h?db=%zz", "names a database that is no number"),
            ("redis://h?hunter=2", "has the parameter \"hunter\", which crieur does not know"),
            (
                "redis://h?keyPrefix=hunter2",
                "has the parameter \"keyPrefix\", a text before each key, which crieur does not add",
            ),
            ("rediss://h?ssl_ca_certs=/hunter2", "has the parameter \"ssl_ca_certs\""),
            ("redis://a:hunter2@h?user=b", "says the user twice, and not the same"),
            ("redis://:hunter2@h?password=x", "says the password twice, and not the same"),
            ("redis://:hunter2%ff@h", "has a user or password that is not UTF-8"),
            ("redis://%2Ftmp%2Fr.sock", "has a % in its host"),
            ("unix://run/r.sock", "names a host before the path of a socket"),
            ("unix:///r.sock?tls=true", "asks for TLS on a socket of this machine"),
        ] {
            let (found, hint) = plain(url).map(|_| ()).expect_err(url);
            assert_eq!(found, what, "{url}");
            assert!(!format!("{found} {hint}").contains("hunter2"), "{url}");
        }
    }
}
