//! What is wrong with an address, in words: of the cache, of the database. Pure; no text of an address is repeated, because
//! a password may stand anywhere in a wrong one.

/// What is wrong, and what to write instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wrong {
    /// Goes behind the name of the key or variable: "is a web address".
    pub what: String,
    /// Whole sentences.
    pub hint: String,
}

fn wrong(what: impl Into<String>, hint: impl Into<String>) -> Option<Wrong> {
    Some(Wrong { what: what.into(), hint: hint.into() })
}

/// The forms of a cache's URL.
pub const CACHE_FORMS: &str = "Write redis://[user:password@]host[:port][/db], rediss://… for TLS, unix:///path[?db=n&user=…&pass=…], \
     redis+sentinel://host:port,host:port/NAME[/db] for Sentinels, or redis+cluster://host:port,host:port for a cluster.";

/// How Sentinels are named.
const SENTINEL_FORM: &str = "Write redis+sentinel://[user:password@]host:port,host:port/NAME[/db]: user and password are the cache's, NAME is what the \
     Sentinels call its primary (SENTINEL MASTERS lists the names), and rediss+sentinel:// is for TLS.";

/// How a cluster is named.
const CLUSTER_FORM: &str = "Write redis+cluster://[user:password@]host:port,host:port, and rediss+cluster:// for TLS.";

/// What is wrong with the address that a sink takes requests at.
pub fn of_sink(text: &str) -> Option<Wrong> {
    const FORM: &str =
        "Write https://host/path, or http:// for a server on this machine (127.0.0.1, localhost, [::1]).";
    if let Some(wrong) = common(text, FORM) {
        return Some(wrong);
    }
    let Some((scheme, rest)) = split(text) else { return wrong("has no scheme", FORM) };
    let (authority, path) = authority(rest);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        Some(_) | None => authority,
    };
    match scheme.as_str() {
        "https" | "http" if authority.contains('@') => wrong(
            "holds a user or a password",
            "Remove both: a webhook is known by its signature, and a service by its token.",
        ),
        "https" | "http" if host.is_empty() => wrong("names no host", FORM),
        "https" | "http" if path.contains('#') => wrong("holds a #", "Remove # and what follows: no server sees it."),
        "http" if !LOOPBACK.contains(&host) => wrong(
            "begins with http:// and leads to another machine",
            "Write https://: without TLS anybody between reads which tags change, and may answer in the site's place.",
        ),
        "https" | "http" => None,
        _ => wrong("is not the address of a web server", FORM),
    }
}

/// Hosts of one machine, where HTTP without TLS is as safe as the machine.
pub const LOOPBACK: &[&str] = &["127.0.0.1", "localhost", "[::1]"];

/// What a cache's scheme says of the servers behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheForm {
    /// One server that holds all keys.
    Single,
    /// Sentinels that say where the primary is.
    Sentinel,
    /// Nodes of a cluster.
    Cluster,
    /// A service that takes commands over HTTP.
    Rest,
}

/// What the scheme announces; `None` where no cache has it.
pub fn cache_form(text: &str) -> Option<CacheForm> {
    let (scheme, _) = split(text)?;
    match scheme.split_once('+') {
        None if matches!(scheme.as_str(), "redis" | "rediss" | "valkey" | "valkeys" | "unix") => {
            Some(CacheForm::Single)
        }
        None => matches!(scheme.as_str(), "http" | "https").then_some(CacheForm::Rest),
        Some(("redis" | "valkey", "unix")) => Some(CacheForm::Single),
        Some(("redis" | "rediss" | "valkey" | "valkeys", "sentinel")) => Some(CacheForm::Sentinel),
        Some(("redis" | "rediss" | "valkey" | "valkeys", "cluster")) => Some(CacheForm::Cluster),
        Some(_) => None,
    }
}

/// The forms of a database's URL.
pub const DATABASE_FORMS: &str =
    "Write postgres://user:password@host:port/database, with further parameters behind a ?.";

const EXCHANGED: &str = "The addresses of the database (postgres.url, DATABASE_URL) and of the cache (cache.url, \
                         REDIS_URL) may be exchanged.";
const ENCODE: &str =
    "Percent-encode such characters in user and password: # is %23, / is %2F, ? is %3F, @ is %40, % is %25.";

/// What both kinds share: characters around or in the text that the environment or a copied example left.
fn common(text: &str, forms: &str) -> Option<Wrong> {
    if text.trim().is_empty() {
        return wrong("is empty", forms);
    }
    if text.starts_with(['"', '\'']) && text.contains("://") {
        let hint = "Take the quotation marks away: docker's --env-file keeps them as a part of the value.";
        return wrong("begins with a quotation mark", hint);
    }
    if let Some(left) = ["${", "$(", "{{"].iter().find(|left| text.contains(**left)) {
        let hint = "Write the value itself: neither systemd nor crieur replaces variables inside of one.";
        return wrong(format!("holds {left}…, which nobody has replaced"), hint);
    }
    let upper = text.to_ascii_uppercase();
    if ["[YOUR-PASSWORD]", "<PASSWORD>", "YOUR_PASSWORD"].iter().any(|example| upper.contains(example)) {
        return wrong(
            "holds the place for a password instead of one",
            format!("Put the password itself there. {ENCODE}"),
        );
    }
    None
}

