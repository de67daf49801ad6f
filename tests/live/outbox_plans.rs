//! How PostgreSQL plans the statements of outbox mode where the outbox is long, or a session's first statement was a bulk
//! one. What a plan costs is counted in blocks; whether it is compiled, the server's log says. And that a look in pages,
//! whose parts are bounded for the planner's sake, gives every row once.

use super::harness::postgres::Version;
use super::harness::wait::{PATIENCE, eventually};
use super::outbox_sql::{Outbox, ask, run};

const POLL: &str = include_str!("../../sql/outbox/poll.sql");
const REMOVE: &str = include_str!("../../sql/outbox/remove.sql");
const FACTS: &str = include_str!("../../sql/outbox/facts.sql");

const ROWS: usize = 200_000;

/// Blocks that a node of a plan and those below it read. What a CTE writes counts in no node above it.
fn read_by(node: &serde_json::Value) -> u64 {
    let count = |name: &str| node[name].as_u64().unwrap_or_else(|| panic!("{node}"));
    let below = node["Plans"].as_array().into_iter().flatten().map(read_by).max();
    (count("Shared Hit Blocks") + count("Shared Read Blocks")).max(below.unwrap_or_default())
}

/// Blocks that the dearest part of a statement reads.
async fn blocks(outbox: &Outbox, sql: &str) -> u64 {
    let plan = ask(&outbox.app, &format!("SELECT pg_temp.explained($sql${sql}$sql$)")).await;
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("EXPLAIN writes JSON");
    read_by(&plan[0]["Plan"])
}

/// A long outbox, and `pg_temp.explained()`, which runs a statement.
async fn long() -> Outbox {
    let outbox = Outbox::start(Version::System).await;
    let fill = format!(
        "INSERT INTO crieur.outbox (xid, id, op, note) SELECT n::text::xid8, n, 'M', 'x' FROM generate_series(1, {ROWS}) AS n;
         INSERT INTO crieur.progress (slot, owner) VALUES ('crieur', 'me');
         CREATE FUNCTION pg_temp.explained(sql text) RETURNS text LANGUAGE plpgsql AS $$
             DECLARE said json;
             BEGIN EXECUTE 'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) ' || sql INTO said; RETURN said; END
         $$"
    );
    run(&outbox.app, &fill).await;
    outbox
}

#[tokio::test]
async fn rows_are_removed_by_their_key_however_many_wait() {
    let outbox = long().await;
    for (first, runs) in [(1, 1), (100, 10), (1_000, 30), (2_000, 100), (3_000, 300), (5_000, 1_000)] {
        let list = (first..first + runs).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let mut sql = REMOVE.to_owned();
        let list = format!("{{{list}}}");
        for (name, value) in [
            ("slot", "crieur"),
            ("owner", "me"),
            ("confirmed", "1"),
            ("seconds", "1.5"),
            ("xids", &list),
            ("firsts", &list),
            ("lasts", &list),
            ("seen", ""),
        ] {
            sql = sql.replace(&format!(":'{name}'"), &format!("'{value}'"));
        }
        let left = "SELECT count(*)::text FROM crieur.outbox";
        let before: usize = ask(&outbox.app, left).await.parse().expect("a number");
        let read = blocks(&outbox, &sql).await;
        assert_eq!(ask(&outbox.app, left).await, (before - runs).to_string());
        // Of each row the way down the index, and itself twice.
        let enough = 100 + 8 * runs as u64;
        assert!(read < enough, "{runs} runs: {read} blocks");
    }
}

/// A look from a snapshot (`xmax`, in progress), behind a row.
fn look(xmax: usize, in_progress: &str, (xid, id): (usize, usize)) -> String {
    let values = [format!("'{xmax}'"), format!("'{in_progress}'"), format!("'{xid}'"), id.to_string(), "NULL".into()];
    let fill = |sql: String, (place, value): (usize, &String)| {
        sql.replace(&format!("${}::", place + 1), &format!("{value}::"))
    };
    values.iter().enumerate().fold(POLL.to_owned(), fill)
}

