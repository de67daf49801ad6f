//! What rules make of changes, as data: a row of the table is rules, a change and exactly what comes out; more of them
//! stand in `cases/`.

mod properties;
mod written;

use proptest::prelude::*;

use crate::change::{Column, Oid, Old, Relation, ReplicaIdentity, Row, Tuple, Value, push_column};
use crate::glob;
use crate::keys::KeySet;
use crate::question::{Answer, Question};
use crate::rules::invalidations::Invalidations;
use crate::rules::read::parse::{read_text, rules_of};
use crate::rules::ruleset::Rules;

const DOUSELL: &str = include_str!("../../systemd/dousell.rules.toml");
/// Cells that are no text.
const NULL: &str = "NULL";
const UNKNOWN: &str = "~";

/// Columns as `name`, `name:oid`, with a `*` behind those of the replica identity.
fn relation(columns: &str) -> Relation {
    let column = |text: &str| {
        let (text, in_identity) = text.strip_suffix('*').map_or((text, false), |text| (text, true));
        let (name, oid) = text.split_once(':').unwrap_or((text, "25"));
        Column { name: name.to_owned(), type_oid: Oid(oid.parse().expect("a number")), in_identity }
    };
    let columns = columns.split_whitespace().map(column).collect();
    Relation { oid: Oid(1), schema: "public".into(), name: "t".into(), identity: ReplicaIdentity::Index, columns }
}

fn body(cells: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for cell in cells {
        let value = match *cell {
            NULL => Value::Null,
            UNKNOWN => Value::Unknown,
            text => Value::Text(text.as_bytes()),
        };
        push_column(&mut body, value);
    }
    body
}

/// A change in words.
#[derive(Clone, Copy, Debug)]
enum Made<'a> {
    Insert(&'a [&'a str]),
    Update(Before<'a>, &'a [&'a str]),
    Delete(Before<'a>),
    Truncate,
}

#[derive(Clone, Copy, Debug)]
enum Before<'a> {
    Absent,
    Key(&'a [&'a str]),
    Full(&'a [&'a str]),
}

fn apply(rules: &Rules, table: &str, columns: &str, made: Made<'_>, tx: u32, out: &mut Invalidations) {
    let before = match made {
        Made::Update(Before::Key(cells) | Before::Full(cells), _)
        | Made::Delete(Before::Key(cells) | Before::Full(cells)) => cells,
        Made::Update(Before::Absent, _) | Made::Delete(Before::Absent) | Made::Insert(_) | Made::Truncate => &[],
    };
    let after = match made {
        Made::Insert(cells) | Made::Update(_, cells) => cells,
        Made::Delete(_) | Made::Truncate => &[],
    };
    let (old_body, new_body) = (body(before), body(after));
    let tuple = Tuple::checked(before.len() as u16, &old_body);
    let new = Tuple::checked(after.len() as u16, &new_body);
    let old = |before: Before<'_>| match before {
        Before::Absent => Old::Absent,
        Before::Key(_) => Old::Key(tuple),
        Before::Full(_) => Old::Full(tuple),
    };
    let row = match made {
        Made::Insert(_) => Row::Insert { new },
        Made::Update(before, _) => Row::Update { old: old(before), new },
        Made::Delete(before) => Row::Delete { old: old(before) },
        Made::Truncate => Row::Truncate,
    };
    rules.plan(&relation(columns), ("public", table)).apply(&row, tx, out);
}

fn listed(set: &KeySet) -> Vec<String> {
    set.iter().map(|key| String::from_utf8_lossy(key.bytes).into_owned()).collect()
}

/// Exact keys, then patterns with a `~` before them, then `?n` when n lookups wait.
fn shown(out: &Invalidations) -> Vec<String> {
    let patterns = listed(&out.patterns).into_iter().map(|pattern| format!("~{pattern}"));
    let waiting = (!out.lookups.is_empty()).then(|| format!("?{}", out.lookups.len()));
    listed(&out.keys).into_iter().chain(patterns).chain(waiting).collect()
}

