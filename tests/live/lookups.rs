//! Lookups against a real server: many questions in one statement, refusals that stay with their question, limits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crieur::config::Config;
use crieur::control::session::ControlSession;
use crieur::control::{Gate, Lookups};
use crieur::postgres::dsn::Dsn;
use crieur::question::{Answer, LookupId, Question};
use crieur::rules::value::reading::TextOf;
use crieur::rules::{AnswerColumn, Lookup};

use super::daemon::Daemon;
use super::harness::postgres::{Options, Postgres};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Mode, RULES, Scene, set};

const TABLES: &str = "
CREATE TABLE parent (id int, kind text, note text);
CREATE INDEX ON parent (id);
INSERT INTO parent SELECT i % 400, 'k' || i, nullif(i % 7, 0) || ' \"\\{},é' FROM generate_series(1, 1000) i;
CREATE TYPE mood AS ENUM ('calm', 'SAD');
CREATE DOMAIN small AS int CHECK (value < 100);
CREATE TABLE written (x int);
CREATE FUNCTION broken(code text) RETURNS int LANGUAGE plpgsql AS
    'BEGIN RAISE EXCEPTION USING ERRCODE = code, MESSAGE = code; END';
CREATE FUNCTION write() RETURNS int LANGUAGE sql AS 'INSERT INTO written VALUES (1) RETURNING x';
";

async fn server() -> Postgres {
    let conf = vec!["log_statement = 'all'".to_owned(), "log_parameter_max_length = 0".to_owned()];
    let server = Postgres::start(Options { conf, ..Options::default() });
    server.client().await.batch_execute(TABLES).await.expect("valid SQL");
    server
}

fn lookup(sql: &str, columns: &[&str], args: usize) -> Lookup {
    let column = |text: &&str| match text.strip_suffix("|pg") {
        Some(name) => AnswerColumn { name: name.to_owned(), writing: TextOf::PostgreSql },
        None => AnswerColumn { name: text.to_string(), writing: TextOf::JavaScript },
    };
    let columns = columns.iter().map(column).collect();
    Lookup { name: "l".to_owned(), sql: sql.to_owned(), columns, args }
}

fn session(server: &Postgres, lookups: &[Lookup], limit: Duration) -> ControlSession {
    let dsn = Dsn::parse(&server.url()).expect("the harness writes a valid URL");
    ControlSession::new(dsn, Duration::from_secs(10), limit, lookups)
}

fn question(lookup: u32, args: &[Option<&str>]) -> Question {
    let args = args.iter().map(|arg| arg.map(|text| text.as_bytes().to_vec())).collect();
    Question { lookup: LookupId(lookup), args }
}

/// Answers in words; the order of rows is the server's.
fn shown(answer: &Answer) -> String {
    let text = |text: &Option<Vec<u8>>| match text {
        Some(text) => String::from_utf8_lossy(text).into_owned(),
        None => "NULL".to_owned(),
    };
    match answer {
        Answer::Rows(rows) => {
            let rows = rows.iter().map(|row| row.iter().map(text).collect::<Vec<_>>().join("|"));
            rows.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" & ")
        }
        Answer::Refused(why) | Answer::Late(why) => format!("refused: {why}"),
    }
}

/// Asks, and says which answers came and how many statements ran for them.
async fn ask(server: &Postgres, session: &ControlSession, questions: &[Question]) -> (Vec<String>, usize) {
    let executed = || {
        server
            .log()
            .lines()
            .filter(|line| line.contains("LOG:  execute ") && !line.contains("pg_current_snapshot"))
            // That which only tells the types, before the first question.
            .filter(|line| !line.contains("WITH RECURSIVE part"))
            .count()
    };
    session.snapshot().await.expect("it connects");
    let before = executed();
    let answers = session.ask(questions).await.expect("it answers");
    (answers.iter().map(shown).collect(), executed() - before)
}

