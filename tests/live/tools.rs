//! The tools for trust against real servers: `check` of rules, `coverage`, `run --dry-run`, `explain --diff`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::daemon;
use super::harness::postgres::{Options, Version};
use super::harness::process::{Process, Signal};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{self, KEYS, Mode, RULES, Scene, set};

fn crieur(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crieur")).args(args).env_clear().output().expect("cargo built the program")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn check_reads_rules_against_types_labels_and_rows() {
    let scene = Scene::start().await;
    scene
        .run(
            "CREATE TYPE state AS ENUM ('free', 'let'); CREATE DOMAIN place AS jsonb;
             ALTER TABLE properties ADD state state DEFAULT 'free', ADD location place;
             UPDATE properties SET location = '{\"city\": \"Dakar\", \"floor\": null}'",
        )
        .await;
    let rule = |more: &str| format!("[[rules]]\ntable = \"public.properties\"\n{more}\n");
    let cases = [
        ("keys = ['a:{location.city}:{location.floor}']", None),
        ("keys = ['a:{location.town}']", Some("none of 9 rows that were looked at has location.town")),
        ("keys = ['a:{title.x}']", Some("column \"title\" is text: what is no JSON in it widens")),
        ("keys = ['a:{owner_id.x}']", Some("\"owner_id\" is integer, which has no fields")),
        ("keys = ['a:{id|year}']", Some("\"id\" is integer, which has no year and month")),
        (
            "keys = ['a']\nwhen = \"state = 'sold'\"",
            Some("\"state\" is never 'sold', which is no label of public.state"),
        ),
        ("keys = ['a']\nwhen = \"state in ('free')\"", None),
        ("keys = ['a']\nwhen = \"id = 'one'\"", Some("\"id\" is integer and cannot be 'one'")),
        ("keys = ['a']\nwhen = \"title = 'a' and title = 'b'\"", Some("no row can meet its condition")),
        ("keys = ['detail:{id}', 'detail:*']", Some("key \"detail:{id}\" adds nothing")),
    ];
    for (more, expected) in cases {
        let config = scene.config().replace(RULES, &rule(more));
        let out = text(&daemon::run("check", &config, &[]).stdout);
        match expected {
            Some(words) => assert!(out.contains(words), "{more}: {out}"),
            None => assert!(out.contains("ok    rules: "), "{more}: {out}"),
        }
        assert!(!out.contains("Dakar"), "a row's value: {out}");
    }
}

