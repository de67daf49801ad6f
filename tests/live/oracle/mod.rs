//! A thousand random transactions on tables with JSON, joins and cascades, against an oracle in SQL that knows no rules.
//!
//! A key is affected when the value that a reader would compute changed. Every affected key must be deleted; what is
//! deleted besides is counted, by family, with the reason why rules cannot be closer. `SEED` repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::daemon::{self, Daemon};
use super::scene::{self, RULES, Scene};

#[allow(dead_code)] // The torture test takes more numbers.
#[path = "../../torture/seed.rs"]
mod seed;

use seed::Seed;

const TABLES: &str = include_str!("tables.sql");
const OUR_RULES: &str = include_str!("rules.toml");
const TRANSACTIONS: usize = 1000;
/// Transactions between two looks at the cache.
const ROUND: usize = 3;

/// Why a family may lose keys whose values stay; a family that is not here must not, but for a transaction that undoes
/// what it did.
const REASONS: [(&str, &str); 9] = [
    ("search", "the pattern takes the counts above other prices along"),
    ("page", "a row beyond the first 4 or 8 is not on the page"),
    ("city", "the list shows free rows: one that came and went, or a price written anew"),
    ("dashboard", "a sum or a count may stay what it was, and a lookup sees rows that moved since"),
    ("kind", "a property without such payments; a payment whose listed columns stay"),
    ("amount", "each change of a payment names its amount, changed or not"),
    ("stats", "money moves inside of a month"),
    ("tag", "both tags of a row whose tag or number changed, one of them perhaps nobody's"),
    ("team", "an owner's row that is written anew"),
];

const CITIES: [&str; 8] =
    ["\"Dakar\"", "\"DAKAR\"", "\"Thiès\"", "\"Mbour *\"", "\"Sal[y]\"", "\"C:\\\\x\"", "null", "\"Elsewhere\""];
const TAGS: [&str; 6] = ["\"sea\"", "1.50", "true", "\"\"", "null", "\"sea\", \"hill\""];
const TEAMS: [&str; 6] = ["'a*'", "'b?'", "''", "'é'", "NULL", "'other'"];

fn location(seed: &mut Seed) -> String {
    match seed.below(12) {
        0 => "NULL".to_owned(),
        1 => "'{}'".to_owned(),
        2 => "'[\"sea\"]'".to_owned(),
        _ => format!("'{{\"city\": {}, \"tags\": [{}]}}'", seed.pick(&CITIES), seed.pick(&TAGS)),
    }
}

fn status(seed: &mut Seed) -> &'static str {
    seed.pick(&["'free'", "'free'", "'free'", "'taken'", "'draft'", "NULL"])
}

fn or_null(seed: &mut Seed, number: u64) -> String {
    if seed.chance(8) { "NULL".to_owned() } else { number.to_string() }
}

fn of_property(seed: &mut Seed) -> String {
    let (id, owner) = (1 + seed.below(30), 1 + seed.below(8));
    let owner = format!("(SELECT id FROM owner WHERE id = {})", or_null(seed, owner));
    let (price, place, state) = (seed.below(1200) as f64 / 10.0, location(seed), status(seed));
    match seed.below(12) {
        0..=2 => format!(
            "INSERT INTO property VALUES ({id}, {owner}, {state}, {price:.1}0, {place}) \
             ON CONFLICT (id) DO UPDATE SET status = excluded.status, location = excluded.location"
        ),
        3 => format!("UPDATE property SET view_count = view_count + 1, updated_at = now() WHERE id < {id}"),
        4 => format!("UPDATE property SET price = {price:.2} WHERE id = {id}"),
        5 => format!("UPDATE property SET price = price + 10 WHERE owner_id = {owner}"),
        6 => format!("UPDATE property SET status = {state}, updated_at = now() WHERE id % 7 = {}", id % 7),
        7 => format!("UPDATE property SET location = {place} WHERE id = {id}"),
        8 => format!("UPDATE property SET owner_id = {owner} WHERE id = {id}"),
        9 => format!("UPDATE property SET location = jsonb_set(location, '{{tags}}', '[\"sea\"]') WHERE id = {id}"),
        10 => {
            let free = "(SELECT min(i) FROM generate_series(1, 30) i WHERE i NOT IN (SELECT id FROM property))";
            format!("UPDATE property SET id = coalesce({free}, id) WHERE id = {id}")
        }
        _ => format!("DELETE FROM property WHERE id = {id}"),
    }
}