#[tokio::test]
async fn a_thousand_distinct_questions_are_one_statement_and_get_the_answers_of_each() {
    let server = server().await;
    let sql =
        "SELECT kind, note, id AS \"the id\" FROM parent WHERE id = $1 AND ($2::text IS NULL OR kind = $2) -- '$3'\n;";
    let lookups = [lookup(sql, &["kind", "note", "the id"], 2)];
    let session = session(&server, &lookups, Duration::from_secs(5));
    let kinds: Vec<String> = (0..1000).map(|number| format!("k{}", number / 2)).collect();
    let questions: Vec<Question> = (0..1000)
        .map(|number: usize| match number % 10 {
            0 => question(0, &[None, Some(&kinds[number])]),
            1 => question(0, &[Some(&number.to_string()), Some("\"\\{},NULL'$1")]),
            2 => question(0, &[Some(&(number / 2).to_string()), Some(&kinds[number])]),
            _ => question(0, &[Some(&number.to_string()), None]),
        })
        .collect();
    let (together, statements) = ask(&server, &session, &questions).await;
    assert_eq!(statements, 1);
    let mut alone = Vec::new();
    for question in &questions {
        alone.extend(session.ask(std::slice::from_ref(question)).await.expect("it answers").iter().map(shown));
    }
    assert_eq!(together, alone);
    let rows: BTreeMap<usize, usize> = together.iter().fold(BTreeMap::new(), |mut counts, answer| {
        *counts.entry(if answer.is_empty() { 0 } else { 1 + answer.matches(" & ").count() }).or_default() += 1;
        counts
    });
    assert!(rows.keys().copied().eq(0..=3), "none, one and several rows: {rows:?}");
}

#[tokio::test]
async fn a_refused_question_refuses_itself_and_no_other() {
    let server = server().await;
    let lookups = [
        lookup("SELECT kind FROM parent WHERE id = $1", &["kind"], 1),
        lookup("SELECT 'x' || $1::mood AS m", &["m"], 1),
        lookup("SELECT $1::small + 1 AS s", &["s"], 1),
        lookup("SELECT 1 / $1::int AS x", &["x"], 1),
        lookup("SELECT nobody FROM parent WHERE id = $1", &["nobody"], 1),
        lookup("SELECT write() AS w WHERE $1::int > 0", &["w"], 1),
        lookup("SELECT id::text || kind AS x FROM parent WHERE $1 = 'all' OR id::text = $1 LIMIT ALL", &["x"], 1),
        // What the aggregate of an outer value means is not the same for many: asked one by one.
        lookup("SELECT max($1::int) AS m", &["m"], 1),
        lookup("SELECT a.x AS y FROM unnest($1::text[]) AS a (x)", &["y"], 1),
        // A row that cannot be read, a temporary file that is too large: errors of the statement, on a healthy session.
        lookup("SELECT CASE WHEN $1 = '0' THEN 0 ELSE broken($1) END AS b", &["b"], 1),
    ];
    let session = session(&server, &lookups, Duration::from_secs(5));
    let cases: [(u32, &[(&str, &str)]); 10] = [
        (
            0,
            &[
                ("399", "k399 & k799"),
                ("odd", "refused: invalid input syntax for type integer (SQLSTATE 22P02)"),
                ("398", "k398 & k798"),
            ],
        ),
        (
            1,
            &[
                ("calm", "xcalm"),
                ("sad", "refused: invalid input value for enum mood (SQLSTATE 22P02)"),
                ("SAD", "xSAD"),
            ],
        ),
        (2, &[("5", "6"), ("100", "refused: check violation (SQLSTATE 23514)")]),
        (3, &[("1", "1"), ("0", "refused: division by zero (SQLSTATE 22012)"), ("2", "0")]),
        (4, &[("1", "refused: column \"nobody\" does not exist (SQLSTATE 42703)"); 2]),
        (5, &[("0", ""), ("1", "refused: cannot execute INSERT in a read-only transaction (SQLSTATE 25006)")]),
        (6, &[("399", "399k399 & 399k799"), ("400", "")]),
        (7, &[("3", "3"), ("4", "4")]),
        (
            8,
            &[
                ("{a,NULL}", "NULL & a"),
                ("{}", ""),
                ("{", "refused: invalid text representation of a type (SQLSTATE 22P02)"),
            ],
        ),
        (
            9,
            &[
                ("0", "0"),
                ("XX001", "refused: data corrupted (SQLSTATE XX001)"),
                ("53400", "refused: configuration limit exceeded (SQLSTATE 53400)"),
            ],
        ),
    ];
    for (id, answers) in cases {
        let questions: Vec<Question> = answers.iter().map(|(arg, _)| question(id, &[Some(arg)])).collect();
        let (seen, _) = ask(&server, &session, &questions).await;
        assert_eq!(seen, answers.iter().map(|(_, answer)| *answer).collect::<Vec<_>>(), "{}", lookups[id as usize].sql);
    }
    // All of them together: a refusal in one lookup leaves the others alone.
    let every = |(id, answers): &(u32, &[(&'static str, &'static str)])| {
        answers.iter().map(|(arg, answer)| (question(*id, &[Some(arg)]), *answer)).collect::<Vec<_>>()
    };
    let (questions, answers): (Vec<_>, Vec<_>) = cases.iter().flat_map(every).unzip();
    assert_eq!(ask(&server, &session, &questions).await.0, answers);
}

