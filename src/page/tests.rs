//! What the page makes of what it is given.

use std::sync::Arc;

use super::*;
use crate::observe::trail::{NamedKey, Traced};
use crate::page::snapshot::{PostgresShown, ProblemShown, RuleShown, TableShown};

fn cache(name: &str, is_up: bool) -> CacheShown {
    CacheShown {
        name: name.to_owned(),
        place: format!("{name}.test:6379"),
        kind: "cache",
        is_required: true,
        is_up,
        refuses: false,
        is_released: false,
        oldest_undeleted_seconds: 0.0,
        mark_age_seconds: Some(1.0),
        mark: Some("0/1".to_owned()),
        keys_sent: 10,
        keys_existed: 5,
        sweeps: 1,
        reads: Some(1_000),
        hit_ratio: Some(0.9),
        recent_hit_ratio: None,
        recent_reads: Some(100),
        memory_bytes: Some(1 << 20),
        evicted: Some(0),
        billed: None,
        age_bound_seconds: None,
    }
}

fn view() -> PageView {
    let snapshot = DaemonShown {
        version: "0.1.0",
        at: 0.0,
        role: "streaming",
        is_ready: true,
        problems: Vec::new(),
        oldest_undeleted_seconds: 0.0,
        postgres: PostgresShown { place: "db.test:5432".to_owned(), is_up: true, ..PostgresShown::default() },
        caches: vec![cache("main", true)],
        tables: vec![TableShown { table: "public.properties".to_owned(), changes: [1, 2, 3, 0], keys: 6 }],
        rules: vec![RuleShown { rule: "crieur.toml:3".to_owned(), keys: 6 }],
        rules_digest: "d".to_owned(),
        is_last_reload_good: true,
    };
    let (changes, points, warnings) = (Some(Vec::new()), Vec::new(), Vec::new());
    PageView { snapshot, rates: None, changes, points, warnings, verified: Verified::default() }
}

fn posted(key: &str) -> Posted {
    let keys = vec![NamedKey { rule: "crieur.toml:3".into(), key: key.to_owned(), is_pattern: false }];
    let changed = Traced {
        number: 1,
        table: "public.properties".into(),
        operation: "update",
        keys,
        more: 0,
        left_out: 0,
        committed: SystemTime::UNIX_EPOCH + Duration::from_secs(3_661),
    };
    Posted { changed: Arc::new(changed), gone: vec![("main".into(), Duration::from_millis(3))], turn: 1 }
}

fn problem(what: &str, seconds: f64) -> ProblemShown {
    ProblemShown { what: what.to_owned(), seconds: Some(seconds) }
}

