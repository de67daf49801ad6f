//! The documentation, typed as its readers type it: every marked block of a page runs on real servers, page by page.
//!
//! The marks stand behind the language of a block, where a forge does not show them:
//!
//! - `file=NAME`: the block is this file. `add=NAME`: it is added to this file. `rules`: the block is rules that can be
//!   read.
//! - `run` (and `exit=N`): the block is typed. `until`: it is typed until it prints what the next block shows.
//! - `output`: lines that the block before prints, in this order; `…` stands for anything.
//! - `daemon`: it is typed, and goes on. `log`: lines that its log holds. `reload`: SIGHUP. `stop`: it ends.
//! - `test=FILE`: another test runs the block. `shown`: nobody can run it here.
//!
//! `<!-- given` and lines of SQL up to `-->` make what a page takes for granted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crieur::error::Exit;
use tempfile::TempDir;

use super::harness::postgres::{Options, Postgres};
use super::harness::process::{Process, Signal};
use super::harness::redis::{Redis, Server};
use super::harness::wait::{self, PATIENCE};

/// A block between fences, or a `given`.
struct Block {
    language: String,
    marks: Vec<String>,
    text: String,
    line: usize,
}

impl Block {
    fn is(&self, mark: &str) -> bool {
        self.marks.iter().any(|other| other == mark)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.marks.iter().find_map(|mark| mark.strip_prefix(name)?.strip_prefix('='))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut found, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in page.lines().enumerate() {
        let begins = line
            .trim_start()
            .strip_prefix("```")
            .or_else(|| line.strip_prefix("<!-- ").filter(|rest| *rest == "given"));
        let ends = |block: &Block| line.trim() == if block.language == "given" { "-->" } else { "```" };
        match (&mut open, begins) {
            (None, Some(info)) => {
                let mut words = info.split_whitespace().map(str::to_owned);
                let language = words.next().unwrap_or_default();
                open = Some(Block { language, marks: words.collect(), text: String::new(), line: number + 1 });
            }
            (Some(block), _) if ends(block) => found.extend(open.take()),
            (Some(block), _) => block.text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    found
}

/// Whether each line is printed, in this order.
fn lacks(printed: &str, expected: &str) -> Option<String> {
    let mut lines = printed.lines();
    let missing = expected.lines().find(|wanted| {
        let parts: Vec<&str> = wanted.split('…').map(str::trim_end).collect();
        let fits = |line: &str| {
            let mut rest = line;
            parts.iter().all(|part| match rest.find(part) {
                Some(at) => {
                    rest = &rest[at + part.len()..];
                    true
                }
                None => false,
            })
        };
        !lines.any(fits)
    });
    missing.map(|line| format!("{line:?} is not in:\n{printed}"))
}

/// What a reader has: two servers, a folder, a terminal.
struct Reader {
    postgres: Postgres,
    cache: Redis,
    dir: TempDir,
    daemon: Option<Process>,
    /// What daemons said that have ended.
    said: String,
    page: &'static str,
}

impl Reader {
    async fn new(page: &'static str) -> Reader {
        let (postgres, cache) = (Postgres::start(Options::default()), Redis::start(&Server::System, &[]));
        let sql = postgres.client().await;
        sql.batch_execute("CREATE ROLE crieur LOGIN SUPERUSER; CREATE ROLE owner LOGIN SUPERUSER")
            .await
            .expect("valid SQL");
        sql.batch_execute("CREATE DATABASE app OWNER owner").await.expect("valid SQL");
        let dir =
            tempfile::Builder::new().prefix("crieur-docs-").tempdir().expect("the temporary directory is writable");
        fs::write(dir.path().join(".psqlrc"), "\\set ON_ERROR_STOP on\n").expect("the directory is ours");
        Reader { postgres, cache, dir, daemon: None, said: String::new(), page }
    }

    fn text(&self, block: &Block) -> String {
        let servers = [("127.0.0.1:5432", self.postgres.port()), ("127.0.0.1:6379", self.cache.port())];
        servers
            .iter()
            .fold(block.text.clone(), |text, (address, port)| text.replace(address, &format!("127.0.0.1:{port}")))
    }

    /// A shell that remembers what was exported.
    fn shell(&self, script: &str) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_crieur")).parent().expect("it stands in a folder");
        let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("there is a PATH"));
        let mut command = Command::new("bash");
        // The pages say that valkey-cli does as well.
        let state = "[ ! -f .exported ] || . ./.exported; trap 'export -p > .exported' EXIT; set -euo pipefail\n\
                     command -v redis-cli >/dev/null || redis-cli() { valkey-cli \"$@\"; }\n";
        command.arg("-c").arg(format!("{state}{script}")).current_dir(self.dir.path()).env_clear();
        command.env("PATH", path).env("HOME", self.dir.path()).env("LC_ALL", "C.UTF-8");
        command.env("DATABASE_URL", format!("postgres://owner@127.0.0.1:{}/app", self.postgres.port()));
        command.env("REDIS_URL", self.cache.url()).stdin(Stdio::null());
        command
    }

    /// What the block prints, and its exit code.
    fn typed(&self, block: &Block) -> (String, i32) {
        let text = self.text(block);
        let script = match block.language.as_str() {
            "sql" | "given" => format!("psql -q -v ON_ERROR_STOP=1 \"$DATABASE_URL\" <<'SQL'\n{text}SQL\n"),
            _ => text,
        };
        let out = self.shell(&script).output().expect("there is a bash");
        let printed = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (printed, out.status.code().expect("it ends by itself"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join(".log")).unwrap_or_default()
    }

    fn wait_for_log(&self, at: &str, text: &str) {
        let found = wait::poll(PATIENCE, || self.log().contains(text).then_some(()));
        assert!(found.is_some(), "{at}: the log does not say {text:?}:\n{}", self.log());
    }

    fn start(&mut self, at: &str, block: &Block) {
        self.said += &self.log();
        let log = fs::File::create(self.dir.path().join(".log")).expect("the directory is ours");
        let script = format!("exec {}", self.text(block).trim().trim_end_matches('&'));
        let mut command = self.shell(&script);
        command.stdout(Stdio::null()).stderr(log);
        self.daemon = Some(Process::start(&mut command, self.dir.path()));
        self.wait_for_log(at, " started");
        let marked = || self.cache.ask::<i64>(&["EXISTS", "crieur:mark:crieur"]) == 1;
        assert!(wait::poll(PATIENCE, || marked().then_some(())).is_some(), "{at}: no mark:\n{}", self.log());
    }

    fn stop(&mut self, at: &str) {
        let mut daemon = self.daemon.take().unwrap_or_else(|| panic!("{at}: no daemon runs"));
        daemon.signal(Signal::Term);
        let status = daemon.wait(PATIENCE).unwrap_or_else(|| panic!("{at}: the daemon does not end:\n{}", self.log()));
        assert!(status.success(), "{at}: {status}:\n{}", self.log());
    }

    /// Does what the blocks say, in their order; returns how many were run.
    fn read(&mut self, blocks: &[Block]) -> usize {
        let mut run = 0;
        let mut printed = String::new();
        for (number, block) in blocks.iter().enumerate() {
            let at = format!("{}:{}", self.page, block.line);
            if block.is("shown") || block.value("test").is_some() || block.language == "mermaid" {
                continue;
            }
            run += 1;
            if let Some(name) = block.value("file") {
                fs::write(self.dir.path().join(name), self.text(block)).expect("the directory is ours");
            } else if let Some(name) = block.value("add") {
                let path = self.dir.path().join(name);
                let text = fs::read_to_string(&path).expect("the page has written it") + &self.text(block);
                fs::write(&path, text).expect("the directory is ours");
            } else if block.is("reload") {
                let daemon = self.daemon.as_ref().unwrap_or_else(|| panic!("{at}: no daemon runs"));
                daemon.signal(Signal::Hup);
                self.wait_for_log(&at, "id=reload.taken");
            } else if block.is("rules") {
                let path = self.dir.path().join(".rules.toml");
                fs::write(&path, &block.text).expect("the directory is ours");
                crieur::config::rules_of_file(&path).unwrap_or_else(|mistakes| panic!("{at}: {mistakes}"));
            } else if block.is("until") {
                let expected = &blocks.get(number + 1).expect("it shows what is printed").text;
                let mut last = String::new();
                let found = wait::poll(PATIENCE, || {
                    last = self.typed(block).0;
                    lacks(&last, expected).is_none().then_some(())
                });
                assert!(found.is_some(), "{at}: it prints\n{last}\nthe log:\n{}", self.log());
                printed = last;
            } else if block.is("run") || block.language == "given" {
                let expected = block.value("exit").map_or(0, |code| code.parse().expect("a code"));
                let (text, code) = self.typed(block);
                assert_eq!(code, expected, "{at}: it prints\n{text}\nthe log:\n{}", self.log());
                printed = text;
            } else if block.is("output") {
                let complaint = lacks(&printed, &block.text);
                assert!(complaint.is_none(), "{at}: {}", complaint.unwrap_or_default());
            } else if block.is("daemon") {
                self.start(&at, block);
            } else if block.is("log") {
                block.text.lines().for_each(|line| self.wait_for_log(&at, line.trim()));
            } else if block.is("stop") {
                self.stop(&at);
            } else {
                run -= 1;
            }
        }
        run
    }
}

/// Runs a page. Warnings that the page does not quote are a fault of the page.
async fn page(path: &'static str) {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let blocks = blocks(&text);
    let mut reader = Reader::new(path).await;
    let run = reader.read(&blocks);
    assert!(run > 0, "{path}: nothing is marked");
    if reader.daemon.is_some() {
        reader.stop(path);
    }
    let quoted: Vec<&str> =
        blocks.iter().filter(|block| block.is("log")).flat_map(|block| block.text.lines()).collect();
    let log = format!("{}{}", reader.said, reader.log());
    let complaints = log.lines().filter(|line| line.contains(" WARN ") || line.contains("ERROR "));
    let unquoted: Vec<&str> =
        complaints.filter(|line| !quoted.iter().any(|quote| line.contains(quote.trim()))).collect();
    assert!(unquoted.is_empty(), "{path} does not quote:\n{}", unquoted.join("\n"));
}

macro_rules! pages {
    ($($name:ident = $path:literal;)*) => {
        $(#[tokio::test]
        async fn $name() {
            page($path).await;
        })*

        const PAGES: &[&str] = &[$($path),*];
    };
}

pages! {
    readme_in_french = "README.fr.md";
    readme = "README.md";
    conditions_in_french = "docs/guide/conditions.fr.md";
    conditions = "docs/guide/conditions.md";
    lookups_in_french = "docs/guide/lookups.fr.md";
    lookups = "docs/guide/lookups.md";
    named_keys_in_french = "docs/guide/named-keys.fr.md";
    named_keys = "docs/guide/named-keys.md";
    outbox_in_french = "docs/guide/outbox.fr.md";
    outbox = "docs/guide/outbox.md";
    quick_start_in_french = "docs/guide/quick-start.fr.md";
    quick_start = "docs/guide/quick-start.md";
    replication_in_french = "docs/guide/replication.fr.md";
    replication = "docs/guide/replication.md";
    rules_in_french = "docs/guide/rules.fr.md";
    rules = "docs/guide/rules.md";
    testing_in_french = "docs/guide/testing.fr.md";
    testing = "docs/guide/testing.md";
    values_in_french = "docs/guide/values.fr.md";
    values = "docs/guide/values.md";
    commands_in_french = "docs/operate/commands.fr.md";
    commands = "docs/operate/commands.md";
    configuration_in_french = "docs/operate/configuration.fr.md";
    configuration = "docs/operate/configuration.md";
    runbook_in_french = "docs/operate/runbook.fr.md";
    runbook = "docs/operate/runbook.md";
    stale_key_in_french = "docs/operate/stale-key.fr.md";
    stale_key = "docs/operate/stale-key.md";
}

/// The rows of exit code 77 that a role of the server decides, word by word, and what `setup` says instead.
#[tokio::test]
async fn a_role_that_lacks_a_right_is_told_as_the_page_of_exit_codes_says() {
    let page = fs::read_to_string(root().join("docs/operate/exit-codes.md")).expect("the page is there");
    let postgres = Postgres::start(Options::default());
    let cache = Redis::start(&Server::System, &[]);
    let sql = postgres.client().await;
    let roles = "CREATE ROLE plain LOGIN; CREATE ROLE owner LOGIN; CREATE ROLE super LOGIN SUPERUSER; \
                 GRANT CREATE ON DATABASE postgres TO owner; CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t OWNER TO owner";
    sql.batch_execute(roles).await.expect("valid SQL");
    let version: i32 =
        sql.query_one("SELECT current_setting('server_version_num')::int", &[]).await.expect("it is set").get(0);
    let walsender = match version {
        160_000.. => "permission denied to start WAL sender",
        _ => "must be superuser or replication role to start walsender",
    };
    let run = |role: &str, mode: &str, command: &str| {
        let url = postgres.url().replace("postgres@", &format!("{role}@"));
        let rules = "[[rules]]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]\n";
        let cache = cache.url();
        let config = format!("[postgres]\nurl = \"{url}\"\nmode = \"{mode}\"\n[cache]\nurl = \"{cache}\"\n{rules}");
        let out = super::daemon::run(command, &config, &[]);
        let text = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        (out.status.code(), text)
    };
    let (code, text) = run("plain", "outbox", "setup");
    assert_eq!(code, Some(1), "{text}");
    let words = "may not make the schema crieur";
    assert!(text.contains(words) && text.contains("nothing was changed") && page.contains(words), "{text}");
    let cases = [
        ("postgres", "replication", "setup", None),
        ("plain", "replication", "run", Some(walsender)),
        ("owner", "outbox", "setup", None),
        ("plain", "outbox", "run", Some("permission denied for schema crieur")),
        ("super", "outbox", "check", Some("whose code would run as a superuser")),
    ];
    for (role, mode, command, said) in cases {
        let (code, text) = run(role, mode, command);
        let expected = said.map_or(0, |_| Exit::NoPermission as i32);
        assert_eq!(code, Some(expected), "{role} {mode} {command}: {text}");
        let words = said.unwrap_or_default();
        assert!(text.contains(words) && page.contains(words), "{role} {mode} {command}: {text}");
        if mode == "replication" && command == "setup" {
            // What follows needs a schema that belongs to nobody yet.
            sql.batch_execute("DROP SCHEMA crieur CASCADE").await.expect("valid SQL");
        }
    }
}

/// The lines for the cache's user suffice for the rules that they are made from.
#[tokio::test]
async fn the_least_rights_suffice_for_check_and_for_the_daemon() {
    let page = fs::read_to_string(root().join("docs/guide/valkey.md")).expect("the page is there");
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("ACL SETUSER crieur ")).collect();
    assert_eq!(lines.len(), 3, "the user, its rights, its rights with leases");
    for (rights, leases) in [(lines[1], "none"), (lines[2], "companion")] {
        let scene = super::scene::Scene::start().await;
        for line in [lines[0], rights] {
            let _: () = scene.cache.ask(&line.split(' ').collect::<Vec<_>>());
        }
        let rules = root().join("systemd/dousell.rules.toml").display().to_string();
        let cache = scene.cache.url().replace("redis://", "redis://crieur:password@");
        let config = format!(
            "rules_file = \"{rules}\"\n[postgres]\nurl = \"{}\"\n[cache]\nurl = \"{cache}\"\necho = []\nleases = \"{leases}\"\n",
            scene.postgres.url()
        );
        for command in ["setup", "check"] {
            let out = super::daemon::run(command, &config, &[]);
            assert!(out.status.success(), "{command}: {out:?}");
        }
        let mut daemon = scene.daemon_with(&config).await;
        let gone = scene.change(&daemon, "UPDATE properties SET title = 'b' WHERE id = 1").await;
        assert!(gone.contains("properties:detail:1") && !gone.contains("visits:1"), "{gone:?}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Pages whose every block is run or says why not.
const WHOLE: &str = "docs/guide";

fn pages_below(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder of the repository").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { pages_below(&path) } else { vec![path] }).collect()
}

#[test]
fn every_block_of_the_guide_is_run_or_says_why_not() {
    let mut complaints = Vec::new();
    let (mut run, mut all) = (0, 0);
    for path in pages_below(&root().join("docs")) {
        let name = path.strip_prefix(root()).expect("below the root").display().to_string();
        let page = fs::read_to_string(&path).expect("a page is readable text");
        let found = blocks(&page);
        let is_run = |block: &Block| {
            ["run", "until", "daemon", "reload", "stop", "rules", "log", "output"].iter().any(|mark| block.is(mark))
                || block.value("file").or(block.value("add")).is_some()
        };
        if found.iter().any(is_run) && !PAGES.contains(&name.as_str()) {
            complaints.push(format!("{name} has blocks to run, and no test of this file reads it"));
        }
        for block in found.iter().filter(|block| block.value("test").is_some()) {
            let test = block.value("test").unwrap_or_default();
            let text = fs::read_to_string(root().join("tests").join(test)).unwrap_or_default();
            let file = path.file_name().and_then(|name| name.to_str()).expect("a plain name").replace(".fr.md", ".md");
            if !text.contains(&file) {
                complaints.push(format!("{name}:{}: tests/{test} does not read this page", block.line));
            }
        }
        if name.starts_with(WHOLE) {
            let code = |block: &&Block| !["text", "mermaid", "given", "ebnf"].contains(&block.language.as_str());
            for block in found.iter().filter(code) {
                all += 1;
                let runs = is_run(block) || block.value("test").is_some();
                run += usize::from(runs);
                if !runs && !block.is("shown") {
                    complaints.push(format!("{name}:{}: neither run nor marked as shown", block.line));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    assert!(run * 10 >= all * 7, "only {run} of {all} blocks of the guide are run");
}