#[tokio::test]
async fn answers_are_written_as_the_same_values_of_a_row_are() {
    let server = server().await;
    let sql = "SELECT $1::bool AS b, 1.50 AS n, 0.00000010 AS small, 1e20::float8 AS f, 'ab'::char(4) AS c,
        '10.0.0.1'::inet AS i, '2024-01-02 03:04:05.10+00'::timestamptz AS t, ARRAY[1, NULL] AS a, 'SAD'::mood AS m,
        7::small AS s, '\\xDE'::bytea AS y, NULL::bool AS z, ' x '::text AS x";
    let columns = ["b", "n", "small", "f", "c", "i", "t", "a", "m", "s", "y", "z", "x", "b|pg", "n|pg", "f|pg", "t|pg"];
    let session = session(&server, &[lookup(sql, &columns, 1)], Duration::from_secs(5));
    let expected = "true|1.5|1e-7|100000000000000000000|ab  |10.0.0.1|2024-01-02T03:04:05.1+00:00|{1,NULL}|SAD|7|\\xde\
                    |NULL| x |t|1.50|1e+20|2024-01-02 03:04:05.1+00";
    for count in [1, 2] {
        let answers = session.ask(&vec![question(0, &[Some("on")]); count]).await.expect("it answers");
        assert_eq!(answers.iter().map(shown).collect::<Vec<_>>(), vec![expected; count]);
    }
}

#[tokio::test]
async fn an_answer_that_would_fill_the_memory_is_refused() {
    let server = server().await;
    let lookups = [lookup("SELECT repeat('x', 1000) AS x FROM generate_series(1, $1::int)", &["x"], 1)];
    let session = session(&server, &lookups, Duration::from_secs(5));
    for others in [0, 3] {
        let mut questions = vec![question(0, &[Some("100000")])];
        questions.extend((1..=others).map(|other| question(0, &[Some(&other.to_string())])));
        let answers = session.ask(&questions).await.expect("it answers");
        assert_eq!(shown(&answers[0]), "refused: the answer has too many rows");
        assert_eq!(answers.len(), 1 + others);
    }
}

/// The tables and the lookups of a dashboard: two columns of a parent, several keys, arguments inside of JSON.
const FAMILY: &str = "
CREATE TABLE owner (id int PRIMARY KEY, city text, team text);
CREATE TABLE sale (id int PRIMARY KEY, body jsonb);
ALTER TABLE sale REPLICA IDENTITY FULL;
INSERT INTO owner VALUES (1, 'Dakar', 'a*'), (2, 'Thiès', 'b'), (3, NULL, 'c');
";

const FAMILY_RULES: &str = r#"
[[rules]]
table = "public.sale"
keys = ["seller:{o.team}", "near:{o.city}:{o.team}", "of:{o.city|lower or 'nowhere'}:{body.kind}", "all:{teams.team}"]
lookup.o = { sql = "SELECT city, team FROM owner WHERE id = $1", args = ["body.owner.id"] }
lookup.teams = { sql = "SELECT team FROM owner WHERE id <= $1 AND $2 <> 'none'", args = ["body.owner.id", "body.kind"] }
[[rules]]
table = "public.sale"
on = ["update"]
keys = ["moved:{o.team}"]
lookup.o = { sql = "SELECT team FROM owner WHERE id = $1", args = ["body.owner.id"] }
"#;

#[tokio::test]
async fn one_lookup_feeds_several_keys_of_several_rules_with_the_values_of_both_images() {
    for mode in Mode::ALL {
        one_lookup_feeds(mode).await;
    }
}