fn check(rules: &str, table: &str, columns: &str, made: Made<'_>, expected: &[&str]) {
    let mut out = Invalidations::default();
    apply(&rules_of(rules), table, columns, made, 0, &mut out);
    assert_eq!(shown(&out), expected, "{rules}\n{made:?}");
}

#[test]
fn the_invalidation_table_of_dousell_holds() {
    let list = "properties:all_properties_public";
    // (identity columns, change, keys)
    let cases: &[(&str, Made<'_>, &[&str])] = &[
        ("id* city", Made::Insert(&["7", "Dakar"]), &[list, "properties:detail:7", "properties:city:Dakar"]),
        (
            "id* city*",
            Made::Update(Before::Absent, &["7", "Dakar"]),
            &[list, "properties:detail:7", "properties:city:Dakar"],
        ),
        (
            "id* city*",
            Made::Update(Before::Key(&["7", "Dakar"]), &["7", "Thiès"]),
            &[list, "properties:detail:7", "properties:city:Thiès", "properties:city:Dakar"],
        ),
        (
            "id city",
            Made::Update(Before::Full(&["7", "Dakar"]), &["7", "Thiès"]),
            &[list, "properties:detail:7", "properties:city:Thiès", "properties:city:Dakar"],
        ),
        // The default identity does not tell the old city: its family goes.
        (
            "id* city",
            Made::Update(Before::Absent, &["7", "Dakar"]),
            &[list, "properties:detail:7", "properties:city:Dakar", "~properties:city:*"],
        ),
        // The id itself changed; the old tuple's city is not real, whatever it holds.
        (
            "id* city",
            Made::Update(Before::Key(&["6", NULL]), &["7", "Dakar"]),
            &[list, "properties:detail:7", "properties:detail:6", "properties:city:Dakar", "~properties:city:*"],
        ),
        (
            "id* city*",
            Made::Update(Before::Key(&["7", NULL]), &["7", "Dakar"]),
            &[list, "properties:detail:7", "properties:city:Dakar"],
        ),
        (
            "id* city*",
            Made::Update(Before::Key(&["7", "Dakar"]), &["7", NULL]),
            &[list, "properties:detail:7", "properties:city:Dakar"],
        ),
        ("id* city", Made::Insert(&["7", NULL]), &[list, "properties:detail:7"]),
        ("id* city", Made::Insert(&["7", ""]), &[list, "properties:detail:7", "properties:city:"]),
        (
            "id* city*",
            Made::Delete(Before::Key(&["7", "Dakar"])),
            &[list, "properties:detail:7", "properties:city:Dakar"],
        ),
        ("id* city", Made::Delete(Before::Key(&["7", NULL])), &[list, "properties:detail:7", "~properties:city:*"]),
        ("id city", Made::Delete(Before::Full(&["7", NULL])), &[list, "properties:detail:7"]),
        ("id* city", Made::Truncate, &[list, "~properties:detail:*", "~properties:city:*"]),
        // Unchanged TOAST: the whole old row tells it, an old key with the column too, else nobody.
        (
            "id city",
            Made::Update(Before::Full(&["7", "Dakar"]), &["7", UNKNOWN]),
            &[list, "properties:detail:7", "properties:city:Dakar"],
        ),
        (
            "id* city*",
            Made::Update(Before::Key(&["6", "Dakar"]), &["7", UNKNOWN]),
            &[list, "properties:detail:7", "properties:detail:6", "properties:city:Dakar"],
        ),
        (
            "id* city",
            Made::Update(Before::Absent, &["7", UNKNOWN]),
            &[list, "properties:detail:7", "~properties:city:*"],
        ),
        // A dropped or unpublished column, a short tuple, no tuple.
        ("id*", Made::Insert(&["7"]), &[list, "properties:detail:7", "~properties:city:*"]),
        ("id* city", Made::Insert(&["7"]), &[list, "properties:detail:7", "~properties:city:*"]),
        ("id* city", Made::Delete(Before::Absent), &[list, "~properties:detail:*", "~properties:city:*"]),
    ];
    for (columns, made, expected) in cases {
        check(DOUSELL, "properties", columns, *made, expected);
    }
    check(DOUSELL, "rental_payments", "id* lease_id", Made::Insert(&["1", "L"]), &["payments:lease:L", "?1"]);
    check(
        DOUSELL,
        "rental_payments",
        "id* lease_id",
        Made::Update(Before::Absent, &["1", "L"]),
        &["payments:lease:L", "~payments:lease:*", "~dashboard:*", "?1"],
    );
    check(
        DOUSELL,
        "rental_payments",
        "id* lease_id*",
        Made::Update(Before::Key(&["1", "K"]), &["1", "L"]),
        &["payments:lease:L", "payments:lease:K", "?2"],
    );
    check(DOUSELL, "rental_payments", "id* lease_id", Made::Truncate, &["~payments:lease:*", "~dashboard:*"]);
    check(DOUSELL, "visit_bookings", "id* property_id", Made::Insert(&["1", "P"]), &["available_slots:P"]);
    check(DOUSELL, "other", "id*", Made::Insert(&["1"]), &[]);
}

#[test]
fn values_go_into_keys_as_an_application_writes_them() {
    let rules = "[[rules]]\ntable = 't'\nkeys = ['k:{x}']\n";
    let cases = [
        ("16", "t", "true"),
        ("16", "f", "false"),
        ("25", "t", "t"),
        ("1700", "250000.00", "250000"),
        ("1700", "1.50", "1.5"),
        ("1700", "100", "100"),
        ("1700", "0.00", "0"),
        ("1700", "-0.10", "-0.1"),
        ("1700", "NaN", "NaN"),
        ("25", "1.50", "1.50"),
    ];
    for (oid, sent, written) in cases {
        check(rules, "t", &format!("x:{oid}*"), Made::Insert(&[sent]), &[&format!("k:{written}")]);
    }
    // 1.0 and 1.00 are the same key, so it is rendered once.
    check(rules, "t", "x:1700*", Made::Update(Before::Key(&["1.0"]), &["1.00"]), &["k:1"]);
}

#[test]
fn rules_say_which_changes_and_which_shape() {
    let cases: &[(&str, Made<'_>, &[&str])] = &[
        ("on = ['insert']\nkeys = ['k:{a}']", Made::Update(Before::Absent, &["1", "2"]), &[]),
        ("on = ['insert']\nkeys = ['k:{a}']", Made::Insert(&["1", "2"]), &["k:1"]),
        ("on = ['insert']\nkeys = ['k:{a}']", Made::Truncate, &["~k:*"]),
        ("keys = ['search:*:{a}']", Made::Insert(&["1*", "2"]), &["~search:*:1\\*"]),
        ("keys = ['k:{b}{a}{b}']", Made::Insert(&["1", "2"]), &["k:212"]),
        ("keys = ['k:{a}{b}']", Made::Insert(&[UNKNOWN, UNKNOWN]), &["~k:*"]),
        ("keys = ['k:{a}:{b}']", Made::Insert(&[UNKNOWN, "x?"]), &["~k:*:x\\?"]),
        ("keys = ['k:{a}:{b}']", Made::Insert(&[UNKNOWN, NULL]), &[]),
        ("keys = ['k?[{{{a}}}]']", Made::Insert(&["1", "2"]), &["k?[{1}]"]),
        ("keys = ['k?:{a}']", Made::Truncate, &["~k\\?:*"]),
        ("namespace = 'n'\nkeys = ['{a}', 'c']", Made::Insert(&["1", "2"]), &["n:1", "n:c"]),
        ("keys = ['l{a}ck:{b}']", Made::Insert(&["o", "2"]), &[]),
    ];
    for (rule, made, expected) in cases {
        check(&format!("[[rules]]\ntable = 't'\n{rule}\n"), "t", "a* b", *made, expected);
    }
}

#[test]
fn a_protected_key_stays_and_is_counted() {
    let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['l{a}', 'x{a}']\n");
    let mut out = Invalidations::default();
    apply(&rules, "t", "a*", Made::Insert(&["ock:1"]), 0, &mut out);
    assert_eq!((shown(&out), out.protected), (vec!["xock:1".to_owned()], 1));
}

#[test]
fn widened_keys_are_counted_and_missing_columns_are_named() {
    let rules = rules_of(DOUSELL);
    let mut out = Invalidations::default();
    apply(&rules, "properties", "id*", Made::Insert(&["7"]), 0, &mut out);
    assert_eq!(out.widened, 1);
    assert_eq!(rules.plan(&relation("id*"), ("public", "properties")).missing(), ["city"]);
}

/// Answers, by the first argument: how many rows, NULL or refused.
fn resolved(answer: impl Fn(&Question) -> Answer) -> (Invalidations, Vec<Question>) {
    let rules = rules_of(DOUSELL);
    let mut asked = Invalidations::default();
    for (tx, lease) in [(2, "L"), (3, "M"), (5, "L")] {
        apply(&rules, "rental_payments", "id lease_id", Made::Insert(&["1", lease]), tx, &mut asked);
    }
    let questions = rules.questions(&asked.lookups);
    let answers: Vec<Answer> = questions.iter().map(answer).collect();
    let mut out = Invalidations::default();
    rules.resolve(&asked.lookups, &questions, &answers, &mut out);
    (out, questions)
}

#[test]
fn lookups_make_one_key_for_each_row_of_their_answer() {
    let row = |text: &str| vec![Some(text.as_bytes().to_vec())];
    let cases: [(Answer, &[&str]); 6] = [
        (Answer::Rows(vec![]), &[]),
        (Answer::Rows(vec![row("o1")]), &["dashboard:o1"]),
        (Answer::Rows(vec![row("o1"), row("o*"), row("o1")]), &["dashboard:o1", "dashboard:o*"]),
        (Answer::Rows(vec![vec![None], row("")]), &["dashboard:"]),
        (Answer::Rows(vec![vec![]]), &["~dashboard:*"]),
        (Answer::Refused("no such column".to_owned()), &["~dashboard:*"]),
    ];
    for (answer, expected) in cases {
        let (out, questions) = resolved(|_| answer.clone());
        assert_eq!(shown(&out), expected, "{answer:?}");
        let args: Vec<_> = questions.iter().map(|question| question.args.clone()).collect();
        assert_eq!(args, [[Some(b"L".to_vec())], [Some(b"M".to_vec())]]);
    }
    let (out, _) = resolved(|question| Answer::Rows(vec![vec![question.args[0].clone()]]));
    let ranges: Vec<_> = out.keys.iter().map(|key| (key.first, key.last)).collect();
    assert_eq!(ranges, [(2, 5), (3, 3)]);
}

#[test]
fn a_null_argument_is_asked_and_an_unknown_one_widens() {
    check(DOUSELL, "rental_payments", "id* lease_id", Made::Insert(&["1", NULL]), &["?1"]);
    check(
        DOUSELL,
        "rental_payments",
        "id* lease_id",
        Made::Insert(&["1", UNKNOWN]),
        &["~payments:lease:*", "~dashboard:*"],
    );
}

#[test]
fn an_update_is_judged_by_its_own_columns_whatever_the_one_before_changed() {
    let rules = "[[rules]]\ntable = 't'\nchanged = ['a']\nkeys = ['a:{id}']\n\
                 [[rules]]\ntable = 't'\nignore = ['a']\nkeys = ['b:{id}']\n\
                 [[rules]]\ntable = 't'\nwhen = \"a = 'y'\"\nkeys = ['y:{id}']\n";
    let plan = rules_of(rules).plan(&relation("id* a* b*"), ("public", "t"));
    let cases: [([&str; 3], [&str; 3], &[&str]); 6] = [
        (["1", "x", "x"], ["1", "y", "x"], &["a:1", "y:1"]),
        (["1", "y", "x"], ["1", "y", "z"], &["b:1", "y:1"]),
        (["1", "y", "x"], ["1", "y", "x"], &["y:1"]),
        (["1", "x", "x"], ["1", "y", "z"], &["a:1", "b:1", "y:1"]),
        (["1", "y", "x"], ["1", "z", "x"], &["a:1", "y:1"]),
        (["1", "z", "x"], ["1", "z", "y"], &["b:1"]),
    ];
    for (old, new, expected) in cases.iter().chain(cases.iter().rev()) {
        let (old_body, new_body) = (body(old), body(new));
        let (old, new) = (Old::Full(Tuple::checked(3, &old_body)), Tuple::checked(3, &new_body));
        let mut out = Invalidations::default();
        plan.apply(&Row::Update { old, new }, 0, &mut out);
        assert_eq!(shown(&out), *expected, "{old:?} {new:?}");
    }
}

#[test]
fn everything_is_every_family() {
    let rules = rules_of(DOUSELL);
    let mut out = Invalidations::default();
    rules.everything().apply(&Row::Truncate, 0, &mut out);
    assert_eq!(out.keys.len() + out.patterns.len(), rules.families().count());
    for (id, family) in rules.families() {
        assert_eq!(rules.family(id), family);
    }
}

/// Values full of what patterns, templates and terminals make something of.
fn odd() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[*?\\[\\]\\\\^\\-{}a:\n\"]{0,8}", 1 => ".{0,8}"]
        .prop_filter("a cell's word", |text| text != NULL && text != UNKNOWN)
}

proptest! {
    #[test]
    fn a_value_is_data_and_never_a_pattern(a in odd(), b in odd(), other in odd()) {
        let rules = rules_of("[[rules]]\ntable = 't'\nkeys = ['k:{a}:{b}']\n");
        let mut out = Invalidations::default();
        apply(&rules, "t", "a* b", Made::Insert(&[&a, &b]), 0, &mut out);
        prop_assert_eq!(shown(&out), [format!("k:{a}:{b}")]);

        let mut out = Invalidations::default();
        apply(&rules, "t", "a* b", Made::Insert(&[&a, UNKNOWN]), 0, &mut out);
        let pattern = out.patterns.iter().next().expect("an unknown value makes a pattern").bytes.to_vec();
        let key = format!("k:{a}:{other}");
        prop_assert!(glob::matches(&pattern, key.as_bytes()));
        let foreign = format!("k:{other}:{b}");
        prop_assert_eq!(glob::matches(&pattern, foreign.as_bytes()), foreign.starts_with(&format!("k:{a}:")));
    }

    #[test]
    fn the_family_covers_every_key(a in odd(), b in odd()) {
        let rules = read_text("[[rules]]\ntable = 't'\nkeys = ['k*:{a}x{b}']\n", &[]).expect("valid rules");
        let (_, family) = rules.families().next().expect("one template");
        let key = format!("k*:{a}x{b}");
        prop_assert!(glob::matches(family, key.as_bytes()));
    }

    #[test]
    fn no_tuple_panics(columns in 0_u16..5, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let rules = rules_of(DOUSELL);
        let tuple = Tuple::checked(columns, &bytes);
        let mut out = Invalidations::default();
        let plan = rules.plan(&relation("id* city"), ("public", "properties"));
        for old in [Old::Absent, Old::Key(tuple), Old::Full(tuple)] {
            plan.apply(&Row::Update { old, new: tuple }, 0, &mut out);
            plan.apply(&Row::Delete { old }, 0, &mut out);
        }
    }
}
