//! The forms of a cache's address: one server, Sentinels that say where the primary is, nodes of a cluster, a REST service.
//!
//! The invariant is that of `address.rs`: a mistake is found before anything is connected, and no message repeats a
//! user or a password.

use super::address::{Address, bad_url, no_trust, trust};
use super::place::{HostPort, NodeLogin, NodeMap, SERVER_PORT};
use super::query::{self, Several};
use crate::config::{CacheConfig, ServersConfig, TlsFiles};
use crate::error::{Error, Result};
use crate::secret::Secret;
use crate::url::{CACHE_FORMS, CacheForm, cache_form, of_cache};

/// Where Sentinels listen unless they are told otherwise.
const SENTINEL_PORT: u16 = 26379;
/// Sentinels, and the primary that they watch.
pub struct SentinelAddress {
    /// Where the Sentinels are.
    pub sentinels: Vec<HostPort>,
    /// What they call the primary.
    pub name: String,
    /// How to log in at the primary.
    pub primary: NodeLogin,
    /// How to log in at the Sentinels.
    pub sentinel: NodeLogin,
}

/// Nodes of a cluster.
pub struct ClusterAddress {
    /// Nodes that say where the others are.
    pub seeds: Vec<HostPort>,
    /// How to log in at each.
    pub node: NodeLogin,
}

/// A service that takes commands over HTTP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestAddress {
    /// Host and port.
    pub place: HostPort,
    /// Whether it speaks TLS: only a service on this machine does not.
    pub tls: bool,
}

/// Where a cache is, in one of the forms that an address has.
pub enum CacheAddress {
    /// One server that holds all keys.
    Single(Address),
    /// `redis+sentinel://`
    Sentinel(SentinelAddress),
    /// `redis+cluster://`
    Cluster(ClusterAddress),
    /// `https://`
    Rest(RestAddress),
}

impl CacheAddress {
    /// The address of a cache, with all that its configuration says of how to reach its servers.
    pub fn of(config: &CacheConfig) -> Result<Self> {
        CacheAddress::read(&config.url, &config.tls, &config.servers)
    }

    /// Reads the address of a cache and the files of TLS.
    pub fn new(url: &Secret, files: &TlsFiles) -> Result<Self> {
        CacheAddress::read(url, files, &ServersConfig::default())
    }

    fn read(url: &Secret, files: &TlsFiles, servers: &ServersConfig) -> Result<Self> {
        let form = cache_form(url.expose().trim()).filter(|_| of_cache(url.expose()).is_none());
        let read = || match form {
            // What is wrong is said where one server's address is read.
            None | Some(CacheForm::Single) => {
                let address = Address::new(url, files)?;
                no_sentinels(servers).and_then(|()| no_nodes(servers)).map(|()| CacheAddress::Single(address))
            }
            Some(CacheForm::Sentinel) => of_sentinels(url, files, servers).map(CacheAddress::Sentinel),
            Some(CacheForm::Cluster) => {
                let address = of_cluster(url, files, servers)?;
                no_sentinels(servers).map(|()| CacheAddress::Cluster(address))
            }
            Some(CacheForm::Rest) => {
                let address = of_rest(url, files)?;
                no_sentinels(servers).and_then(|()| no_nodes(servers)).map(|()| CacheAddress::Rest(address))
            }
        };
        read().map_err(|error| match (error.at.is_some(), url.origin()) {
            (true, _) => error,
            (false, "") => error.at("cache.url"),
            (false, origin) => error.at(origin),
        })
    }
}

/// What is said of Sentinels has no meaning where the address names none.
fn no_sentinels(servers: &ServersConfig) -> Result<()> {
    let ServersConfig { sentinel_user, sentinel_password, sentinel_tls, sentinel_authority, .. } = servers;
    let set = [
        ("sentinel_user", sentinel_user.is_some()),
        ("sentinel_password", sentinel_password.is_some()),
        ("sentinel_tls", sentinel_tls.is_some()),
        ("sentinel_tls_ca", sentinel_authority.is_some()),
    ];
    set.into_iter().find(|(_, is_set)| *is_set).map_or(Ok(()), |(key, _)| {
        Err(bad_url(&format!("names no Sentinels, and {key} is set"))
            .hint(format!("Write redis+sentinel://host:port,host:port/NAME, or remove {key}.")))
    })
}

