//! The servers that the mistakes are made on, and one mistake made: the command, what it says, how it ends.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::super::harness::postgres::{self, Postgres};
use super::super::harness::process::{self, Process, Signal};
use super::super::harness::redis::{Redis, Server};
use super::super::harness::tls::Authority;
use super::super::harness::wait;
use super::super::scene::{KEYS, RULES, Scene};
use super::rows::Row;

/// Everything that a row may point at.
pub struct Stage {
    scene: Scene,
    tls: Redis,
    mutual: Redis,
    full: Redis,
    locked: Redis,
    replica: Redis,
    cluster: Redis,
    /// Connections that fill `full`.
    _crowd: Vec<std::net::TcpStream>,
    authority: Authority,
    stranger: Authority,
    own: Authority,
    web: u16,
    closing: u16,
    /// A unix socket at which somebody listens.
    socket: (tempfile::TempDir, std::os::unix::net::UnixListener),
    plain: Postgres,
    dead: u16,
}

/// What `check` would have something to say about otherwise.
const BOUNDED: &[&str] = &["maxmemory 100mb", "maxmemory-policy allkeys-lru"];

const HBA: &[&str] = &["host all,replication locked 127.0.0.1/32 scram-sha-256", "host all nobody 127.0.0.1/32 reject"];

const ROLES: &str = "
CREATE ROLE locked LOGIN REPLICATION PASSWORD 'right';
CREATE ROLE plain LOGIN;
CREATE ROLE nobody LOGIN;
CREATE ROLE blind LOGIN REPLICATION;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO locked, plain;
";

const ACL: &[(&str, &[&str])] = &[
    ("no-set", &["+unlink", "+scan", "+get", "+eval", "+info", "+ping"]),
    ("no-eval", &["+unlink", "+scan", "+get", "+set", "+info", "+ping"]),
    ("no-unlink", &["+scan", "+get", "+set", "+eval", "+info", "+ping"]),
    ("no-scan", &["+unlink", "+get", "+set", "+eval", "+info", "+ping"]),
];

impl Stage {
    pub async fn set() -> Stage {
        let (authority, stranger, own) = (Authority::new(), Authority::new(), Authority::new());
        let server = authority.issue("localhost");
        let conf = vec![
            "ssl = on".to_owned(),
            "max_slot_wal_keep_size = '10GB'".to_owned(),
            format!("ssl_cert_file = '{}'", server.certificate.display()),
            format!("ssl_key_file = '{}'", server.key.display()),
        ];
        let hba = HBA.iter().map(|line| line.to_string()).collect();
        let scene = Scene::with(postgres::Options { conf, hba, ..Default::default() }, BOUNDED).await;
        scene.run(ROLES).await;
        own.issue("other");
        scene.fill();
        for (user, commands) in ACL {
            let words = ["ACL", "SETUSER", user, "on", ">right", "resetkeys", "~*", "-@all"];
            let words: Vec<&str> = words.iter().chain(commands.iter()).copied().collect();
            let _: () = scene.cache.ask(&words);
        }
        let tls = |clients: &str| {
            let lines = [
                BOUNDED.join("\n"),
                format!("tls-port {}", process::free_port()),
                format!("tls-cert-file {}", server.certificate.display()),
                format!("tls-key-file {}", server.key.display()),
                format!("tls-ca-cert-file {}", authority.certificate().display()),
                format!("tls-auth-clients {clients}"),
            ];
            Redis::start(&Server::System, &lines.each_ref().map(String::as_str))
        };
        let full = Redis::start(&Server::System, &["maxclients 10"]);
        let crowd = std::iter::from_fn(|| std::net::TcpStream::connect(("127.0.0.1", full.port())).ok()).take(10);
        let crowd: Vec<_> = crowd.collect();
        let upstream = format!("replicaof 127.0.0.1 {}", scene.cache.port());
        Stage {
            tls: tls("no"),
            mutual: tls("yes"),
            locked: Redis::start(&Server::System, &[BOUNDED[0], BOUNDED[1], "requirepass right"]),
            replica: Redis::start(&Server::System, &[BOUNDED[0], BOUNDED[1], &upstream]),
            cluster: Redis::start(&Server::System, &[BOUNDED[0], BOUNDED[1], "cluster-enabled yes"]),
            full,
            _crowd: crowd,
            plain: Postgres::start(postgres::Options {
                conf: vec!["wal_level = replica".to_owned()],
                ..Default::default()
            }),
            web: answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            closing: answering(b""),
            socket: listening(),
            dead: process::free_port(),
            scene,
            authority,
            stranger,
            own,
        }
    }

