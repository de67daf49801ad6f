//! What the page makes of what it is given.

use std::sync::Arc;

use super::*;
use crate::observe::trail::{NamedKey, Traced};
use crate::page::snapshot::{PostgresShown, RuleShown, TableShown};

fn cache(name: &str, is_up: bool) -> CacheShown {
    CacheShown {
        name: name.to_owned(),
        place: format!("{name}.test:6379"),
        is_required: true,
        is_up,
        is_released: false,
        oldest_undeleted_seconds: 0.0,
        mark_age_seconds: Some(1.0),
        mark: Some("0/1".to_owned()),
        keys_sent: 10,
        keys_existed: 5,
        sweeps: 1,
        hit_ratio: Some(0.9),
        recent_hit_ratio: None,
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
        problem: None,
        problem_seconds: None,
        oldest_undeleted_seconds: 0.0,
        postgres: PostgresShown { place: "db.test:5432".to_owned(), is_up: true, ..PostgresShown::default() },
        caches: vec![cache("main", true)],
        tables: vec![TableShown { table: "public.properties".to_owned(), changes: [1, 2, 3, 0], keys: 6 }],
        rules: vec![RuleShown { rule: "crieur.toml:3".to_owned(), keys: 6 }],
        rules_digest: "d".to_owned(),
        is_last_reload_good: true,
    };
    PageView { snapshot, rates: None, changes: Some(Vec::new()), points: Vec::new(), warnings: Vec::new() }
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

#[test]
fn what_comes_from_outside_is_text_wherever_it_stands() {
    let evil = "\"><script>alert('1')</script>\u{202e}&\n";
    let mut view = view();
    view.changes = Some(vec![posted(evil)]);
    view.snapshot.problem = Some(evil.to_owned());
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
fn the_page_says_first_what_is_wrong_and_since_when() {
    let mut view = view();
    assert!(page(&view, Language::English, "n").contains("Everything that commits is deleted at once."));
    view.snapshot.problem = Some("the cache dakar does not answer".to_owned());
    view.snapshot.problem_seconds = Some(90.0);
    view.snapshot.caches.push(cache("dakar", false));
    let english = page(&view, Language::English, "n");
    assert!(english.contains("the cache dakar does not answer for 90 s"), "{english}");
    let french = page(&view, Language::French, "n");
    assert!(french.contains("le cache dakar ne répond pas depuis 90 s") && french.contains("lang=fr"), "{french}");
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