/// One server has one address.
fn no_nodes(servers: &ServersConfig) -> Result<()> {
    if servers.nodes == NodeMap::default() {
        return Ok(());
    }
    Err(bad_url("names one server, and nodes is set").hint(
        "It is for servers that Sentinels or a cluster name: remove nodes, or write redis+sentinel:// or redis+cluster://.",
    ))
}

fn of_sentinels(url: &Secret, files: &TlsFiles, servers: &ServersConfig) -> Result<SentinelAddress> {
    let Several { mut parts, hosts, path } = several(url, servers)?;
    let [name, database @ ..] = &path[..] else { return Err(bad_url("does not name the primary")) };
    let named = database.iter().try_for_each(|text| parts.database_of_path(text));
    named.map_err(|(what, hint)| bad_url(&what).hint(hint))?;
    let (tls, sentinel_tls) = (parts.tls == Some(true), parts.sentinel_tls.or(parts.tls) == Some(true));
    let of_cache = if tls || sentinel_tls { Some(trust(files)?) } else { no_trust(files)? };
    let of_sentinels = match &servers.sentinel_authority {
        Some(_) if !sentinel_tls => {
            return Err(bad_url("asks for no TLS to the Sentinels, and sentinel_tls_ca is set")
                .hint("Set sentinel_tls = \"yes\", or remove sentinel_tls_ca."));
        }
        Some(authority) => Some(trust(&TlsFiles { authority: Some(authority.clone()), ..files.clone() })?),
        None => of_cache.clone(),
    };
    let primary = NodeLogin {
        trust: of_cache.filter(|_| tls),
        user: parts.user,
        password: parts.password,
        database: i64::from(parts.database.unwrap_or(0)),
        nodes: servers.nodes.clone(),
        written: written(url),
    };
    let sentinel = NodeLogin {
        trust: of_sentinels.filter(|_| sentinel_tls),
        user: parts.sentinel_user,
        password: parts.sentinel_password,
        database: 0,
        nodes: NodeMap::default(),
        written: written(url),
    };
    Ok(SentinelAddress { sentinels: places(&hosts, SENTINEL_PORT)?, name: name.clone(), primary, sentinel })
}

fn of_cluster(url: &Secret, files: &TlsFiles, servers: &ServersConfig) -> Result<ClusterAddress> {
    let Several { parts, hosts, .. } = several(url, &ServersConfig::default())?;
    parts.refuse_sentinels().map_err(|(what, hint)| bad_url(&what).hint(hint))?;
    if parts.database.is_some_and(|database| database != 0) {
        return Err(bad_url("names a database, and a cluster has no other than 0").hint(CACHE_FORMS));
    }
    let trust = if parts.tls == Some(true) { Some(trust(files)?) } else { no_trust(files)? };
    let (user, password, nodes, written) = (parts.user, parts.password, servers.nodes.clone(), written(url));
    let node = NodeLogin { trust, user, password, database: 0, nodes, written };
    Ok(ClusterAddress { seeds: places(&hosts, SERVER_PORT)?, node })
}