async fn one_lookup_feeds(mode: Mode) {
    let scene = Scene::of(mode, Options::default(), &[]).await;
    scene.run(FAMILY).await;
    let config = scene.config().replace(RULES, FAMILY_RULES);
    assert!(super::daemon::run("setup", &config, &[]).status.success());
    let mut daemon = scene.daemon_with(&config).await;
    let sale = |owner: &str, kind: &str| format!("'{{\"owner\": {{\"id\": {owner}}}, \"kind\": \"{kind}\"}}'");
    let of_one = ["seller:a*", "near:Dakar:a*", "of:dakar:x", "all:a*"];
    let of_two = ["seller:b", "near:Thiès:b", "of:thiès:x", "all:a*", "all:b"];
    let both: Vec<&str> = of_one.iter().chain(&of_two).chain(&["moved:a*", "moved:b"]).copied().collect();
    let of_three = ["seller:c", "of:nowhere:none"];
    let cases = [
        (format!("INSERT INTO sale VALUES (1, {})", sale("1", "x")), set(&of_one)),
        (format!("UPDATE sale SET body = {}", sale("2", "x")), set(&both)),
        // The parent is gone, or never was: no key, and no complaint.
        (format!("INSERT INTO sale VALUES (2, {})", sale("9", "none")), set(&[])),
        (format!("INSERT INTO sale VALUES (3, {})", sale("3", "none")), set(&of_three)),
        (format!("INSERT INTO sale VALUES (4, {})", sale("null", "x")), set(&[])),
        ("DELETE FROM sale WHERE id = 3".to_owned(), set(&of_three)),
        // The lookup sees the transaction of its row, whatever the order inside of it.
        (
            format!(
                "BEGIN; INSERT INTO sale VALUES (5, {}); INSERT INTO owner VALUES (4, 'New', 'n'); COMMIT",
                sale("4", "none")
            ),
            set(&["seller:n", "near:New:n", "of:new:none"]),
        ),
        // In a cascade the parent goes first.
        ("BEGIN; DELETE FROM owner WHERE id = 4; DELETE FROM sale WHERE id = 5; COMMIT".to_owned(), set(&[])),
    ];
    let every = ["seller:a*", "seller:b", "seller:c", "seller:n", "near:Dakar:a*", "near:Thiès:b", "near:New:n"];
    let more = ["of:dakar:x", "of:thiès:x", "of:nowhere:none", "of:new:none", "all:a*", "all:b", "all:c", "all:n"];
    let every = set(&[&every[..], &more, &["moved:a*", "moved:b", "moved:c", "seller:ab"]].concat());
    for (sql, expected) in cases {
        assert_eq!(gone(&scene, &daemon, &every, &sql).await, expected, "{sql}\n{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

pub async fn gone(scene: &Scene, daemon: &Daemon, keys: &BTreeSet<String>, sql: &str) -> BTreeSet<String> {
    let mut connection = scene.keys();
    for key in keys {
        let _: () = redis::cmd("SET").arg(key).arg("v").query(&mut connection).expect("it is writable");
    }
    scene.run(sql).await;
    scene.confirmed(daemon).await;
    let left: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("it answers");
    keys.difference(&left).cloned().collect()
}

/// 300 questions that each wait for a lock would take 300 times the limit one after the other.
#[tokio::test]
async fn a_lookup_that_hangs_widens_its_keys_in_time_and_names_its_rule_once() {
    for mode in Mode::ALL {
        a_lookup_hangs(mode).await;
    }
}

async fn a_lookup_hangs(mode: Mode) {
    let scene = Scene::of(mode, Options::default(), &[]).await;
    let config = scene.config().replace("[cache]", "lookup_timeout = \"500ms\"\n[cache]");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("id=lookup.refused");
    scene.confirmed(&daemon).await;
    let locker = scene.postgres.client().await;
    locker.batch_execute("BEGIN; LOCK leases").await.expect("nobody holds it");
    let payments = "INSERT INTO rental_payments SELECT i, i, 1 FROM generate_series(1, 300) i";
    let gone = scene.change(&daemon, payments).await;
    assert_eq!(gone, set(&["dashboard:41", "dashboard:42", "payments:lease:71", "payments:lease:72"]));
    let log = daemon.log();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("id=lookup.refused")).collect();
    assert!(complaints.len() <= 3 && complaints[0].contains("owner ("), "{complaints:?}");
    assert!(complaints[0].contains("statement timeout"), "{complaints:?}");
    // Each batch is refused anew, for the same cause: that was said.
    for id in [301, 302] {
        let payment = format!("INSERT INTO rental_payments VALUES ({id}, {id}, 1)");
        assert_eq!(scene.change(&daemon, &payment).await, set(&["dashboard:41", "dashboard:42"]), "{mode:?}");
    }
    let log_after = daemon.log();
    assert_eq!(log_after.matches("id=lookup.refused").count(), complaints.len(), "{mode:?}: {log_after}");
    locker.batch_execute("COMMIT").await.expect("it holds the lock");
    answers(&scene, &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// Lookups are answered again: a payment deletes exactly its keys. The limit is short, so a busy machine may need several.
async fn answers(scene: &Scene, daemon: &Daemon) {
    let mut id = 10_000;
    settled("a lookup is answered", PATIENCE, async || {
        id += 1;
        match scene.change(daemon, &format!("INSERT INTO rental_payments VALUES ({id}, 71, 1)")).await {
            gone if gone == set(&["dashboard:41", "payments:lease:71"]) => Ok(()),
            gone => Err((gone, daemon.log())),
        }
    })
    .await;
}

/// Behind the slow lookup in the same batch.
const HOME: &str = r#"
[[rules]]
table = "public.rental_payments"
keys = ["pay:{home.property_id}"]
lookup.home = { sql = "SELECT property_id FROM leases WHERE id = $1", args = ["lease_id"] }
"#;

/// Each of 500 questions is well within the limit; one after the other they take five times as long.
#[tokio::test]
async fn many_slow_questions_widen_their_keys_in_time_and_the_daemon_goes_on() {
    for mode in Mode::ALL {
        questions_are_slow(mode).await;
    }
}

async fn questions_are_slow(mode: Mode) {
    let scene = Scene::of(mode, Options::default(), &[]).await;
    let config = scene.config().replace("[cache]", "lookup_timeout = \"2s\"\n[cache]");
    let config = config.replace("WHERE l.id = $1\"", "CROSS JOIN LATERAL pg_sleep(0.02 + 0 * l.id) WHERE l.id = $1\"");
    let config = config + HOME;
    scene.run("INSERT INTO leases SELECT i, 1 FROM generate_series(100, 599) AS i").await;
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("id=lookup.refused");
    scene.confirmed(&daemon).await;
    let payments = "INSERT INTO rental_payments SELECT i, i, 1 FROM generate_series(100, 599) i";
    let keys = set(&["dashboard:41", "dashboard:42", "pay:1", "pay:2"]);
    let widened = gone(&scene, &daemon, &keys, payments).await;
    assert_eq!(widened, set(&["dashboard:41", "dashboard:42", "pay:1"]), "{mode:?}: and no other lookup's");
    let log = daemon.log();
    let complaints: Vec<&str> = log.lines().filter(|line| line.contains("id=lookup.refused")).collect();
    assert!((1..=3).contains(&complaints.len()), "{complaints:?}");
    assert!(complaints.iter().all(|line| line.contains("owner (")), "{complaints:?}");
    assert!(!log.contains("failed to look up"), "{log}");
    answers(&scene, &daemon).await;
    assert_eq!(daemon.stop(), Some(0));
}

const BIG_RULES: &str = r#"
[[rules]]
table = "public.visit_bookings"
keys = ["big:{o.x}"]
lookup.o = { sql = "SELECT repeat('x', 1000) || i AS x FROM generate_series(1, $1::int) AS i", args = ["property_id"] }
"#;

#[tokio::test]
async fn an_answer_of_a_hundred_megabytes_widens_its_keys_in_both_modes() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Options::default(), &[]).await;
        let config = scene.config().replace(RULES, BIG_RULES);
        let mut daemon = scene.daemon_with(&config).await;
        daemon.allow("the answer has too many rows");
        let keys = set(&["big:one", "bigger"]);
        let sql = "INSERT INTO visit_bookings VALUES (1, 100000), (2, 1)";
        assert_eq!(gone(&scene, &daemon, &keys, sql).await, set(&["big:one"]), "{}", daemon.log());
        assert!(daemon.log().contains("id=lookup.refused"), "{}", daemon.log());
        assert_eq!(daemon.stop(), Some(0));
    }
}

#[test]
fn a_parameter_inside_of_a_text_is_none() {
    let dir = tempfile::tempdir().expect("the temporary directory is writable");
    let rules = "[[rules]]\ntable = 't'\nkeys = ['k:{o.x}']\nlookup.o = { sql = \"SELECT '$2' AS x WHERE $1\", args = ['a'] }\n";
    std::fs::write(dir.path().join("crieur.toml"), rules).expect("the directory is ours");
    let urls = [("DATABASE_URL", "postgres://localhost"), ("REDIS_URL", "redis://localhost")];
    let urls = urls.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(&dir.path().join("crieur.toml"), urls.into_iter());
    assert_eq!(config.map(|config| config.rules.lookups()[0].args).map_err(|mistakes| mistakes.to_string()), Ok(1));
}