    /// What no mistake may change: what the database holds for us, and the cache's keys.
    pub async fn state(&self) -> String {
        let database = "SELECT json_build_object(
            'publications', (SELECT json_agg(p ORDER BY pubname) FROM pg_publication p),
            'tables', (SELECT json_agg(t ORDER BY tablename) FROM pg_publication_tables t),
            'slots', (SELECT json_agg(json_build_array(slot_name, restart_lsn) ORDER BY slot_name)
                      FROM pg_replication_slots),
            'identities', (SELECT json_agg(json_build_array(relname, relreplident) ORDER BY relname)
                           FROM pg_class WHERE relnamespace = 'public'::regnamespace),
            'schemas', (SELECT json_agg(nspname ORDER BY nspname) FROM pg_namespace WHERE nspname !~ '^pg_'),
            'triggers', (SELECT json_agg(evtname ORDER BY evtname) FROM pg_event_trigger))::text";
        let held = self.scene.ask(database).await;
        let mut keys: Vec<String> = self.scene.cache.ask(&["KEYS", "*"]);
        keys.sort();
        assert_eq!(
            keys.iter().filter(|key| KEYS.contains(&key.as_str())).count(),
            KEYS.len(),
            "a key is gone: {keys:?}"
        );
        format!("{held}\n{keys:?}")
    }

    /// What a name in braces stands for.
    fn names(&self, folder: &Path) -> Vec<(&'static str, String)> {
        let postgres = |port: u16| format!("postgres://postgres@127.0.0.1:{port}/postgres");
        vec![
            ("{folder}", folder.display().to_string()),
            ("{pg}", postgres(self.scene.postgres.port())),
            ("{pg:port}", self.scene.postgres.port().to_string()),
            ("{plain:port}", self.plain.port().to_string()),
            ("{cache}", self.scene.cache.url()),
            ("{cache:port}", self.scene.cache.port().to_string()),
            ("{tls:port}", tls_port(&self.tls).to_string()),
            ("{mutual:port}", tls_port(&self.mutual).to_string()),
            ("{full:port}", self.full.port().to_string()),
            ("{locked:port}", self.locked.port().to_string()),
            ("{replica:port}", self.replica.port().to_string()),
            ("{cluster:port}", self.cluster.port().to_string()),
            ("{web:port}", self.web.to_string()),
            ("{closing:port}", self.closing.to_string()),
            ("{dead:port}", self.dead.to_string()),
            ("{socket}", self.socket.0.path().join("s").display().to_string()),
            ("{ca}", self.authority.certificate().display().to_string()),
            ("{other ca}", self.stranger.certificate().display().to_string()),
            ("{certificate}", self.authority.certificate().with_file_name("localhost.crt").display().to_string()),
            ("{key}", self.authority.certificate().with_file_name("localhost.key").display().to_string()),
            ("{other key}", self.own.certificate().with_file_name("other.key").display().to_string()),
            ("{other certificate}", self.own.certificate().with_file_name("other.crt").display().to_string()),
        ]
    }

    /// Makes the mistake, and says what came of it.
    pub fn try_row(&self, row: &Row) -> String {
        let folder = tempfile::Builder::new().prefix("crieur-mistake-").tempdir().expect("it is writable");
        let names = self.names(folder.path());
        let fill = |text: &str| names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
        fs::write(folder.path().join("crieur.toml"), fill(&row.file(RULES))).expect("the folder is ours");
        for (name, text) in &row.files {
            fs::write(folder.path().join(name), fill(text)).expect("the folder is ours");
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
        let args: Vec<String> = row.args.iter().map(|arg| fill(arg)).collect();
        command.args(&args).current_dir(folder.path()).env_clear();
        command.env("LANG", "C.UTF-8");
        for (name, value) in &row.env {
            // U+FFFD stands for a byte that is no UTF-8.
            let bytes = fill(value).into_bytes();
            let bytes = String::from_utf8(bytes).expect("a text").replace('\u{fffd}', "\u{1}").into_bytes();
            let bytes = bytes.into_iter().map(|byte| if byte == 1 { 0xe9 } else { byte }).collect();
            command.env(name, std::ffi::OsString::from_vec(bytes));
        }
        let before = files(folder.path());
        let (end, said) = if row.waits { self.wait(&mut command, folder.path()) } else { ended(&mut command) };
        let left: Vec<String> = files(folder.path()).difference(&before).cloned().collect();
        assert!(left.is_empty(), "{}: the mistake left {left:?}", row.name);
        let mut shown = format!("# {}\n$ crieur {}\n{said}\n{end}\n", row.name, row.args.join(" "));
        // The longest first: a folder may hold a port's digits.
        let mut names = names;
        names.sort_by_key(|(name, value)| std::cmp::Reverse((value.len(), *name)));
        for (name, value) in &names {
            shown = shown.replace(value, name);
        }
        shown
    }

    /// Starts the daemon, waits until it complains, and stops it.
    fn wait(&self, command: &mut Command, folder: &Path) -> (String, String) {
        let path = folder.join("log");
        let log = fs::File::create(&path).expect("the folder is ours");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut process = Process::start(command, folder);
        let read = || fs::read_to_string(&path).unwrap_or_default();
        let complains = || complaints(&read()).first().cloned();
        wait::poll(Duration::from_secs(30), || match process.ended() {
            Some(_) => Some(()),
            None => complains().map(drop),
        });
        let stops = complains().is_some_and(|said| said.starts_with("ERROR stopped"));
        let went_on = !stops && process.ended().is_none();
        if went_on {
            process.signal(Signal::Term);
        }
        let status = process.wait(Duration::from_secs(30)).and_then(|status| status.code());
        let code = status.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
        let said = complaints(&read());
        let how = if went_on { "it goes on; stopped, it exits with" } else { "it exits with" };
        (format!("[{how} {code}]"), said.first().cloned().unwrap_or_else(read))
    }
}