#[tokio::test]
async fn a_look_begins_where_the_last_one_ended_however_many_wait_before() {
    let outbox = long().await;
    let near = ROWS - 100;
    // The snapshot of the last look, then the row that the last page ended with: each may be the later one.
    for (xmax, xid, id, rows) in [(near, 0, 0, 101), (0, near, near, 100), (near, near, near, 100), (0, 0, 0, 1_000)] {
        let sql = look(xmax, "{7,8,9}", (xid, id));
        let found = ask(
            &outbox.app,
            &format!("SELECT (count(*) FILTER (WHERE xid::xid8 >= '{near}'))::text FROM ({sql}) AS p"),
        )
        .await;
        assert_eq!(found, if rows == 1_000 { "0".to_owned() } else { rows.to_string() });
        let read = blocks(&outbox, &sql).await;
        assert!(read < 100 + rows * 2, "{xmax} {xid} {id}: {read} blocks");
    }
}

/// Pairs of rows that the joins of a plan compared for nothing.
fn refused_by(node: &serde_json::Value) -> f64 {
    let number = |name: &str| node[name].as_f64().unwrap_or_default();
    let below: f64 = node["Plans"].as_array().into_iter().flatten().map(refused_by).sum();
    below + number("Rows Removed by Join Filter") * number("Actual Loops")
}