/// The scheme in lower case, and what follows `://`.
fn split(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    Some((scheme.to_ascii_lowercase(), rest))
}

/// User, password, host and port: what stands before the first `/`, `?` or `#`.
fn authority(rest: &str) -> (&str, &str) {
    rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()))
}

/// The hosts of an authority, without user and password.
fn hosts(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts)
}

/// An IPv6 address of which nobody can say where it ends and the port begins.
fn without_brackets(hosts: &str, scheme: &str) -> Option<Wrong> {
    let bare = |host: &str| host.matches(':').count() > 1 && !host.starts_with('[');
    hosts.split(',').any(bare).then(|| Wrong {
        what: "holds an IPv6 address without brackets".to_owned(),
        hint: format!("Write {scheme}://[::1]:port: brackets tell the address from the port."),
    })
}

/// What is wrong with the URL of a cache, as far as its text tells.
pub fn of_cache(text: &str) -> Option<Wrong> {
    if let Some(found) = common(text, CACHE_FORMS) {
        return Some(found);
    }
    let Some((scheme, rest)) = split(text) else { return wrong("has no scheme", CACHE_FORMS) };
    let Some(form) = cache_form(text) else {
        return match scheme.as_str() {
            "postgres" | "postgresql" => wrong("is the URL of a PostgreSQL database", EXCHANGED),
            other if other.contains("sentinel") => wrong("has a scheme that crieur does not know", SENTINEL_FORM),
            other if other.contains("cluster") => wrong("has a scheme that crieur does not know", CLUSTER_FORM),
            _ => wrong("has a scheme that no cache has", CACHE_FORMS),
        };
    };
    if scheme == "unix" || scheme.ends_with("+unix") {
        return None;
    }
    let (authority, behind) = authority(rest);
    if form == CacheForm::Rest {
        return of_rest(&scheme, authority);
    }
    if behind.contains('@') {
        return wrong("has a /, ? or # before its @, so that the host would end there", ENCODE);
    }
    let hosts = hosts(authority);
    if let Some(found) = without_brackets(hosts, &scheme) {
        return Some(found);
    }
    if form == CacheForm::Single && hosts.contains(',') {
        let hint = format!("Name the one primary, or what the hosts are. {SENTINEL_FORM} {CLUSTER_FORM}");
        return wrong("names several hosts behind a scheme for one", hint);
    }
    hosts.split(',').find_map(of_host).or_else(|| of_path(form, behind.split(['?', '#']).next().unwrap_or_default()))
}

/// What is wrong with one host and its port.
fn of_host(host: &str) -> Option<Wrong> {
    let after_address = host.rsplit_once(']').map_or(host, |(_, port)| port);
    let (name, port) = after_address.rsplit_once(':').unwrap_or((after_address, ""));
    if !port.is_empty() && port.parse::<u16>().is_err() {
        return wrong(
            "has a port that is no number up to 65535",
            format!("{CACHE_FORMS} Should that be a part of the password: {ENCODE}"),
        );
    }
    if name.is_empty() && !host.starts_with('[') {
        return wrong("names no host", CACHE_FORMS);
    }
    if matches!(name, "0.0.0.0") || host.starts_with("[::]") {
        return wrong(
            "names what servers listen on (0.0.0.0), not what one connects to",
            "Write 127.0.0.1 or the host's name.",
        );
    }
    None
}

/// What is wrong with the path: the database, and before it the name of the primary that Sentinels watch.
fn of_path(form: CacheForm, path: &str) -> Option<Wrong> {
    let mut parts = path.split('/').filter(|part| !part.is_empty());
    if form == CacheForm::Sentinel && parts.next().is_none() {
        return wrong("does not name the primary behind its Sentinels", SENTINEL_FORM);
    }
    let database = parts.collect::<Vec<_>>().join("/");
    if form == CacheForm::Cluster && !database.bytes().all(|byte| byte == b'0') {
        return wrong("names a database, and a cluster has no other than 0", CLUSTER_FORM);
    }
    (!database.is_empty() && database.parse::<u32>().is_err())
        .then(|| Wrong { what: "names a database that is no number".to_owned(), hint: CACHE_FORMS.to_owned() })
}