fn tls_port(server: &Redis) -> u16 {
    let port: Vec<String> = server.ask(&["CONFIG", "GET", "tls-port"]);
    port[1].parse().expect("a port")
}

/// The names in a folder; the log is the test's own.
fn files(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("the folder is ours");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "log").collect()
}

/// Somebody else's socket: what connects waits in its queue.
fn listening() -> (tempfile::TempDir, std::os::unix::net::UnixListener) {
    let folder = tempfile::tempdir().expect("it is writable");
    let listener = std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("the folder is ours");
    (folder, listener)
}

/// A server that answers every connection with the same bytes, once something was received, and closes it.
fn answering(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 512]).and_then(|_| stream.write_all(bytes)); // A peer that went needs no answer.
        }
    });
    port
}

/// Runs the command to its end: what it said, without what is right.
fn ended(command: &mut Command) -> (String, String) {
    let out = command.stdin(Stdio::null()).output().expect("cargo built the program");
    let code = out.status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    let (mut lines, mut is_shown) = (Vec::new(), true);
    for line in text.lines() {
        // A finding that is right, and what is printed below it.
        // And that another row's daemon is at work.
        let is_right = line.starts_with("ok ") || line.contains("in use by the WAL sender");
        is_shown = if line.starts_with(' ') { is_shown } else { !is_right };
        if is_shown && !line.contains(" ok, ") {
            lines.push(line.trim_end().to_owned());
        }
    }
    (format!("[it exits with {code}]"), lines.join("\n"))
}

/// Warnings and errors of a log, without the time and without what is another each time.
fn complaints(log: &str) -> Vec<String> {
    let whole = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let lines = whole.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR "));
    lines
        .map(|line| {
            let text = line.split_once("Z ").map_or(line, |(_, text)| text).trim();
            text.split(" again_in=").next().unwrap_or_default().to_owned()
        })
        .collect()
}
