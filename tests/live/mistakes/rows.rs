//! The mistakes. Each row is one: where it is made, and the command that meets it.

/// One mistake.
pub struct Row {
    pub name: &'static str,
    pub args: Vec<&'static str>,
    /// Lines of `[postgres]` and of `[cache]`; what follows them, and what stands instead of the rules.
    postgres: &'static str,
    cache: &'static str,
    more: &'static str,
    rules: Option<&'static str>,
    /// Instead of all of these.
    whole: Option<&'static str>,
    pub files: Vec<(&'static str, &'static str)>,
    pub env: Vec<(&'static str, &'static str)>,
    /// The daemon is waited for until it complains, and stopped.
    pub waits: bool,
}

impl Row {
    /// The configuration file.
    pub fn file(&self, rules: &str) -> String {
        let rules = self.rules.unwrap_or(rules);
        let made = || format!("[postgres]\n{}\n[cache]\n{}\n{}\n{rules}", self.postgres, self.cache, self.more);
        self.whole.map_or_else(made, str::to_owned)
    }

    fn env(mut self, name: &'static str, value: &'static str) -> Row {
        self.env.push((name, value));
        self
    }

    fn with(mut self, name: &'static str, text: &'static str) -> Row {
        self.files.push((name, text));
        self
    }
}

const POSTGRES: &str = "url = \"{pg}\"";
const CACHE: &str = "url = \"{cache}\"";

fn row(name: &'static str, args: &[&'static str]) -> Row {
    let args = args.iter().copied();
    let takes_file = !name.starts_with("command");
    let args = if takes_file { args.chain(["--config", "crieur.toml"]).collect() } else { args.collect() };
    Row {
        name,
        args,
        postgres: POSTGRES,
        cache: CACHE,
        more: "",
        rules: None,
        whole: None,
        files: Vec::new(),
        env: Vec::new(),
        waits: false,
    }
}

/// A file that is not right in itself; `run` and every other command say the same.
fn file(name: &'static str, whole: &'static str) -> Row {
    Row { whole: Some(whole), ..row(name, &["check"]) }
}

fn postgres(name: &'static str, lines: &'static str) -> Row {
    Row { postgres: lines, ..row(name, &["check"]) }
}

fn cache(name: &'static str, lines: &'static str) -> Row {
    Row { cache: lines, ..row(name, &["check"]) }
}

fn rules(name: &'static str, text: &'static str) -> Row {
    Row { rules: Some(text), ..row(name, &["check"]) }
}

fn daemon(of: Row) -> Row {
    let args = of.args.iter().map(|arg| if *arg == "check" { "run" } else { *arg }).collect();
    Row { args, waits: true, ..of }
}

/// A rule of the table of the tests.
macro_rules! rule {
    ($lines:literal) => {
        concat!("[[rules]]\ntable = \"public.properties\"\n", $lines)
    };
}