fn of_owner(seed: &mut Seed) -> String {
    let (id, name, team) = (1 + seed.below(8), seed.below(99), seed.pick(&TEAMS));
    match seed.below(7) {
        0 | 1 => format!("INSERT INTO owner VALUES ({id}, 'n{name}', {team}) ON CONFLICT DO NOTHING"),
        2 => format!("UPDATE owner SET name = 'n{name}' WHERE id = {id}"),
        3 => format!("UPDATE owner SET team = {team} WHERE id = {id}"),
        4 => format!("UPDATE owner SET prefs = '{{\"a\": {name}}}' WHERE id = {id}"),
        5 => {
            let free = "(SELECT min(i) FROM generate_series(1, 8) i WHERE i NOT IN (SELECT id FROM owner))";
            format!("UPDATE owner SET id = coalesce({free}, id) WHERE id = {id}")
        }
        _ if seed.chance(50) => format!("DELETE FROM owner WHERE id = {id}"),
        _ => format!("UPDATE owner SET name = name WHERE id > {id}"),
    }
}

fn of_lease(seed: &mut Seed) -> String {
    let (id, property) = (1 + seed.below(25), 1 + seed.below(30));
    let property = format!("(SELECT id FROM property WHERE id = {property})");
    match seed.below(5) {
        0 | 1 => format!("INSERT INTO lease VALUES ({id}, {property}, 't') ON CONFLICT DO NOTHING"),
        2 => format!("UPDATE lease SET property_id = {property} WHERE id = {id}"),
        3 => format!("UPDATE lease SET tenant = 'u' WHERE id = {id}"),
        _ => format!("DELETE FROM lease WHERE id = {id}"),
    }
}

fn of_payment(seed: &mut Seed) -> String {
    let lease = format!("(SELECT id FROM lease ORDER BY id OFFSET {} LIMIT 1)", seed.below(12));
    let some = format!("id IN (SELECT id FROM payment ORDER BY id DESC OFFSET {} LIMIT 2)", seed.below(20));
    let amount = seed.pick(&["1", "1.5", "10.00", "250", "0.05", "7.77", "NULL"]);
    let at = format!("'2024-01-31 23:30:00-05'::timestamptz + interval '{} days'", seed.below(600));
    let meta = seed.pick(&["'{\"kind\": \"cash\"}'", "'{\"kind\": \"bank\"}'", "'{\"kind\": null}'", "NULL", "'[]'"]);
    match seed.below(8) {
        0..=2 => {
            format!("INSERT INTO payment (lease_id, amount, paid_at, meta) VALUES ({lease}, {amount}, {at}, {meta})")
        }
        3 => format!("UPDATE payment SET amount = {amount} WHERE {some}"),
        4 => format!("UPDATE payment SET lease_id = {lease} WHERE {some}"),
        5 => format!("UPDATE payment SET paid_at = {at} WHERE {some}"),
        6 => format!("UPDATE payment SET meta = {meta} WHERE {some}"),
        _ if seed.chance(4) => "TRUNCATE payment".to_owned(),
        _ => format!("DELETE FROM payment WHERE {some}"),
    }
}

fn statement(seed: &mut Seed) -> String {
    match seed.below(10) {
        0..=3 => of_property(seed),
        4 | 5 => of_owner(seed),
        6 | 7 => of_lease(seed),
        _ => of_payment(seed),
    }
}

/// One transaction: some statements, sometimes a part of them or all of them undone.
fn transaction(seed: &mut Seed) -> String {
    let mut sql = "BEGIN;\n".to_owned();
    for _ in 0..=seed.below(4) {
        let statement = statement(seed);
        let _ = match seed.below(10) {
            0 => writeln!(sql, "SAVEPOINT a; {statement}; ROLLBACK TO a;"),
            1 => writeln!(sql, "SAVEPOINT a; {statement}; RELEASE a;"),
            _ => writeln!(sql, "{statement};"),
        };
    }
    sql + if seed.chance(8) { "ROLLBACK" } else { "COMMIT" }
}