/// A value that a CHECK constraint of the table or of a domain forbids; what is in doubt makes no line.
#[tokio::test]
async fn check_holds_conditions_against_the_constraints_of_their_columns() {
    for version in [Version::System, Version::V18] {
        let scene = Scene::with(Options { version, ..Options::default() }, &[]).await;
        scene
            .run(
                "CREATE TYPE \"Mood\" AS ENUM ('good', 'bad', 'ugly');
                 CREATE DOMAIN plan AS varchar(9) CONSTRAINT plans CHECK (VALUE IN ('free', 'paid'));
                 CREATE DOMAIN tariff AS plan CHECK (VALUE <> 'free');
                 CREATE FUNCTION fits(text) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT $1 = ''a''';
                 CREATE COLLATION anycase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
                 ALTER TABLE properties ADD status text CONSTRAINT states CHECK (status IN ('open', 'it''s')),
                     ADD \"Ab\" varchar(10) CONSTRAINT lower_only CHECK (\"Ab\" ~ '^[a-z]+$'),
                     ADD floor int CHECK (floor BETWEEN 0 AND 50), ADD ready boolean CONSTRAINT yes CHECK (ready),
                     ADD code char(4) CHECK (octet_length(code) = 4), ADD plan plan, ADD tariff tariff,
                     ADD mood \"Mood\" CHECK (mood <> 'ugly'),
                     ADD price numeric CHECK (scale(price) = 2), ADD own text CHECK (fits(own)),
                     ADD day text CHECK (day < now()::text), ADD two text, ADD late text,
                     ADD ci text COLLATE anycase CHECK (ci IN ('open')),
                     ADD CHECK (two <> 'x' OR floor = 1);
                 ALTER TABLE properties ADD CHECK (late <> 'x') NOT VALID",
            )
            .await;
        let never = |column: &str, text: &str, name: &str| {
            format!("{column} is never '{text}': the constraint \"{name}\" forbids it, CHECK (")
        };
        let status = |text: &str| never("\"status\"", text, "states");
        for (when, verdict, expected) in [
            ("status = 'active'", "WRONG", status("active")),
            ("status in ('open', 'closed')", "WRONG", status("closed")),
            ("floor = 1 or not status != 'active'", "WRONG", status("active")),
            ("status != 'active'", "note ", status("active")),
            ("status = 'open' or status = 'it''s' or status > 'p'", "", String::new()),
            ("\\\"Ab\\\" = 'Xy'", "WRONG", never("\"Ab\"", "Xy", "lower_only")),
            ("\\\"Ab\\\" = 'xy'", "", String::new()),
            ("floor = 51", "WRONG", never("\"floor\"", "51", "properties_floor_check")),
            ("floor = 50 or floor = 50.0", "", String::new()),
            ("ready = false", "WRONG", never("\"ready\"", "false", "yes")),
            ("plan = 'trial'", "WRONG", never("\"plan\"", "trial", "plans")),
            ("plan = 'free'", "", String::new()),
            ("tariff = 'free'", "WRONG", never("\"tariff\"", "free", "tariff_check")),
            ("tariff = 'trial'", "WRONG", never("\"tariff\"", "trial", "plans")),
            ("mood = 'ugly'", "WRONG", never("\"mood\"", "ugly", "properties_mood_check")),
            ("mood = 'bad'", "", String::new()),
            ("code = 'ab'", "", String::new()),
            ("price = 1", "", String::new()),
            ("own = 'b'", "", String::new()),
            ("day = '9999'", "", String::new()),
            ("two = 'x' and late = 'x' and ci = 'OPEN'", "", String::new()),
        ] {
            let rule = format!("[[rules]]\ntable = \"public.properties\"\nkeys = ['a']\nwhen = \"{when}\"\n");
            let out = text(&daemon::run("check", &scene.config().replace(RULES, &rule), &[]).stdout);
            let forbidden: Vec<&str> = out.lines().filter(|line| line.contains("forbids it")).collect();
            match verdict {
                "" => {
                    assert!(forbidden.is_empty(), "{version:?} {when}: {out}");
                    assert!(out.contains("ok    rules: "), "{version:?} {when}: {out}");
                }
                _ => {
                    assert_eq!(forbidden.len(), 1, "{version:?} {when}: {out}");
                    assert!(forbidden[0].starts_with(verdict) && forbidden[0].contains(&expected), "{when}: {out}");
                    assert!(!out.contains("no condition that never holds"), "{when}: {out}");
                }
            }
        }
    }
}

/// Behind the log-in, too, an error names the server and where its address was written.
#[tokio::test]
async fn what_the_server_refuses_of_check_and_setup_names_the_server() {
    for mode in [Mode::Replication, Mode::Outbox] {
        let scene = Scene::start().await;
        scene.run("CREATE ROLE weak LOGIN REPLICATION").await;
        scene.run("REVOKE SELECT ON pg_catalog.pg_publication, pg_catalog.pg_class FROM PUBLIC").await;
        let config = scene.config().replace("postgres://postgres@", "postgres://weak@");
        let config = match mode {
            Mode::Replication => config,
            Mode::Outbox => config.replace("[cache]", "mode = \"outbox\"\n[cache]"),
        };
        for command in ["check", "setup"] {
            let out = daemon::run(command, &config, &[]);
            let said = text(&out.stderr);
            let begins = format!("error: PostgreSQL at 127.0.0.1:{} (postgres.url in ", scene.postgres.port());
            assert!(said.starts_with(&begins), "{mode:?} {command}: {said}{}", text(&out.stdout));
            assert!(said.contains("permission denied for"), "{mode:?} {command}: {said}");
        }
    }
}

#[tokio::test]
async fn coverage_shows_what_no_rule_deletes_and_what_no_key_was_made_for() {
    let scene = Scene::start().await;
    scene.fill();
    let mut connection = scene.keys();
    let moved = ["properties:all_properties_public_v4", "properties:v4:detail:1", "dashboard:41_v4", "search:\n\u{7}"];
    let many = (0..3000).map(|number| format!("bulk:{number}:x"));
    for key in moved.iter().map(|key| key.to_string()).chain(many) {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
    }
    let _: () = redis::cmd("DEL").arg("properties:all_properties_public").query(&mut connection).expect("it answers");
    let before: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("it answers");
    let out = daemon::run("coverage", &scene.config(), &[]);
    let report = text(&out.stdout);
    for line in [
        "NO RULE bulk:{number}:x: 3000 keys, for example \"bulk:",
        "NO RULE properties:all_properties_public_v4: 1 key, for example \"properties:all_properties_public_v4\"\n        \
         but for the version \"all_properties_public\" at ",
        "NO RULE properties:v4:detail:{number}: 1 key, for example \"properties:v4:detail:1\"\n        \
         but for the version \"detail:{id}\" at ",
        "NO RULE properties:other: 1 key",
        "NO RULE search:{text}: 1 key, for example \"search:\\n\\x07\"",
        "NO RULE session:{number}: 1 key",
        "DOUBT   dashboard:{number}_v4: 1 key, for example \"dashboard:41_v4\"",
        "NEVER   \"all_properties_public\" at ",
        "3022 keys: 14 covered, 3005 without a rule, 1 in doubt, 2 protected",
    ] {
        assert!(report.contains(line), "{line}\nin\n{report}");
    }
    assert_eq!(out.status.code(), Some(1), "{report}");
    assert!(!report.contains("lock:"), "{report}");
    let after: u64 = redis::cmd("DBSIZE").query(&mut connection).expect("it answers");
    assert_eq!(before, after);
}

/// `crieur run --dry-run`, from now on.
struct Dry {
    process: Process,
    dir: tempfile::TempDir,
}

impl Dry {
    async fn start(scene: &Scene) -> Dry {
        Dry::start_with(&scene.config()).await
    }

    async fn start_with(config: &str) -> Dry {
        let dir = tempfile::tempdir().expect("the temporary directory is writable");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("crieur.toml"), config).expect("the directory is ours");
        let file = |name: &str| fs::File::create(path(name)).expect("the directory is ours");
        let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
        command.args(["run", "--dry-run", "--config"]).arg(path("crieur.toml")).env_clear();
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("log"));
        let dry = Dry { process: Process::start(&mut command, dir.path()), dir };
        let begins = async || if dry.said("log").contains("id=run.dry") { Ok(()) } else { Err(dry.said("log")) };
        settled("the dry run begins", PATIENCE, begins).await;
        dry
    }

    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap_or_default()
    }

    async fn prints(&self, expected: &str) {
        let seen = async || match self.said("out") {
            out if out == expected => Ok(()),
            out => Err((out, self.said("log"))),
        };
        settled("it prints", PATIENCE, seen).await;
    }

    fn stop(mut self) {
        self.process.signal(Signal::Term);
        assert!(self.process.wait(PATIENCE).is_some_and(|status| status.success()), "{}", self.said("log"));
    }
}

/// A change, and what a dry run prints of it.
const BOOKED: &str =
    "BEGIN; UPDATE properties SET city = 'Mbour' WHERE id = 1; INSERT INTO rental_payments VALUES (1, 71, 5); COMMIT";
const PRINTED: &str = "transaction 1\n  key payments:lease:71\n  key properties:all_properties_public\n  \
    key properties:city:Dakar\n  key properties:city:Mbour\n  key properties:detail:1\n  lookup owner (71): 1 rows\n  \
    key of a lookup dashboard:41\n";
const BOOKED_KEYS: [&str; 6] = [
    "dashboard:41",
    "payments:lease:71",
    "properties:all_properties_public",
    "properties:city:Dakar",
    "properties:city:Mbour",
    "properties:detail:1",
];

#[tokio::test]
async fn a_dry_run_prints_what_goes_and_moves_nothing() {
    for mode in Mode::ALL {
        dry_run_moves_nothing(mode).await;
    }
}

async fn dry_run_moves_nothing(mode: Mode) {
    let scene = Scene::of(mode, Options::default(), &[]).await;
    let mut daemon = scene.daemon().await;
    scene.confirmed(&daemon).await;
    assert_eq!(daemon.stop(), Some(0));
    let marked = || -> String {
        redis::cmd("GET").arg("crieur:mark:crieur").query(&mut scene.keys()).expect("the mark is a text")
    };
    // Positions, and names: nothing of the dry run stays.
    let positions = match mode {
        Mode::Replication => {
            "SELECT string_agg(slot_name || ' ' || confirmed_flush_lsn, ' ') FROM pg_replication_slots"
        }
        Mode::Outbox => "SELECT string_agg(p::text, ' ') FROM crieur.progress AS p",
    };
    let (mark, position) = (marked(), scene.ask(positions).await);
    let dry = Dry::start(&scene).await;
    scene.fill();
    scene.run(BOOKED).await;
    dry.prints(PRINTED).await;
    if mode == Mode::Outbox {
        assert_eq!(scene.ask("SELECT count(*)::text FROM crieur.outbox").await, "2");
    }
    dry.stop();
    // The server ends the temporary slot soon after its session.
    settled("nothing of it stays", PATIENCE, async || match scene.ask(positions).await {
        now if now == position => Ok(()),
        now => Err((mode, now, position.clone())),
    })
    .await;
    assert_eq!(marked(), mark, "{mode:?}");
    assert_eq!(scene.gone(), set(&[]));

    // Nothing is lost: the daemon deletes it all.
    let mut daemon = daemon::Daemon::start(&scene.config(), &[]);
    daemon.wait_for_log(mode.started());
    scene.confirmed(&daemon).await;
    assert_eq!(scene.gone(), set(&BOOKED_KEYS), "{mode:?} of {}\n{}", KEYS.len(), daemon.log());
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_daemon_goes_on_working_beside_a_dry_run() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let mut daemon = scene.daemon().await;
        let lease = "SELECT owner FROM crieur.progress WHERE slot = 'crieur'";
        let owner = if mode == Mode::Outbox { scene.ask(lease).await } else { String::new() };
        let dry = Dry::start(&scene).await;
        scene.run(BOOKED).await;
        dry.prints(PRINTED).await;
        settled("the daemon deletes the same keys", PATIENCE, async || match scene.gone() {
            gone if gone == set(&BOOKED_KEYS) => Ok(()),
            gone => Err((gone, daemon.log())),
        })
        .await;
        if mode == Mode::Outbox {
            assert_eq!(scene.ask(lease).await, owner);
        }
        dry.stop();
        // What rows waited for the dry run go, and the next ones as ever.
        scene.confirmed(&daemon).await;
        let visited = "INSERT INTO visits VALUES (1)";
        assert_eq!(scene.change(&daemon, visited).await, set(&["visits:1"]), "{mode:?}\n{}", daemon.log());
        assert!(!daemon.log().contains("id=stream.standing_by"), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[tokio::test]
async fn a_name_that_the_schema_does_not_have_is_told_in_both_modes() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let misspelt = "[[rules]]\ntable = 'visit_bookings'\nignore = ['veiws']\nkeys = ['k:{ctiy}']\n\
                        [[rules]]\ntable = 'nowhere'\nkeys = ['n']\n";
        let config = scene.config().replace(RULES, misspelt);
        let expected = [
            "WRONG table public.visit_bookings: has no column \"ctiy\" (",
            "WRONG table public.visit_bookings: has no column \"veiws\", which rules ignore\n      mend: correct the name in the rules file",
            "WRONG table public.nowhere: does not exist, or the role may not see it (",
        ];
        for command in ["check", "setup"] {
            let out = daemon::run(command, &config, &[]);
            let said = text(&out.stdout);
            assert_eq!(out.status.code(), Some(1), "{mode:?} {command}: {}", text(&out.stderr));
            assert!(expected.iter().all(|words| said.contains(words)), "{mode:?} {command}: {said}");
            assert!(!said.contains("capture"), "triggers cannot have what is not there: {said}");
        }
        if mode == Mode::Outbox {
            let watched = "SELECT string_agg(columns::text, ' ') FROM crieur.watched WHERE name = 'visit_bookings'";
            assert_eq!(scene.ask(watched).await, "{property_id}");
        }
    }
}

#[test]
fn the_script_of_outbox_mode_needs_no_server() {
    // Nothing listens there.
    let config = Mode::Outbox.config(&scene::config("postgres://nobody@127.0.0.1:1/none", "redis://127.0.0.1:1"));
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let file = dir.path().join("crieur.toml");
    fs::write(&file, config).expect("the directory is ours");
    let file = file.to_str().expect("plain names");
    let out = crieur(&["setup", "--config", file, "--print"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let script = text(&out.stdout);
    assert!(
        script.contains("SELECT crieur.watch('\"public\".\"properties\"', columns => '{\"city\",\"id\"}');"),
        "{script}"
    );
    assert_eq!(crieur(&["setup", "--config", file]).status.code(), Some(69));
}

/// A row of many types, explained with types where JSON does not tell them, has the daemon's keys.
#[tokio::test]
async fn explain_makes_the_keys_that_the_daemon_makes() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        scene
            .run(
                "CREATE TYPE mood AS ENUM ('sad', 'calm'); CREATE TABLE odd (id int PRIMARY KEY, n numeric, m numeric(12, 2), i int8,
                 f float8, b bool, j jsonb, s jsonb, t timestamptz, d date, e mood, x text, u uuid, c char(4))",
            )
            .await;
        let columns =
            ["n", "m", "i", "f", "b", "j", "s", "t", "d", "e", "x", "u", "c", "j.a", "j.a.0", "f|pg", "m|pg", "t|pg"];
        let keys =
            columns.iter().map(|column| format!("'{}:{{{column}}}'", column.replace('|', "_"))).collect::<Vec<_>>();
        let rules = format!(
            "[[rules]]\ntable = 'odd'\nkeys = [{}]\n[[rules]]\ntable = 'odd'\nwhen = \"e < 'calm' and n > 0.1\"\nkeys = ['sad']\n",
            keys.join(", ")
        );
        let config = scene.config().replace(RULES, &rules);
        assert_eq!(daemon::run("setup", &config, &[]).status.code(), Some(0));
        let dry = Dry::start_with(&config).await;
        scene
            .run(
                "INSERT INTO odd VALUES (1, 0.12345678901234567890123, 250000, 9007199254740993, 1e20, true,
                 '{\"a\": [1.50, \"x\"], \"b\": {}}', '\"text\"', '2024-01-02 03:04:05.10+02', '2024-01-02', 'sad', ' x* ',
                 '6f9619ff-8b86-d011-b42d-00c04fc964ff', 'ab')",
            )
            .await;
        let lines = |text: &str, before: &str| -> BTreeSet<String> {
            text.lines().filter_map(|line| line.strip_prefix(before)).map(str::to_owned).collect()
        };
        // One of each template, and that of the condition which only the server can decide.
        let made = || lines(&dry.said("out"), "  key ");
        let printed = async || if made().len() == keys.len() + 1 { Ok(()) } else { Err((made(), dry.said("log"))) };
        settled("it prints", PATIENCE, printed).await;
        let made = made();
        scene.run("SET TimeZone TO 'UTC'; SET extra_float_digits TO 1").await;
        // Numbers and booleans as such, what is JSON as jsonb writes it, all else as the text that psql would show.
        let row = "SELECT '{' || string_agg(to_json(key) || ':' || CASE
                WHEN key IN ('id', 'n', 'm', 'i', 'b', 'j', 's') THEN value::text
                ELSE to_json(value #>> '{}')::text END, ',') || '}'
            FROM odd, jsonb_each(to_jsonb(odd) || jsonb_build_object('f', f::text, 't', t::text, 'd', d::text))";
        let row = scene.ask(row).await;
        let file = dry.dir.path().join("crieur.toml");
        let explain = ["explain", "--config", file.to_str().expect("plain names"), "--table", "odd", "--op", "insert"];
        let types = ["--types", "f=float8,s=jsonb,t=timestamptz,d=date,e=anyenum,u=uuid,c=bpchar"];
        let out = crieur(&[&explain[..], &["--new", &row], &types].concat());
        assert_eq!(lines(&text(&out.stdout), "key       "), made, "{mode:?} {row}\n{}", text(&out.stderr));
        assert!(made.contains("n:0.12345678901234567890123") && made.contains("sad"), "{made:?}");
        dry.stop();
    }
}

#[test]
fn explain_shows_what_a_change_of_rules_adds_and_removes() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dousell");
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let rules = fs::read_to_string(golden.join("rules.toml")).expect("it is in the repository");
    let (old, new) = (dir.path().join("old.toml"), dir.path().join("new.toml"));
    fs::write(&old, &rules).expect("the directory is ours");
    fs::write(&new, rules.replace("detail:{id}", "detail:{id}:v2")).expect("the directory is ours");
    let recording = golden.join("pg17.rec");
    let [old, new, recording] = [&old, &new, &recording].map(|path| path.to_str().expect("plain names"));
    let out = crieur(&["explain", "--diff", old, new, "--recording", recording]);
    let shown = text(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(shown.contains("  - key properties:detail:1    by \"detail:{id}\" at "), "{shown}");
    assert!(shown.contains("  + key properties:detail:1:v2    by \"detail:{id}:v2\" at "), "{shown}");
    fs::write(new, "[[rules]]\ntable = 't'\n").expect("the directory is ours");
    let out = crieur(&["explain", "--diff", old, new, "--recording", recording]);
    assert_eq!(out.status.code(), Some(78));
    assert!(text(&out.stderr).contains("rule has no keys"), "{}", text(&out.stderr));
    assert_eq!(crieur(&["explain", "--config", old]).status.code(), Some(64));
    assert_eq!(crieur(&["explain", "--diff", old, new]).status.code(), Some(64));
    // What would be passed over in silence is refused.
    for ignored in [["--table", "t"], ["--op", "insert"], ["--new", "{}"], ["--types", "a=int8"], ["--config", old]] {
        let diff = ["explain", "--diff", old, new, "--recording", recording];
        let out = crieur(&[&diff[..], &ignored].concat());
        assert_eq!(out.status.code(), Some(64), "{ignored:?}: {}", text(&out.stderr));
    }
}