#[test]
fn what_comes_from_outside_is_text_wherever_it_stands() {
    let evil = "\"><script>alert('1')</script>\u{202e}&\n";
    let mut view = view();
    view.changes = Some(vec![posted(evil)]);
    view.snapshot.problems = vec![ProblemShown { what: evil.to_owned(), seconds: None }];
    view.snapshot.postgres.place = evil.to_owned();
    view.snapshot.tables[0].table = evil.to_owned();
    view.snapshot.caches[0].place = evil.to_owned();
    view.warnings =
        vec![Warning { at: SystemTime::UNIX_EPOCH, id: "cache.failing", level: Level::Warn, text: evil.to_owned() }];
    for language in [Language::English, Language::French] {
        let html = page(&view, language, "n");
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        assert!(!html.contains("alert('"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\u{fffd}&amp;\u{fffd}").count(), 6);
    }
}

#[test]
fn a_hit_rate_is_red_when_it_is_low_and_of_more_than_a_few_reads() {
    let mut view = view();
    let red = |view: &PageView| page(view, Language::English, "n").contains("class=\"tile bad\"");
    assert!(!red(&view));
    view.snapshot.caches[0].recent_hit_ratio = Some(0.5);
    assert!(red(&view));
    view.snapshot.caches[0].reads = Some(12);
    assert!(!red(&view), "a cache that was just started");
    let shown = page(&view, Language::English, "n");
    assert!(shown.contains("<b>50.0 %</b>"), "{shown}");
    view.snapshot.caches[0].recent_reads = Some(3);
    let shown = page(&view, Language::English, "n");
    assert!(!shown.contains(" %<"), "three reads are no rate, nor is one of last week: {shown}");
}

#[test]
fn the_page_says_first_what_is_wrong_and_since_when() {
    let mut view = view();
    assert!(page(&view, Language::English, "n").contains("Everything that commits is deleted at once."));
    view.snapshot.problems = vec![problem("the cache dakar does not answer", 90.0)];
    view.snapshot.caches.push(cache("dakar", false));
    let english = page(&view, Language::English, "n");
    assert!(english.contains("the cache dakar does not answer for 90 s"), "{english}");
    let french = page(&view, Language::French, "n");
    assert!(french.contains("le cache dakar ne répond pas depuis 90 s") && french.contains("lang=fr"), "{french}");
    view.snapshot.caches.push(CacheShown { refuses: true, ..cache("site", false) });
    for (language, words) in
        [(Language::English, "<td class=bad>refuses<"), (Language::French, "<td class=bad>refuse<")]
    {
        assert!(page(&view, language, "n").contains(words), "{words}");
    }
}

#[test]
fn a_sink_is_called_one_and_everything_that_is_wrong_has_its_line() {
    let mut view = view();
    let site = CacheShown { kind: "sink", is_required: false, refuses: true, ..cache("site", false) };
    view.snapshot.caches.push(site);
    view.snapshot.problems = vec![
        problem("the cache dakar does not answer", 14.0),
        problem("the sink site refuses what crieur asks", 720.0),
    ];
    let english = page(&view, Language::English, "n");
    let first = "<p class=\"state bad\" role=status>the cache dakar does not answer for 14 s</p>\
                 <p class=\"state bad\" role=status>the sink site refuses what crieur asks for 12 min</p>";
    for part in [first, "<h2>Caches and sinks</h2>", "<b>site</b> (sink)", "<td class=bad>refuses</td>"] {
        assert!(english.contains(part), "{part}: {english}");
    }
    assert!(!english.contains("deleted at once") && !english.contains("not required"), "{english}");
    let french = page(&view, Language::French, "n");
    for part in ["le sink site refuse ce que crieur demande depuis 12 min", "<td class=bad>refuse</td>"] {
        assert!(french.contains(part), "{part}: {french}");
    }
}

#[test]
fn the_first_line_never_says_at_once_while_a_change_waits() {
    let mut view = view();
    view.snapshot.caches[0].oldest_undeleted_seconds = 14.0;
    let english = page(&view, Language::English, "n");
    assert!(english.contains("the oldest change that is not deleted yet waits for 14 s.</p>"), "{english}");
    assert!(!english.contains("deleted at once"), "{english}");
    let french = page(&view, Language::French, "n");
    assert!(french.contains("attend depuis 14 s.</p>") && !french.contains("aussitôt"), "{french}");
}

#[test]
fn changes_are_shown_with_their_keys_unless_the_configuration_keeps_them_off() {
    let mut view = view();
    view.changes = Some(vec![posted("properties:detail:123")]);
    let shown = page(&view, Language::English, "n");
    for part in ["01:01:01", "public.properties", "update", "properties:detail:123", "crieur.toml:3", "main 3.0 ms"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    view.changes = None;
    let hidden = page(&view, Language::English, "n");
    assert!(hidden.contains("admin.changes") && !hidden.contains("detail:123"));
}

#[test]
fn the_last_stale_key_is_shown_unless_the_configuration_keeps_keys_off() {
    let mut view = view();
    assert!(!page(&view, Language::English, "n").contains("<h2>Verifier</h2>"), "nothing is verified");
    let last = StaleKey {
        at: SystemTime::UNIX_EPOCH + Duration::from_secs(3_661),
        cache: "dakar".to_owned(),
        key: Some("properties:detail:<7>".to_owned()),
        place: "crieur.toml:9".to_owned(),
        known_for: Duration::from_secs(4),
        is_mended: false,
    };
    let stale_age = Duration::from_secs(90);
    view.verified =
        Verified { checked: 1_200, stale: 3, undecided: 1, stale_now: 2, stale_age, last_stale: Some(last.clone()) };
    let english = page(&view, Language::English, "n");
    for part in
        ["<code>properties:detail:&lt;7&gt;</code> · dakar", "crieur.toml:9, 01:01:01 UTC", "1,200", "2 for 90 s"]
    {
        assert!(english.contains(part), "{part}: {english}");
    }
    assert_eq!(view.json()["verified"]["last_stale"]["key"], "properties:detail:<7>");
    view.verified.last_stale = Some(StaleKey { key: None, is_mended: true, ..last });
    let french = page(&view, Language::French, "n");
    assert!(french.contains("pas montrée ici · dakar, plus périmée") && !french.contains("detail:"), "{french}");
}

#[test]
fn a_command_is_told_what_the_page_shows() {
    let mut view = view();
    view.changes = Some(vec![posted("properties:detail:123")]);
    view.snapshot.caches[0].recent_hit_ratio = Some(0.875);
    view.rates = Some(vec![Rate { changes: 1.5, keys: 3.0 }]);
    view.points = [0.001, 0.002, 0.5].map(|age| Point { ago: 1.0, age }).to_vec();
    view.snapshot.problems = vec![problem("the cache dakar does not answer", 14.0), problem("b", 1.0)];
    let (at, text) = (SystemTime::UNIX_EPOCH + Duration::from_secs(5), "it fails".to_owned());
    view.warnings = vec![Warning { at, id: "cache.failing", level: Level::Warn, text }];
    let shown = view.json();
    let change = serde_json::json!({
        "at": 3661.0, "table": "public.properties", "operation": "update", "more": 0,
        "keys": [{ "rule": "crieur.toml:3", "key": "properties:detail:123", "is_pattern": false }],
        "deleted_after_seconds": { "main": 0.003 },
    });
    let warning = serde_json::json!({ "at": 5.0, "id": "cache.failing", "level": "warning", "text": "it fails" });
    for (name, value) in [
        ("problem", serde_json::json!("the cache dakar does not answer")),
        ("problem_seconds", serde_json::json!(14.0)),
        ("hit_rate", serde_json::json!(0.875)),
        ("commit_to_delete_median_seconds", serde_json::json!(0.002)),
        ("commit_to_delete_of", serde_json::json!(3)),
        ("changes", serde_json::json!([change])),
        ("warnings", serde_json::json!([warning])),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    assert_eq!(shown["tables"][0]["keys_per_second"], 3.0);
    assert_eq!(shown["problems"][1]["what"], "b");
    view.changes = None;
    assert!(view.json()["changes"].is_null() && !view.json().to_string().contains("detail:123"));
}

#[test]
fn the_page_is_small_and_brings_all_that_it_needs() {
    let mut view = view();
    view.changes = Some((0..CHANGES_MAX).map(|number| posted(&format!("properties:detail:{number}"))).collect());
    view.points = (0..256).map(|number| Point { ago: f64::from(number), age: 0.003 }).collect();
    let html = page(&view, Language::French, "n");
    assert!(html.len() < 60_000, "{}", html.len());
    assert!(!html.contains("http://") && !html.contains("https://"), "nothing is fetched from elsewhere");
    for (id, part) in parts(&view, Language::French) {
        assert!(html.contains(&format!("<div id={id}>{part}</div>")), "{id}");
        assert!(!part.contains('\n'), "{id}: a part is one line of an event");
    }
}

#[test]
fn an_id_of_the_log_has_its_page_and_nothing_else_has() {
    let page = runbook("cache.failing", Language::English, "n").expect("it is in the list");
    let entry = LIST.iter().find(|entry| entry.name == "cache.failing").expect("it is in the list");
    assert!(page.contains(&escaped(entry.act)), "{page}");
    assert_eq!(runbook("<script>", Language::English, "n"), None);
}