fn of_rest(url: &Secret, files: &TlsFiles) -> Result<RestAddress> {
    let (scheme, rest) = url.expose().trim().split_once("://").ok_or_else(|| bad_url("has no scheme"))?;
    let tls = scheme.eq_ignore_ascii_case("https");
    if !tls {
        no_trust(files)?;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let place = HostPort::parse(authority, if tls { 443 } else { 80 });
    place.map(|place| RestAddress { place, tls }).ok_or_else(|| bad_url("names no host").hint(CACHE_FORMS))
}

/// What a URL that names several servers says, and the settings beside it. A user without a password must not silently
/// become `default`.
fn several(url: &Secret, servers: &ServersConfig) -> Result<Several> {
    let refused = |(what, hint): (String, String)| bad_url(&what).hint(hint);
    let mut several = query::several(url.expose()).map_err(refused)?;
    let parts = &mut several.parts;
    let ServersConfig { sentinel_user, sentinel_password, sentinel_tls, .. } = servers;
    let password = sentinel_password.as_ref().map(Secret::expose);
    parts.of_settings(sentinel_user.as_deref(), password, *sentinel_tls).map_err(refused)?;
    for (user, password) in [(&parts.user, &mut parts.password), (&parts.sentinel_user, &mut parts.sentinel_password)] {
        if user.is_some() && password.is_none() {
            *password = Some(String::new());
        }
    }
    Ok(several)
}

fn places(hosts: &str, default_port: u16) -> Result<Vec<HostPort>> {
    let mut places: Vec<HostPort> = Vec::new();
    for host in hosts.split(',') {
        let place = HostPort::parse(host.trim(), default_port);
        let place = place.ok_or_else(|| bad_url("names a host that cannot be read").hint(CACHE_FORMS))?;
        if places.contains(&place) {
            return Err(bad_url("names one host and port twice").hint("Leave one of the two in it."));
        }
        places.push(place);
    }
    Ok(places)
}

fn written(url: &Secret) -> String {
    match url.origin() {
        "" => String::new(),
        origin => format!(" ({origin})"),
    }
}

/// The error for a form that this version reads and cannot work with.
pub fn unready(form: &str) -> Error {
    bad_url(&format!("{form}, which this version cannot work with yet"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;

    fn parsed(url: &str) -> Result<CacheAddress> {
        CacheAddress::new(&Secret::new(url), &TlsFiles::default())
    }

    fn listed(places: &[HostPort]) -> String {
        places.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sentinels_are_places_a_name_and_two_log_ins() {
        type Row<'a> = (&'a str, &'a str, &'a str, i64, [Option<&'a str>; 4], [bool; 2]);
        let none = [None; 4];
        let rows: [Row<'_>; 6] = [
            ("redis+sentinel://a/m", "a:26379", "m", 0, none, [false, false]),
            (
                "redis+sentinel://a:1,b,[::1]:2,[fe80::1]/my%20m/3",
                "a:1 b:26379 [::1]:2 [fe80::1]:26379",
                "my m",
                3,
                none,
                [false, false],
            ),
            (
                "rediss+sentinel://u:p%40@a/m?sentinel_user=s&sentinel_password=w%2B",
                "a:26379",
                "m",
                0,
                [Some("u"), Some("p@"), Some("s"), Some("w+")],
                [true, true],
            ),
            (
                "rediss+sentinel://:p@a/m?db=2&sentinel_tls=no",
                "a:26379",
                "m",
                2,
                [None, Some("p"), None, None],
                [true, false],
            ),
            (
                "redis+sentinel://a/m?sentinel_tls=yes&sentinel_user=s",
                "a:26379",
                "m",
                0,
                [None, None, Some("s"), Some("")],
                [false, true],
            ),
            ("valkeys+sentinel://ann@a/m", "a:26379", "m", 0, [Some("ann"), Some(""), None, None], [true, true]),
        ];
        for (url, places, name, database, logins, tls) in rows {
            let read = parsed(url).unwrap_or_else(|error| panic!("{url}: {}", error.chain()));
            let CacheAddress::Sentinel(found) = read else { panic!("{url} names Sentinels") };
            let SentinelAddress { sentinels, name: named, primary, sentinel } = found;
            assert_eq!(
                (listed(&sentinels).as_str(), named.as_str(), primary.database),
                (places, name, database),
                "{url}"
            );
            let seen = [&primary.user, &primary.password, &sentinel.user, &sentinel.password];
            assert_eq!(seen.map(Option::as_deref), logins, "{url}");
            assert_eq!([primary.trust.is_some(), sentinel.trust.is_some()], tls, "{url}");
        }
    }

    #[test]
    fn a_cluster_is_places_and_one_log_in_and_a_service_is_one_place() {
        let CacheAddress::Cluster(found) = parsed("rediss+cluster://u:p@a,[::1]:7001/0").expect("a cluster") else {
            panic!("a cluster")
        };
        assert_eq!(listed(&found.seeds), "a:6379 [::1]:7001");
        assert_eq!((found.node.user.as_deref(), found.node.password.as_deref()), (Some("u"), Some("p")));
        assert!(found.node.trust.is_some());
        for (url, place, tls) in [
            ("https://eu1-nice.upstash.io", "eu1-nice.upstash.io:443", true),
            ("https://h:8443/", "h:8443", true),
            ("http://127.0.0.1:8080", "127.0.0.1:8080", false),
        ] {
            let CacheAddress::Rest(found) = parsed(url).expect("a service") else { panic!("{url}") };
            assert_eq!((found.place.to_string().as_str(), found.tls), (place, tls), "{url}");
        }
        assert!(matches!(parsed("redis://h").expect("a server"), CacheAddress::Single(_)));
        assert!(matches!(parsed("unix:///run/c.sock").expect("a socket"), CacheAddress::Single(_)));
    }

    #[test]
    fn settings_beside_the_address_are_those_of_the_sentinels_and_of_the_nodes() {
        let servers = ServersConfig {
            nodes: NodeMap::new([("10.0.0.1:1", "h:2")]).expect("places"),
            sentinel_user: Some("s".into()),
            sentinel_password: Some(Secret::new("hunter2")),
            sentinel_tls: Some(true),
            sentinel_authority: None,
        };
        let read =
            |url: &str, servers: &ServersConfig| CacheAddress::read(&Secret::new(url), &TlsFiles::default(), servers);
        let CacheAddress::Sentinel(found) = read("redis+sentinel://a/m?sentinel_user=s", &servers).expect("valid")
        else {
            panic!("Sentinels")
        };
        assert_eq!((found.sentinel.user.as_deref(), found.sentinel.password.as_deref()), (Some("s"), Some("hunter2")));
        assert!(found.sentinel.trust.is_some() && found.primary.trust.is_none());
        assert_eq!((found.primary.nodes, found.sentinel.nodes), (servers.nodes.clone(), NodeMap::default()));
        let only = |servers: ServersConfig| ServersConfig { nodes: NodeMap::default(), ..servers };
        for (url, servers, words) in [
            ("redis+sentinel://a/m?sentinel_password=x", servers.clone(), "the Sentinels' password twice"),
            ("redis://a", only(servers.clone()), "names no Sentinels, and sentinel_user is set"),
            ("redis+cluster://a", servers.clone(), "names no Sentinels, and sentinel_user is set"),
            ("redis://a", ServersConfig { nodes: servers.nodes, ..ServersConfig::default() }, "names one server"),
            (
                "redis+sentinel://a/m",
                ServersConfig { sentinel_authority: Some("/ca.pem".into()), ..ServersConfig::default() },
                "asks for no TLS to the Sentinels",
            ),
        ] {
            let error = read(url, &servers).err().unwrap_or_else(|| panic!("{url} was accepted"));
            let chain = error.chain();
            assert!(chain.contains(words) && !chain.contains("hunter2") && error.hint.is_some(), "{url}: {chain}");
        }
    }

    #[test]
    fn a_bad_address_is_a_definite_error_that_does_not_show_it() {
        for url in [
            "redis+sentinel://:hunter2@a",
            "redis+sentinel://:hunter2@a,a/m",
            "redis+sentinel://:hunter2@a:1x/m",
            "redis+sentinel://:hunter2@::1/m",
            "redis+sentinel://a/m/hunter2",
            "redis+sentinel://a/m/1?db=2&password=hunter2",
            "redis+sentinel://a/m?sentinel_tls=hunter2",
            "redis+sentinel://:hunter2@a/m?sentinel_password=x&sentinelPassword=y",
            "redis+cluster://:hunter2@a/1",
            "redis+cluster://:hunter2@a?sentinel_user=x",
            "redis+cluster://:hunter2@a?db=3",
            "redis://a?sentinel_password=hunter2",
            "redis+sentinels://:hunter2@a/m",
            "redis://:hunter2@a,b",
            "https://hunter2@h",
            "http://h/hunter2",
        ] {
            let error = parsed(url).err().unwrap_or_else(|| panic!("{url} was accepted"));
            assert_eq!((error.exit(), error.at.as_deref()), (Exit::Config, Some("cache.url")), "{url}");
            assert!(!format!("{} {:?}", error.chain(), error).contains("hunter2"), "{url}");
            assert!(error.hint.is_some(), "{url}: {}", error.chain());
        }
    }
}