/// The table.
pub fn rows() -> Vec<Row> {
    [
        in_the_file(),
        in_the_environment(),
        in_addresses(),
        at_the_cache(),
        at_the_database(),
        in_rules(),
        of_commands(),
        in_units_and_sockets(),
        at_the_page(),
        at_first(),
        of_the_live_commands(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn in_the_file() -> Vec<Row> {
    vec![
        row("command line: no such file", &["check", "--config", "nowhere.toml"]),
        row("command line: a folder as the file", &["check", "--config", "{folder}"]),
        file("a string that does not end", "[postgres]\nurl = \"{pg}\n"),
        file("a section that does not exist", "[postgre]\nurl = \"{pg}\"\n"),
        file("a section of a later version", "[caches.eu]\nurl = \"{cache}\"\n"),
        file("no addresses", rule!("keys = [\"a:{id}\"]")),
        file("no rules", "[postgres]\nurl = \"{pg}\"\n[cache]\nurl = \"{cache}\"\n"),
        postgres("a key that does not exist", "url = \"{pg}\"\nslott = \"x\""),
        postgres("a number for a text", "url = \"{pg}\"\nslot = 5"),
        postgres("a slot in capitals", "url = \"{pg}\"\nslot = \"Crieur\""),
        postgres("a mode that does not exist", "url = \"{pg}\"\nmode = \"trigger\""),
        cache("a text for a list", "url = \"{cache}\"\necho = \"250ms\""),
        cache("delays that do not ascend", "url = \"{cache}\"\necho = [\"2s\", \"1s\"]"),
        cache("a duration without a unit", "url = \"{cache}\"\nheartbeat = \"5\""),
        cache("a duration as a number", "url = \"{cache}\"\ntimeout = 5"),
        cache("a heartbeat of an hour", "url = \"{cache}\"\nheartbeat = \"1h\""),
        cache("everything may be named", "url = \"{cache}\"\ninvalidate = [\"*\"]"),
        cache("a word that is no choice", "url = \"{cache}\"\non_gap = \"ignore\""),
        Row { more: "[admin]\nlisten = \"localhost:9186\"", ..row("a name to listen on", &["check"]) },
        Row { more: "[admin]\nlisten = \"127.0.0.1:{pg:port}\"", waits: true, ..row("a port that is taken", &["run"]) },
        Row { more: "[limits]\nmemory_bytes_max = \"1KiB\"", ..row("too little memory", &["check"]) },
        Row { more: "[postgres]", ..row("a section twice", &["check"]) },
        Row { rules: Some(""), ..row("no rules in the whole file", &["check"]) },
        file(
            "rules of another file that is not there",
            "rules_file = \"rules.toml\"\n[postgres]\nurl = \"{pg}\"\n[cache]\nurl = \"{cache}\"\n",
        ),
        file(
            "settings in the file of the rules",
            "rules_file = \"rules.toml\"\n[postgres]\nurl = \"{pg}\"\n[cache]\nurl = \"{cache}\"\n",
        )
        .with(
            "rules.toml",
            "[cache]\nurl = \"redis://:hunter2@h\"\n[[rules]]\ntable = \"public.properties\"\nkeys = [\"a:{id}\"]\n",
        ),
    ]
}

fn in_the_environment() -> Vec<Row> {
    vec![
        row("variable: a key that does not exist", &["check"]).env("CRIEUR__CACHE__ONGAP", "warn"),
        row("variable: one underscore", &["check"]).env("CRIEUR_CACHE_TIMEOUT", "1s"),
        row("variable: a value that does not fit", &["check"]).env("CRIEUR__CACHE__TIMEOUT", "soon"),
        row("variable: bytes that are no UTF-8", &["check"]).env("CRIEUR__CACHE__PROTECT", "caf\u{fffd}:*"),
        row("variable: a level that does not exist", &["check"]).env("CRIEUR_LOG", "loud"),
        Row { more: "[log]\nlevel = \"loud\"", ..row("a level of the log that does not exist", &["run"]) },
        Row { more: "[log]\nformat = \"xml\"", ..row("a format of the log that does not exist", &["run"]) },
        row("teardown with nobody at a terminal", &["teardown"]),
        Row {
            postgres: "url = \"postgres://plain@127.0.0.1:{pg:port}/postgres\"",
            ..row("teardown by a role that owns nothing", &["teardown", "--yes"])
        },
        row("teardown printed and run at once", &["teardown", "--print", "--yes"]),
        Row { postgres: "", ..row("variable: blank", &["check"]) }.env("DATABASE_URL", ""),
        Row { cache: "", ..row("variable: in quotation marks", &["check"]) }.env("REDIS_URL", "\"redis://:hunter2@h\""),
        Row { cache: "", ..row("variable: not expanded", &["check"]) }
            .env("REDIS_URL", "redis://:hunter2@${HOST}:6379"),
        Row { postgres: "", ..row("variable: the cache's address for the database", &["check"]) }
            .env("DATABASE_URL", "{cache}"),
        Row { cache: "", ..row("variable: the database's address for the cache", &["check"]) }.env("REDIS_URL", "{pg}"),
        Row { cache: "", ..row("variable: a port where nobody listens", &["check"]) }
            .env("REDIS_URL", "redis://127.0.0.1:{dead:port}"),
        Row { postgres: "", ..row("variable: a database where nobody listens", &["check"]) }
            .env("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:{dead:port}/d"),
    ]
}

fn in_addresses() -> Vec<Row> {
    vec![
        cache("address: a REST interface", "url = \"https://eu1-one.upstash.io\""),
        cache("address: no scheme", "url = \"127.0.0.1:{cache:port}\""),
        cache("address: # in the password", "url = \"redis://:hunter2#x@127.0.0.1:{cache:port}\""),
        cache("address: / in the password", "url = \"redis://:hunter2/x@127.0.0.1:{cache:port}\""),
        cache("address: IPv6 without brackets", "url = \"redis://:hunter2@::1:{cache:port}\""),
        cache("address: a port that is none", "url = \"redis://127.0.0.1:99999\""),
        cache("address: a database by name", "url = \"{cache}/main\""),
        cache("address: what servers listen on", "url = \"redis://0.0.0.0:{cache:port}\""),
        cache("address: Sentinels", "url = \"redis-sentinel://127.0.0.1:26379/mymaster\""),
        cache("address: certificates unchecked", "url = \"rediss://127.0.0.1:{tls:port}#insecure\""),
        cache("address: an authority without TLS", "url = \"{cache}\"\ntls_ca = \"{ca}\""),
        cache(
            "address: an authority that is not there",
            "url = \"rediss://localhost:{tls:port}\"\ntls_ca = \"/nowhere/ca.pem\"",
        ),
        cache("address: a key as the authority", "url = \"rediss://localhost:{tls:port}\"\ntls_ca = \"{key}\""),
        cache(
            "address: a certificate without its key",
            "url = \"rediss://localhost:{mutual:port}\"\ntls_cert = \"{certificate}\"",
        ),
        cache(
            "address: a certificate with another's key",
            "url = \"rediss://localhost:{mutual:port}\"\ntls_ca = \"{ca}\"\ntls_cert = \"{certificate}\"\ntls_key = \"{other key}\"",
        ),
        postgres("address: a web address", "url = \"https://abcdefgh.supabase.co\""),
        postgres("address: verify_full", "url = \"{pg}?sslmode=verify_full\""),
        postgres("address: a parameter that does not exist", "url = \"{pg}?ssl_mode=require\""),
        postgres("address: / in the password of the database", "url = \"postgres://u:hunter2/x@127.0.0.1/d\""),
        postgres("address: @ in the password of the database", "url = \"postgres://u:hunter2@x@127.0.0.1/d\""),
        postgres("address: IPv6 without brackets for the database", "url = \"postgres://u:hunter2@::1:5432/d\""),
        postgres(
            "address: a password not filled in",
            "url = \"postgresql://postgres:[YOUR-PASSWORD]@db.abcdefgh.supabase.co:5432/postgres\"",
        ),
        postgres("address: a driver's name", "url = \"postgresql+asyncpg://u:hunter2@127.0.0.1/d\""),
        postgres(
            "address: an authority of the database that is not there",
            "url = \"{pg}?sslmode=verify-full&sslrootcert=/nowhere/ca.pem\"",
        ),
        postgres("address: one of two replicas", "url = \"{pg}\"\nreplicas = [\"{pg}\", \"https://x\"]"),
    ]
}

fn at_the_cache() -> Vec<Row> {
    let tls = "url = \"rediss://localhost:{tls:port}\"";
    vec![
        cache("cache: nobody listens", "url = \"redis://:hunter2@127.0.0.1:{dead:port}\""),
        cache("cache: a name that does not exist", "url = \"redis://cache.invalid\""),
        cache("cache: a socket that is not there", "url = \"unix:///nowhere/redis.sock\""),
        cache("cache: redis:// to a TLS port", "url = \"redis://localhost:{tls:port}\""),
        cache(
            "cache: rediss:// to a plain port",
            "url = \"rediss://127.0.0.1:{cache:port}\"\ntls_ca = \"{ca}\"\ntimeout = \"1s\"",
        ),
        cache(
            "cache: a server that wants a certificate",
            "url = \"rediss://localhost:{mutual:port}\"\ntls_ca = \"{ca}\"",
        ),
        cache(
            "cache: a certificate of a stranger",
            "url = \"rediss://localhost:{mutual:port}\"\ntls_ca = \"{ca}\"\ntls_cert = \"{other certificate}\"\ntls_key = \"{other key}\"",
        ),
        cache("cache: an authority of the system", tls),
        cache("cache: another authority", "url = \"rediss://localhost:{tls:port}\"\ntls_ca = \"{other ca}\""),
        cache(
            "cache: another name than in the certificate",
            "url = \"rediss://127.0.0.1:{tls:port}\"\ntls_ca = \"{ca}\"",
        ),
        cache("cache: PostgreSQL's port", "url = \"redis://127.0.0.1:{pg:port}\""),
        cache("cache: PostgreSQL's port with TLS", "url = \"rediss://localhost:{pg:port}\""),
        cache("cache: a web server's port", "url = \"redis://127.0.0.1:{web:port}\""),
        cache("cache: a server that closes without a word", "url = \"redis://127.0.0.1:{closing:port}\""),
        cache("cache: no password", "url = \"redis://127.0.0.1:{locked:port}\""),
        cache("cache: a wrong password", "url = \"redis://:hunter2@127.0.0.1:{locked:port}\""),
        cache("cache: a password that it does not ask for", "url = \"redis://:hunter2@127.0.0.1:{cache:port}\""),
        cache("cache: a user that does not exist", "url = \"redis://nobody:hunter2@127.0.0.1:{cache:port}\""),
        cache("cache: a database that it does not have", "url = \"{cache}/99\""),
        cache("cache: maxclients", "url = \"redis://127.0.0.1:{full:port}\""),
        cache("cache: a replica", "url = \"redis://127.0.0.1:{replica:port}\""),
        cache("cache: a cluster node", "url = \"redis://127.0.0.1:{cluster:port}\""),
        cache("cache: a user without SET", "url = \"redis://no-set:right@127.0.0.1:{cache:port}\""),
        cache("cache: a user without EVAL", "url = \"redis://no-eval:right@127.0.0.1:{cache:port}\""),
        cache("cache: a user without UNLINK", "url = \"redis://no-unlink:right@127.0.0.1:{cache:port}\""),
        cache("cache: a user without SCAN", "url = \"redis://no-scan:right@127.0.0.1:{cache:port}\""),
        daemon(cache("daemon: nobody listens at the cache", "url = \"redis://:hunter2@127.0.0.1:{dead:port}\"")),
        daemon(cache("daemon: maxclients", "url = \"redis://127.0.0.1:{full:port}\"")),
        daemon(cache("daemon: a replica", "url = \"redis://127.0.0.1:{replica:port}\"")),
        daemon(cache("daemon: no password", "url = \"redis://127.0.0.1:{locked:port}\"")),
        Row {
            cache: "url = \"redis://127.0.0.1:{locked:port}\"",
            ..row("cache: no password for coverage", &["coverage"])
        },
    ]
}

fn at_the_database() -> Vec<Row> {
    vec![
        postgres("database: a name that does not exist", "url = \"postgres://u:hunter2@db.invalid/d\""),
        postgres("database: a socket that is not there", "url = \"host=/nowhere user=u dbname=d\""),
        postgres(
            "database: the cache's port",
            "url = \"postgres://u:hunter2@127.0.0.1:{cache:port}/d\"\nconnect_timeout = \"1s\"",
        ),
        postgres(
            "database: the port of a cache with TLS",
            "url = \"postgres://u:hunter2@127.0.0.1:{tls:port}/d\"\nconnect_timeout = \"1s\"",
        ),
        postgres(
            "database: a web server's port",
            "url = \"postgres://u:hunter2@127.0.0.1:{web:port}/d\"\nconnect_timeout = \"1s\"",
        ),
        postgres(
            "database: a database that does not exist",
            "url = \"postgres://postgres@127.0.0.1:{pg:port}/nowhere\"",
        ),
        postgres("database: a role that does not exist", "url = \"postgres://stranger@127.0.0.1:{pg:port}/postgres\""),
        postgres("database: a wrong password", "url = \"postgres://locked:hunter2@127.0.0.1:{pg:port}/postgres\""),
        postgres("database: no password", "url = \"postgres://locked@127.0.0.1:{pg:port}/postgres\""),
        postgres("database: refused by pg_hba.conf", "url = \"postgres://nobody@127.0.0.1:{pg:port}/postgres\""),
        postgres(
            "database: TLS that it does not offer",
            "url = \"postgres://postgres@127.0.0.1:{plain:port}/postgres?sslmode=require\"",
        ),
        postgres(
            "database: another authority",
            "url = \"postgres://postgres@localhost:{pg:port}/postgres?sslmode=verify-full&sslrootcert={other ca}\"",
        ),
        postgres(
            "database: another name than in the certificate",
            "url = \"{pg}?sslmode=verify-full&sslrootcert={ca}\"",
        ),
        postgres("database: a publication that does not exist", "url = \"{pg}\"\npublication = \"news\""),
        postgres("database: a role that may not replicate", "url = \"postgres://plain@127.0.0.1:{pg:port}/postgres\""),
        postgres("database: a role that may not read", "url = \"postgres://blind@127.0.0.1:{pg:port}/postgres\""),
        postgres("database: wal_level", "url = \"postgres://postgres@127.0.0.1:{plain:port}/postgres\""),
        postgres("database: outbox mode without its tables", "url = \"{pg}\"\nmode = \"outbox\""),
        daemon(postgres("daemon: a publication that does not exist", "url = \"{pg}\"\npublication = \"news\"")),
        daemon(postgres(
            "daemon: a wrong password",
            "url = \"postgres://locked:hunter2@127.0.0.1:{pg:port}/postgres\"",
        )),
        daemon(postgres(
            "daemon: a role that may not replicate",
            "url = \"postgres://plain@127.0.0.1:{pg:port}/postgres\"",
        )),
        daemon(postgres(
            "daemon: the cache's port",
            "url = \"postgres://u:hunter2@127.0.0.1:{cache:port}/d\"\nconnect_timeout = \"1s\"",
        )),
        Row {
            postgres: "url = \"postgres://plain@127.0.0.1:{pg:port}/postgres\"",
            ..row("database: setup by a role that may not", &["setup"])
        },
    ]
}

fn in_rules() -> Vec<Row> {
    vec![
        rules("rule: a table that does not exist", "[[rules]]\ntable = \"public.propertys\"\nkeys = [\"a:{id}\"]"),
        rules("rule: a column that does not exist", rule!("keys = [\"a:{citty}\"]")),
        rules("rule: no keys", rule!("")),
        rules("rule: no table", "[[rules]]\nkeys = [\"a:{id}\"]"),
        rules("rule: a word that does not exist", rule!("keyz = [\"a:{id}\"]")),
        rules("rule: a page whose host is a value", rule!("keys = [\"a:{id}\"]\nwarm = \"https://{host}/a/{id}\"")),
        rules("rule: a page of another machine without TLS", rule!("keys = [\"a:{id}\"]\nwarm = \"http://a.sn/{id}\"")),
        rules("rule: a key that is all value", rule!("keys = [\"{id}\"]")),
        rules("rule: a brace that does not close", rule!("keys = [\"a:{id\"]")),
        rules("rule: as the application writes keys", rule!("keys = [\"a:${id}\"]")),
        rules("rule: a filter that does not exist", rule!("keys = [\"a:{id|upper}\"]")),
        rules("rule: a condition that is SQL", rule!("keys = [\"a:{id}\"]\nwhen = \"lower(city) = 'dakar'\"")),
        rules("rule: a condition with ==", rule!("keys = [\"a:{id}\"]\nwhen = \"id == 1\"")),
        rules("rule: a value without quotes", rule!("keys = [\"a:{id}\"]\nwhen = \"city = Dakar\"")),
        rules("rule: a lookup that is not declared", rule!("keys = [\"a:{owner.id}\"]")),
        rules(
            "rule: a lookup without arguments",
            rule!("keys = [\"a:{owner.id}\"]\nlookup.owner = { sql = \"SELECT id FROM leases WHERE id = $1\" }"),
        ),
        rules(
            "rule: a lookup that writes",
            rule!(
                "keys = [\"a:{gone.id}\"]\nlookup.gone = { sql = \"DELETE FROM leases WHERE id = $1 RETURNING id\", args = [\"id\"] }"
            ),
        ),
        rules(
            "rule: a lookup of a table that does not exist",
            rule!(
                "keys = [\"a:{owner.id}\"]\nlookup.owner = { sql = \"SELECT id FROM tenants WHERE id = $1\", args = [\"id\"] }"
            ),
        ),
        rules("rule: a protected key", rule!("keys = [\"lock:{id}\"]")),
        rules("rule: a list for a text", "[[rules]]\ntable = [\"public.properties\"]\nkeys = [\"a:{id}\"]"),
        rules("rule: one table in brackets", "[rules]\ntable = \"public.properties\"\nkeys = [\"a:{id}\"]"),
    ]
}

fn of_commands() -> Vec<Row> {
    vec![
        row("command line: none", &[]),
        row("command line: one that does not exist", &["health"]),
        row("command line: an option that does not exist", &["run", "--verbose"]),
        row("command line: a file without a name", &["check", "--config"]),
        row(
            "explain: a table that no rule names",
            &["explain", "--table", "public.nowhere", "--op", "insert", "--new", "{\"id\": 1}"],
        ),
        row("explain: no JSON", &["explain", "--table", "public.properties", "--op", "insert", "--new", "{id: 1}"]),
        row(
            "explain: an operation that does not exist",
            &["explain", "--table", "public.properties", "--op", "upsert", "--new", "{\"id\": 1}"],
        ),
        row("tail: no daemon", &["tail", "--socket", "{folder}/control.sock"]),
        row("tail: an operation that does not exist", &["tail", "--operation", "drop"]),
        row("sweep: no terminal and nobody agreed", &["sweep", "visits:{id}"]),
        row("sweep: no daemon", &["sweep", "visits:{id}", "--yes", "--socket", "{folder}/control.sock"]),
        row("sweep: what no rule owns", &["sweep", "session:*", "--dry-run"]),
        row("sweep: what is protected", &["sweep", "lock:*", "--dry-run"]),
        row("sweep: a cache that does not exist", &["sweep", "visits:{id}", "--dry-run", "--cache", "dakkar"]),
        row("ttl: a cache that does not exist", &["ttl", "--cache", "dakkar"]),
        Row {
            more: "[ttl]\n\"visits:{id}\" = \"soon\"\n\"\" = \"1h\"",
            ..row("ttl: what is no duration, and a line that names nothing", &["ttl"])
        },
        daemon(Row {
            more: "[control]\nsocket = \"{folder}/nowhere/control.sock\"",
            ..row("a control socket in a folder that is not there", &["check"])
        }),
        daemon(Row {
            more: "[control]\nsocket = \"{folder}\"",
            ..row("a control socket where a folder is", &["check"])
        }),
        row("replay: a file that is not there", &["replay", "nowhere.rec"]),
        row("replay: no recording", &["replay", "crieur.toml"]),
        row("record: into a folder that is not there", &["record", "--out", "/nowhere/x.rec"]),
        row("verify: none", &["verify"]),
        Row {
            more: "[[verify]]\nkeys = \"p:{id}\"\nsql = \"SELECT id FROM properties WHERE id = $1\"\ncompare = \"hash\"",
            ..row("verify: a comparison that does not exist", &["verify"])
        },
        Row {
            more: "[[verify]]\nkeys = \"p:{id}\"\nsql = \"SELECT id FROM properties WHERE id = $1 OR id = $2\"\n",
            ..row("verify: more parameters than values", &["verify"])
        },
        Row {
            more: "[[verify]]\nkeys = \"{id}\"\nsql = \"SELECT id FROM properties WHERE id = $1\"\n",
            ..row("verify: keys that begin with a value", &["verify"])
        },
        Row {
            more: "[[verify]]\nkeys = \"p:{id}\"\nsql = \"DELETE FROM properties WHERE id = $1\"\n",
            ..row("verify: a statement that writes", &["verify"])
        },
        Row { more: "[verify]\nper_minute = 5", ..row("verify: the rate in a table", &["verify"]) },
        Row {
            more: "[[verify]]\nkeys = \"p:{id}\"\nsql = \"SELECT nothing FROM properties WHERE id = $1\"\n",
            ..row("verify: a column that does not exist", &["verify"])
        },
        row("init: the file exists", &["init"]),
    ]
}

/// What systemd gives a service, and the socket in it.
fn in_units_and_sockets() -> Vec<Row> {
    let socket = |name, more| Row { more, waits: true, ..row(name, &["run"]) };
    vec![
        row("unit: credentials in a folder that is not there", &["check"]).env("CREDENTIALS_DIRECTORY", "/nowhere"),
        Row { postgres: "", ..row("unit: a credential that is empty", &["check"]) }
            .with("database_url", "\n")
            .env("CREDENTIALS_DIRECTORY", "{folder}"),
        Row { postgres: "", ..row("unit: a credential under the name of the variable and in lower case", &["check"]) }
            .with("DATABASE_URL", "{pg}")
            .with("database_url", "{pg}")
            .env("CREDENTIALS_DIRECTORY", "{folder}"),
        socket("unit: a folder of the unit that is not there", "").env("RUNTIME_DIRECTORY", "{folder}/nowhere"),
        socket("socket: a text is there", "[control]\nsocket = \"{folder}/crieur.toml\""),
        socket("socket: another process answers there", "[control]\nsocket = \"{socket}\""),
        socket(
            "socket: a path longer than the kernel takes",
            "[control]\nsocket = \"/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sock\"",
        ),
        Row { more: "[control]\nsocket = 5", ..row("socket: a number for a path", &["check"]) },
        Row { more: "[control]\npath = \"/tmp/s\"", ..row("socket: a key that does not exist", &["check"]) },
    ]
}

fn at_the_page() -> Vec<Row> {
    let page = |name, more| Row { more, ..row(name, &["check"]) };
    vec![
        page("page: a text for a list of names", "[admin]\nhosts = \"crieur.example\""),
        page("page: an address with its scheme as a name", "[admin]\nhosts = [\"http://crieur.example\"]"),
        page("page: a word for yes or no", "[admin]\nchanges = \"no\""),
        page("page: a port alone", "[admin]\nlisten = \"9186\""),
        Row {
            more: "[admin]\nlisten = \"198.51.100.1:9186\"",
            waits: true,
            ..row("page: an address of another machine", &["run"])
        },
    ]
}

/// Before there is a configuration, and behind the last one.
fn at_first() -> Vec<Row> {
    let init = |name, args: &[&'static str]| {
        let args = [&["init", "--config", "new.toml"], args].concat();
        Row { args, ..row(name, &[]) }
    };
    vec![
        init("init: no address of the database", &[]),
        init("init: no address of the cache", &["--database", "{pg}"]),
        init("init: the two addresses exchanged", &["--database", "{cache}", "--cache", "{pg}"]),
        init(
            "init: a database where nobody listens",
            &["--database", "postgres://u@127.0.0.1:{dead:port}/d", "--cache", "{cache}"],
        ),
        init(
            "init: another authority",
            &[
                "--database",
                "postgres://postgres@localhost:{pg:port}/postgres?sslmode=verify-full&sslrootcert={other ca}",
                "--cache",
                "{cache}",
            ],
        ),
        init(
            "init: a table that does not exist",
            &["--database", "{pg}", "--cache", "{cache}", "--table", "propertys"],
        ),
        init("init: a mode that does not exist", &["--database", "{pg}", "--cache", "{cache}", "--mode", "trigger"]),
        Row {
            args: vec!["init", "--config", "nowhere/new.toml", "--database", "{pg}", "--cache", "{cache}"],
            ..row("init: into a folder that is not there", &[])
        },
        row("command line: completions for no shell", &["completions"]),
        row("command line: completions for a shell that is not known", &["completions", "powershell"]),
        row("command line: teardown that does not name its configuration", &["teardown", "--yes"]),
        Row {
            postgres: "url = \"postgres://postgres@127.0.0.1:{dead:port}/postgres\"",
            ..row("teardown of a database where nobody listens", &["teardown", "--yes"])
        },
        Row {
            postgres: "url = \"{pg}\"\nslot = \"another\"\npublication = \"another\"",
            ..row("teardown of what was never made", &["teardown", "--yes"])
        },
    ]
}

fn of_the_live_commands() -> Vec<Row> {
    vec![
        row("status: a position that is none", &["status", "--wait", "soon"]),
        row("status: a time without a unit", &["status", "--wait", "now", "--timeout", "5"]),
        Row {
            cache: "url = \"redis://127.0.0.1:{dead:port}\"",
            ..row("status: nobody listens at the cache", &["status"])
        },
        row("tail: a socket that is a text", &["tail", "--socket", "crieur.toml"]),
        row("tail: a glob that does not end", &["tail", "--key", "visits:[1", "--socket", "{folder}/control.sock"]),
        row("sweep: nothing named", &["sweep"]),
        row("sweep: everything", &["sweep", "*", "--dry-run"]),
        Row {
            cache: "url = \"redis://no-scan:right@127.0.0.1:{cache:port}\"",
            ..row("sweep: a user without SCAN", &["sweep", "visits:{id}", "--dry-run"])
        },
        Row {
            cache: "url = \"redis://no-scan:right@127.0.0.1:{cache:port}\"",
            ..row("ttl: a user without SCAN", &["ttl"])
        },
        Row { more: "[ttl]\n\"visits:{id}\" = 300", ..row("ttl: a number for a duration", &["ttl"]) },
        Row {
            more: "[[verify]]\nkeys = \"visits:{id}\"\nsql = \"SELECT id FROM visits WHERE id = $1\"\n",
            cache: "url = \"redis://127.0.0.1:{dead:port}\"",
            ..row("verify: nobody listens at the cache", &["verify"])
        },
        Row {
            more: "[[verify]]\nkeys = \"visits:{id}\"\nsql = \"SELECT id FROM visits WHERE id = $1\"\n",
            ..row("verify: a time without a unit", &["verify", "--timeout", "60"])
        },
    ]
}