/// What is wrong with the address of a service that takes commands over HTTP.
fn of_rest(scheme: &str, authority: &str) -> Option<Wrong> {
    if authority.contains('@') {
        return wrong(
            "holds a user or a token before its host",
            "Write https://host, and the token under the key token of the same cache.",
        );
    }
    let host = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(authority, |(host, _)| host);
    if scheme == "http" && !LOOPBACK.contains(&host) {
        return wrong(
            "is a web address without TLS, over which a token would be readable",
            format!("Write https:// for Upstash's REST interface. {CACHE_FORMS}"),
        );
    }
    of_host(authority)
}

/// What is wrong with the URL of a database, as far as its text tells. A key/value string has no scheme.
pub fn of_database(text: &str) -> Option<Wrong> {
    if let Some(found) = common(text, DATABASE_FORMS) {
        return Some(found);
    }
    let text = text.strip_prefix("jdbc:").map_or(text, |_| "jdbc://");
    let (scheme, rest) = split(text).filter(|(scheme, _)| !scheme.contains(['=', ' ']))?;
    match scheme.as_str() {
        "postgres" | "postgresql" => {}
        "http" | "https" => return Some(web_address(rest)),
        "redis" | "rediss" | "valkey" | "valkeys" => return wrong("is the URL of a cache", EXCHANGED),
        "jdbc" => return wrong("is a URL of Java's JDBC", DATABASE_FORMS),
        "prisma" | "prisma+postgres" => {
            return wrong("leads to Prisma's proxy, not to a database", DATABASE_FORMS);
        }
        other if other.starts_with("postgres") || other == "postgis" => {
            return wrong("has a scheme with a driver's name in it", "Write postgres:// and leave the driver out.");
        }
        _ => return wrong("is the URL of something that is not PostgreSQL", DATABASE_FORMS),
    }
    let before_parameters = rest.split('?').next().unwrap_or_default();
    // As libpq reads it: user and password end at the first @, unless a / comes before.
    let hosts = match (rest.find('@'), before_parameters.find('/')) {
        (Some(at), Some(slash)) if slash < at && at < before_parameters.len() => {
            return wrong("has a / before its @, so that the host would end there", ENCODE);
        }
        (Some(at), slash) if slash.is_none_or(|slash| at < slash) => &rest[at + 1..],
        _ => rest,
    };
    without_brackets(hosts.split(['/', '?']).next().unwrap_or_default(), &scheme)
}

/// The address without what may be secret: scheme, hosts and path. Nothing of a text of which it is not certain where the
/// password ends.
pub fn shown(text: &str) -> String {
    const HIDDEN: &str = "[redacted]";
    let is_sound = match split(text) {
        Some((scheme, _)) if scheme.starts_with("postgres") => of_database(text).is_none(),
        Some(_) => of_cache(text).is_none(),
        None => false,
    };
    let Some((scheme, rest)) = text.split_once("://").filter(|_| is_sound) else { return HIDDEN.to_owned() };
    let open = rest.split(['?', '#']).next().unwrap_or_default();
    match (text.matches('@').count(), open.split_once('@')) {
        (0, _) => format!("{scheme}://{open}"),
        (1, Some((_, hosts))) => format!("{scheme}://{HIDDEN}@{hosts}"),
        _ => HIDDEN.to_owned(),
    }
}

