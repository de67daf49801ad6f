//! Conditions beside the server's own answer, in several collations: what holds there may hold here, and so for its
//! contrary.

use crieur::change::Value;
use crieur::rules::read::syntax::condition;
use crieur::rules::value::condition::{Kind, Possible};
use crieur::rules::value::path::Path;

use super::harness::postgres::{Options, Postgres};

/// Types of `a` and `b` with their oids, values of both, conditions, and whether the server's answer is known here.
type Group = ([(&'static str, u32); 2], &'static [&'static str], &'static [&'static str], bool);

const NUMBERS: &[&str] = &["0.1", "0.25", "0.3", "1", "-1", "9007199254740992", "9007199254740993", "16777217", "NaN"];
const COMPARED: &[&str] = &[
    "a = b",
    "a < b or a >= b",
    "a != 0.1",
    "a > 0.1 and a < 0.3",
    "a = '0.1'",
    "a = 9007199254740993",
    "a = 0.1000000000000000055",
    "not b <= 16777217",
    "a in (0.25, 0.1)",
];
const ORDERED: &[&str] = &["a = b", "a != b", "a < b", "not a <= 'b'", "a > ''", "a in ('B', 'é')"];

const GROUPS: &[Group] = &[
    ([("numeric", 1700), ("numeric", 1700)], NUMBERS, COMPARED, true),
    ([("float8", 701), ("numeric", 1700)], NUMBERS, COMPARED, true),
    ([("float8", 701), ("float8", 701)], NUMBERS, COMPARED, true),
    ([("float4", 700), ("float4", 700)], NUMBERS, &["a = b", "a < b", "a = '0.1'", "a > b or a != '0.3'"], true),
    ([("float4", 700), ("float8", 701)], NUMBERS, COMPARED, false),
    ([("numeric", 1700), ("float4", 700)], NUMBERS, COMPARED, false),
    (
        [("date", 1082), ("date", 1082)],
        &["2024-01-02", "2024-06-01", "0999-01-01"],
        &["a < b", "a >= '2024-06-01'"],
        true,
    ),
    ([("text", 25), ("text", 25)], TEXTS, ORDERED, false),
    ([("text", 25), ("text", 25)], TEXTS, LIKE, false),
    ([("text", 25), ("char(4)", 1042)], &["", "a", "ab", "B", "é"], &["a = b", "a != b", "a < b", "b > 'a'"], false),
    (
        [("text", 25), ("text", 25)],
        &["", "Grand-Dakar", "DAKAR", "ab"],
        &["a ilike '%dakar%'", "a not ilike 'DA%'"],
        true,
    ),
];
const TEXTS: &[&str] = &[
    "", "a", "A", "b", "B", "ab", "i", "I", "ı", "İ", "i\u{307}", "é", "É", "ß", "ẞ", "ς", "ΟΔΟΣ", "οδος", "ſ", "s",
    "\u{1}",
];
const LIKE: &[&str] = &[
    "a ilike 'i'",
    "a not ilike 'I%'",
    "a ilike '_'",
    "a not ilike 'É%'",
    "a ilike 'İ'",
    "a not ilike 'ΟΔΟΣ'",
    "a ilike 'ΟΔΟσ%'",
    "not a ilike 'S' and a like '_'",
    "a ilike 'ß' or a not ilike '%b'",
];
const COLLATIONS: &[&str] = &["C", "C.utf8", "und-x-icu", "en-x-icu", "tr-x-icu", "lt-x-icu"];

/// The text as the stream has it: a cast takes the blanks from `char(n)`.
fn sent(column: &str) -> String {
    format!("CASE WHEN {column} IS NOT NULL THEN format('%s', {column}) END")
}

#[tokio::test]
async fn what_the_server_says_of_a_condition_is_possible() {
    let server = Postgres::start(Options::default());
    let client = server.client().await;
    for (types, values, conditions, known) in GROUPS {
        let [(a, _), (b, _)] = types;
        let values: Vec<String> = values.iter().map(|value| format!("('{value}')")).collect();
        let collations = if a == &"text" { COLLATIONS } else { &[""] };
        for (collation, said) in collations.iter().flat_map(|it| conditions.iter().map(move |said| (it, said))) {
            let collate = if collation.is_empty() { String::new() } else { format!("COLLATE \"{collation}\"") };
            let sql = format!(
                "WITH v (t) AS (VALUES {}, (NULL)) SELECT {}, {}, {said} FROM \
                 (SELECT x.t::{a} {collate} AS a, y.t::{b} {collate} AS b FROM v x, v y) AS row",
                values.join(", "),
                sent("a"),
                sent("b"),
            );
            let parsed = condition(said, &[]).expect("a condition");
            let rows = client.query(&sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            for row in rows {
                let texts: [Option<String>; 2] = [row.get(0), row.get(1)];
                let read = |path: &Path| {
                    let index = usize::from(path.column == "b");
                    let text = texts[index].as_deref().map_or(Value::Null, |text| Value::Text(text.as_bytes()));
                    (text, Kind::of(types[index].1))
                };
                let possible = parsed.possible(&read);
                let agrees = match (row.get::<_, Option<bool>>(2), known) {
                    (Some(truth), true) => possible == Possible::is(truth),
                    (Some(true), false) => possible.may_hold(),
                    (Some(false), false) => possible.negated().may_hold(),
                    (None, _) => possible == Possible::NULL,
                };
                assert!(agrees, "{said} of {texts:?} ({a}, {b}) in {collation:?}: {possible:?}");
            }
        }
    }
}