/// The daemon asks for them every two seconds.
#[tokio::test]
async fn what_is_watched_is_described_without_comparing_each_partition_with_each_relation() {
    let outbox = Outbox::start(Version::System).await;
    let columns: String = (1..20).map(|n| format!(", c{n} text")).collect();
    let make = format!(
        "CREATE TABLE t (id int{columns}) PARTITION BY RANGE (id);
         DO $$ BEGIN FOR i IN 1..300 LOOP
             EXECUTE format('CREATE TABLE t_%s PARTITION OF t FOR VALUES FROM (%s) TO (%s)', i, i, i + 1);
         END LOOP; END $$;
         SELECT crieur.watch('t')"
    );
    run(&outbox.app, &make).await;
    let (settings, facts) = FACTS.split_once("WITH RECURSIVE").expect("a statement behind its settings");
    run(&outbox.app, &format!("BEGIN; SET LOCAL jit TO off; {settings}")).await;
    let facts = format!("EXPLAIN (ANALYZE, FORMAT JSON) WITH RECURSIVE{facts}");
    let plan = outbox.app.simple_query(&facts).await.expect("valid SQL");
    let plan = plan.iter().filter_map(|said| match said {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let plan: serde_json::Value = serde_json::from_str(&plan.collect::<String>()).expect("EXPLAIN writes JSON");
    let refused = refused_by(&plan[0]["Plan"]);
    assert!(refused < 20_000.0, "{refused} pairs");
}

/// A NULL is a bit in the table and four bytes in the answer.
#[tokio::test]
async fn a_page_is_bounded_by_what_it_becomes_in_memory() {
    let outbox = Outbox::start(Version::System).await;
    // NULLs; long values between NULLs; images of many rows; few columns; values that are kept outside the table.
    let mixed = "(SELECT array_agg(CASE WHEN n % 16 = 0 THEN repeat('x', 50) END) FROM generate_series(1, 1600) AS n)";
    for (image, count) in [
        ("array_fill(NULL::text, ARRAY[1, 1600])", 200..400),
        (mixed, 100..350),
        ("array_fill(NULL::text, ARRAY[5000, 20])", 4..8),
        ("ARRAY[[repeat('x', 1000), NULL, 'y']]", 999..1_001),
        ("ARRAY[[repeat('x', 100000), NULL, 'y']]", 15..25),
    ] {
        run(
            &outbox.app,
            &format!(
                "DELETE FROM crieur.outbox;
                 INSERT INTO crieur.outbox (xid, id, op, old, new)
                 SELECT '5', n, 'U', {image}, {image} FROM generate_series(1, 1200) AS n"
            ),
        )
        .await;
        let sql = format!(
            "SELECT concat_ws(' ', count(*), sum(octet_length(array_send(old)) + octet_length(array_send(new)))) \
             FROM ({}) AS p",
            look(0, "{}", (0, 0))
        );
        let said = ask(&outbox.app, &sql).await;
        let (rows, bytes) = said.split_once(' ').expect("two numbers");
        let (rows, bytes): (usize, usize) = (rows.parse().expect("a number"), bytes.parse().expect("a number"));
        assert!(count.contains(&rows) && bytes < 5_000_000, "{image}: {rows} rows, {bytes} bytes");
    }
}

#[tokio::test]
async fn a_look_in_pages_gives_every_row_once_and_in_order() {
    let outbox = Outbox::start(Version::System).await;
    // 10, 30 and 35 were in progress, 20 was seen, 40 and 50 are newer. A page is of 1,000 rows.
    let sizes = [(10, 1_500), (20, 5), (30, 2_500), (35, 1), (40, 1_200), (50, 3)];
    for (xid, rows) in sizes {
        let fill = "INSERT INTO crieur.outbox (xid, id, op, note) SELECT";
        run(&outbox.app, &format!("{fill} '{xid}', n, 'M', 'x' FROM generate_series(1, {rows}) AS n")).await;
    }
    let of = |xid, rows| (1..=rows).map(move |id| (xid, id));
    let expected: Vec<(usize, usize)> =
        sizes.into_iter().filter(|(xid, _)| *xid != 20).flat_map(|(xid, rows)| of(xid, rows)).collect();
    let mut found: Vec<(usize, usize)> = Vec::new();
    while found.len() < expected.len() {
        let sql = look(40, "{10,30,35}", found.last().copied().unwrap_or_default());
        let rows = outbox.app.query(&sql, &[]).await.expect("valid SQL");
        let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).expect("there are more");
        found.extend(rows.iter().map(|row| (number(row.get(2)), row.get::<_, i64>(3) as usize)));
    }
    assert!(found == expected, "{found:?}");
    let rows = outbox.app.query(&look(40, "{10,30,35}", (50, 3)), &[]).await.expect("valid SQL");
    assert_eq!((rows.len(), rows[0].get::<_, Option<&str>>(2)), (1, None), "the snapshot and no row");
}

#[tokio::test]
async fn no_statement_behind_a_bulk_one_runs_a_plan_that_is_compiled_each_time() {
    // The only one here that was built to compile.
    let outbox = Outbox::start(Version::System).await;
    let admin = &outbox.admin;
    run(&outbox.app, "CREATE TABLE t (id int PRIMARY KEY, city text); SELECT crieur.watch('t')").await;
    run(
        admin,
        "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_analyze = on;
         SET auto_explain.log_nested_statements = on",
    )
    .await;
    let can = ask(admin, "SELECT pg_jit_available()::text").await;
    assert_eq!(can, "true", "this server compiles nothing: apt-get install postgresql-NN-jit, with NN its version");
    // Bulk, then few; of many rows some take one way, some another (rows_max).
    for sql in [
        "INSERT INTO t SELECT n, n::text FROM generate_series(1, 20000) AS n",
        "INSERT INTO t VALUES (20001, ''), (20002, '')",
        "UPDATE t SET city = city || 'x'",
        "UPDATE t SET city = city || 'x' WHERE id = 1",
        "UPDATE t SET city = city || 'x' WHERE id <= 9999",
        "UPDATE t SET city = city || 'x' WHERE id <= 2",
        "DELETE FROM t WHERE id > 9999",
        "DELETE FROM t WHERE id > 2",
        "DELETE FROM t WHERE id = 1",
    ] {
        run(admin, sql).await;
    }
    assert_eq!(ask(admin, "SHOW jit").await, "on");
    let seen = async |what: &str| {
        eventually(what, PATIENCE, async || outbox.server.log().contains(what)).await;
        outbox.server.log()
    };
    ask(admin, "SELECT 'that was all'").await;
    let log = seen("that was all").await;
    assert!(log.contains("Named Tuplestore Scan"), "the triggers' plans are logged");
    assert!(!log.contains("JIT:"), "{log}");
    // A plan that is compiled would have been found.
    run(admin, "SET jit_above_cost = 0").await;
    ask(admin, "SELECT count(*)::text FROM t").await;
    seen("JIT:").await;
}
