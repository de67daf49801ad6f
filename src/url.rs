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
pub const CACHE_FORMS: &str =
    "Write redis://[user:password@]host[:port][/db], rediss://… for TLS, or unix:///path[?db=n&user=…&pass=…].";

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
    match scheme.as_str() {
        "redis" | "rediss" | "valkey" | "valkeys" => {}
        "unix" | "redis+unix" | "valkey+unix" => return None,
        "http" | "https" if rest.contains("upstash") => {
            let hint = "Upstash: write rediss://default:<token>@<endpoint>:6379; the REST token is the password.";
            return wrong("leads to a REST interface, not to the Redis protocol", hint);
        }
        "http" | "https" => return wrong("is a web address; crieur speaks the Redis protocol", CACHE_FORMS),
        "postgres" | "postgresql" => return wrong("is the URL of a PostgreSQL database", EXCHANGED),
        other if other.contains("sentinel") || other.contains("cluster") => {
            let hint = "Write redis://, and the host and port of the one primary that holds all keys.";
            return wrong("names Sentinels or a cluster; this version speaks to one primary", hint);
        }
        _ => return wrong("has a scheme that no cache has", CACHE_FORMS),
    }
    let (authority, behind) = authority(rest);
    if behind.contains('@') {
        return wrong("has a /, ? or # before its @, so that the host would end there", ENCODE);
    }
    let host = hosts(authority);
    if let Some(found) = without_brackets(host, &scheme) {
        return Some(found);
    }
    let after_address = host.rsplit_once(']').map_or(host, |(_, port)| port);
    let (name, port) = after_address.rsplit_once(':').unwrap_or((after_address, ""));
    if host.contains(',') {
        return wrong("names several hosts; this version speaks to one primary", CACHE_FORMS);
    }
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
    let path = behind.split(['?', '#']).next().unwrap_or_default().trim_matches('/');
    if !path.is_empty() && path.parse::<u32>().is_err() {
        return wrong("names a database that is no number", CACHE_FORMS);
    }
    None
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
            ("https://eu1.upstash.io", Some("leads to a REST interface, not to the Redis protocol")),
            ("http://h:6379", Some("is a web address; crieur speaks the Redis protocol")),
            ("postgres://u@h/d", Some("is the URL of a PostgreSQL database")),
            (
                "redis+sentinel://h:26379/mymaster",
                Some("names Sentinels or a cluster; this version speaks to one primary"),
            ),
            ("reddis://h", Some("has a scheme that no cache has")),
            ("redis://:pa#ss@h", Some("has a /, ? or # before its @, so that the host would end there")),
            ("redis://u:1/2@h:6379/0", Some("has a /, ? or # before its @, so that the host would end there")),
            ("redis://::1:6379", Some("holds an IPv6 address without brackets")),
            ("redis://u:p@fe80::1/0", Some("holds an IPv6 address without brackets")),
            ("redis://a:1,b:2", Some("names several hosts; this version speaks to one primary")),
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
            ("https://hunter2", "[redacted]"),
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