/// A web address where a database is wanted: most likely Supabase's, whose database has a host of its own.
fn web_address(rest: &str) -> Wrong {
    let host = authority(rest).0;
    let hint = match host.strip_suffix(".supabase.co") {
        Some(reference) if reference.bytes().all(|byte| byte.is_ascii_alphanumeric()) => format!(
            "Supabase's database is another host: postgres://postgres:<password>@db.{reference}.supabase.co:5432/postgres."
        ),
        _ => DATABASE_FORMS.to_owned(),
    };
    Wrong { what: "is a web address, not that of a database".to_owned(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_of_a_cache_is_read_as_other_clients_do_or_what_is_wrong_is_said() {
        for (text, what) in [
            ("redis://localhost", None),
            ("rediss://default:p%23w@h.upstash.io:6379/0", None),
            ("redis://:p:w@h:1/2", None),
            ("redis://[::1]:7000/0", None),
            ("unix:///run/a@b.sock?pass=a/b", None),
            ("", Some("is empty")),
            ("\"redis://h\"", Some("begins with a quotation mark")),
            ("redis://${HOST}", Some("holds ${…, which nobody has replaced")),
            ("redis://:<password>@h", Some("holds the place for a password instead of one")),
            ("localhost:6379", Some("has no scheme")),
            ("https://eu1.upstash.io", None),
            ("http://127.0.0.1:8080", None),
            ("http://h:6379", Some("is a web address without TLS, over which a token would be readable")),
            ("https://default:t@eu1.upstash.io", Some("holds a user or a token before its host")),
            ("postgres://u@h/d", Some("is the URL of a PostgreSQL database")),
            ("redis+sentinel://h:26379/mymaster", None),
            ("rediss+sentinel://u:p@a,b:1,[::1]:2/my%20master/3?sentinel_password=x", None),
            ("redis+sentinel://a:26379,b:26379", Some("does not name the primary behind its Sentinels")),
            ("redis+sentinel://a:26379/m/zero", Some("names a database that is no number")),
            ("redis+sentinel://a:26379,/m", Some("names no host")),
            ("redis+sentinel://a:26379,::1/m", Some("holds an IPv6 address without brackets")),
            ("redis+sentinel://a:26379,b:99999/m", Some("has a port that is no number up to 65535")),
            ("redis-sentinel://a:26379/m", Some("has a scheme that crieur does not know")),
            ("redis+cluster://a:7001,b:7002", None),
            ("rediss+cluster://u:p@a:7001/0", None),
            ("redis+cluster://a:7001/1", Some("names a database, and a cluster has no other than 0")),
            ("reddis://h", Some("has a scheme that no cache has")),
            ("redis://:pa#ss@h", Some("has a /, ? or # before its @, so that the host would end there")),
            ("redis://u:1/2@h:6379/0", Some("has a /, ? or # before its @, so that the host would end there")),
            ("redis://::1:6379", Some("holds an IPv6 address without brackets")),
            ("redis://u:p@fe80::1/0", Some("holds an IPv6 address without brackets")),
            ("redis://a:1,b:2", Some("names several hosts behind a scheme for one")),
            ("redis://h:99999", Some("has a port that is no number up to 65535")),
            ("redis://:p@", Some("names no host")),
            ("redis://0.0.0.0:6379", Some("names what servers listen on (0.0.0.0), not what one connects to")),
            ("redis://h/zero", Some("names a database that is no number")),
        ] {
            assert_eq!(of_cache(text).map(|found| found.what).as_deref(), what, "{text}");
        }
    }

    #[test]
    fn an_address_is_shown_without_what_may_be_secret() {
        for (text, expected) in [
            ("redis://h:1/0", "redis://h:1/0"),
            ("rediss://default:hunter2@h/0?x=hunter2", "rediss://[redacted]@h/0"),
            ("unix:///run/c.sock?pass=hunter2", "unix:///run/c.sock"),
            ("postgres://u:hunter2@a:1,b:2/d?sslmode=require", "postgres://[redacted]@a:1,b:2/d"),
            ("postgres://u:hunter2?@h/d", "[redacted]"),
            ("postgres://u:x@hunter2@h/d", "[redacted]"),
            ("redis://:hunter2#@h", "[redacted]"),
            ("host=h password=hunter2", "[redacted]"),
            ("host=h password=redis://hunter2", "[redacted]"),
            ("redis+sentinel://u:hunter2@a,b:1/m?sentinel_password=hunter2", "redis+sentinel://[redacted]@a,b:1/m"),
            ("redis+cluster://a:1,b:2", "redis+cluster://a:1,b:2"),
            ("https://default:hunter2@x.upstash.io", "[redacted]"),
            ("http://hunter2", "[redacted]"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn the_url_of_a_database_is_read_as_libpq_does_or_what_is_wrong_is_said() {
        for (text, what) in [
            ("postgres://u:p@h/d", None),
            ("postgres://u:p#w?@h/d", None),
            ("postgresql://u@[::1]:5/d?options=-c%20a=b@c/d", None),
            ("postgres:///d?host=/tmp", None),
            ("host=h password=https://x", None),
            ("host=::1 password='[a'", None),
            ("", Some("is empty")),
            (
                "postgresql://postgres:[YOUR-PASSWORD]@db.x.supabase.co/d",
                Some("holds the place for a password instead of one"),
            ),
            ("https://abc.supabase.co", Some("is a web address, not that of a database")),
            ("redis://h", Some("is the URL of a cache")),
            ("jdbc:postgresql://h/d", Some("is a URL of Java's JDBC")),
            ("postgresql+asyncpg://u@h/d", Some("has a scheme with a driver's name in it")),
            ("prisma+postgres://h/?api_key=x", Some("leads to Prisma's proxy, not to a database")),
            ("mysql://h/d", Some("is the URL of something that is not PostgreSQL")),
            ("postgres://u:pa/ss@h/d", Some("has a / before its @, so that the host would end there")),
            ("postgres://u:p@::1:5432/d", Some("holds an IPv6 address without brackets")),
            ("postgres://fe80::1/d", Some("holds an IPv6 address without brackets")),
        ] {
            assert_eq!(of_database(text).map(|found| found.what).as_deref(), what, "{text}");
        }
        let supabase = of_database("https://abc.supabase.co/rest/v1").expect("a web address");
        assert!(supabase.hint.contains("db.abc.supabase.co:5432"), "{}", supabase.hint);
    }
}