/// The cache, filled with every key that a reader might ask for.
struct Judge<'s> {
    scene: &'s Scene,
    universe: BTreeSet<String>,
    affected: usize,
    deleted: usize,
    over: BTreeMap<String, usize>,
}

impl Judge<'_> {
    fn fill(&self) {
        let mut pipe = redis::pipe();
        self.universe.iter().for_each(|key| _ = pipe.set(key, "value").ignore());
        let () = pipe.query(&mut self.scene.keys()).expect("it is writable");
    }

    /// Compares what went with what had to.
    async fn judge(&mut self, daemon: &Daemon, said: &str) {
        self.scene.confirmed(daemon).await;
        let left: BTreeSet<String> = redis::cmd("KEYS").arg("*").query(&mut self.scene.keys()).expect("it answers");
        let rows = self.scene.sql.query("DELETE FROM oracle.affected RETURNING key", &[]).await.expect("valid SQL");
        let affected: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
        let stale: Vec<_> = affected.intersection(&left).collect();
        assert!(stale.is_empty(), "stale: {stale:?} behind\n{said}\n{}", daemon.log());
        let gone: BTreeSet<_> = self.universe.difference(&left).collect();
        self.affected += affected.len();
        self.deleted += gone.len();
        for key in gone.into_iter().filter(|key| !affected.contains(*key)) {
            let family = key.split(':').next().unwrap_or_default();
            *self.over.entry(family.to_owned()).or_default() += 1;
        }
    }

    fn report(&self, seed: u64) {
        let over: usize = self.over.values().sum();
        println!("SEED={seed}: {TRANSACTIONS} transactions, {} values changed, none of them stale", self.affected);
        println!("{} keys deleted, {over} of them although their value stayed:", self.deleted);
        for (family, count) in &self.over {
            let reason = REASONS.iter().find(|(known, _)| known == family);
            let reason = reason.map_or("transactions that undid what they did", |(_, reason)| reason);
            println!("{count:6}  {family}: {reason}");
        }
    }
}

#[tokio::test]
async fn a_thousand_random_transactions_leave_nothing_stale_and_every_other_delete_has_a_reason() {
    let number = Seed::of_the_run();
    let mut seed = Seed(number);
    println!("SEED={number}");
    let scene = Scene::start().await;
    scene.run(TABLES).await;
    let config = scene::config(&scene.postgres.url(), &scene.cache.url()).replace(RULES, OUR_RULES);
    let setup = daemon::run("setup", &config, &[]);
    assert!(setup.status.success(), "{}", String::from_utf8_lossy(&setup.stderr));
    let mut daemon = scene.daemon_with(&config).await;
    scene.confirmed(&daemon).await;
    let () = redis::cmd("DEL").arg(scene::KEYS).query(&mut scene.keys()).expect("it is writable");
    let universe = scene.sql.query("SELECT key FROM oracle.before", &[]).await.expect("valid SQL");
    let universe = universe.iter().map(|row| row.get(0)).collect();
    let mut judge = Judge { scene: &scene, universe, affected: 0, deleted: 0, over: BTreeMap::new() };
    let mut said = String::new();
    for round in 0..TRANSACTIONS.div_ceil(ROUND) {
        judge.fill();
        said.clear();
        for _ in 0..ROUND.min(TRANSACTIONS - round * ROUND) {
            let sql = transaction(&mut seed);
            let _ = writeln!(said, "{sql};");
            // A statement that breaks a constraint ends its transaction, and so undoes it.
            if scene.sql.batch_execute(&sql).await.is_err() {
                scene.run("ROLLBACK").await;
            }
            scene.run("SELECT oracle.note()").await;
        }
        judge.judge(&daemon, &said).await;
    }
    judge.report(number);
    assert!(judge.affected > TRANSACTIONS, "the transactions change values: {}", judge.affected);
    let unexplained = judge.over.iter().filter(|(family, _)| REASONS.iter().all(|(known, _)| known != family));
    let unexplained: usize = unexplained.map(|(_, count)| count).sum();
    assert!(unexplained < TRANSACTIONS / 50, "{:?}", judge.over);
    assert!(judge.deleted < judge.affected * 2, "more than a rule can be excused for: {:?}", judge.over);
    assert_eq!(daemon.stop(), Some(0));
}
