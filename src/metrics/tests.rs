//! What the page says.

use std::sync::Arc;

use super::*;
use crate::budget::MarkCost;
use crate::observe::news::ServerSeen;
use crate::rules::tally::{Labels, Tallied};

fn text(metrics: &Metrics, caches: &[CacheState], now: Instant) -> String {
    metrics.text(&Outside { caches, process: ProcessState::default(), warnings: &[] }, now)
}

fn state(name: &str, away: bool) -> CacheState {
    CacheState {
        name: name.into(),
        required: true,
        away,
        outages: u64::from(away),
        returns: 0,
        billed: 0,
        budget: None,
        sentinels: None,
    }
}

#[test]
fn only_a_cache_that_is_required_keeps_the_daemon_from_being_ready() {
    let start = Instant::now();
    let mut metrics = Metrics::new(start);
    metrics.news(&News::Streaming, None, start);
    let optional = |away| CacheState { required: false, ..state("dakar", away) };
    let known = CacheTotals { is_known: true, ..CacheTotals::default() };
    let both = |main, dakar| [state("main", main), optional(dakar)];
    assert_eq!(metrics.unready(&both(false, true)).as_deref(), Some("the cache main has not answered yet"));
    metrics.news(&News::CacheTotals("main".into(), known), None, start);
    metrics.news(&News::Ready, None, start);
    assert_eq!(metrics.unready(&both(false, true)), None);
    assert_eq!(metrics.unready(&both(true, false)).as_deref(), Some("the cache main does not answer"));
    let lines = metrics.of_each(&both(false, true), start);
    assert!(lines.contains("cache dakar does not answer, is not required"), "{lines}");
}

#[test]
fn the_page_says_who_may_be_asked_and_why_not() {
    let start = Instant::now();
    let mut metrics = Metrics::new(start);
    let slow = |repairs_slow| {
        News::CacheTotals("main".into(), CacheTotals { repairs_slow, is_known: true, ..CacheTotals::default() })
    };
    let (here, away) = ([state("main", false)], [state("main", true)]);
    let steps = [
        (News::Interrupted, &here, Some("reading from PostgreSQL is interrupted")),
        (News::StandingBy(7), &here, Some("standing by: another daemon has the slot")),
        (News::Streaming, &here, Some("the cache has not answered yet")),
        (News::Ready, &here, None),
        (News::HeldBack(true), &here, Some("the server holds the stream back")),
        (News::HeldBack(false), &here, None),
        (News::Ready, &away, Some("the cache does not answer")),
        (slow(true), &here, Some("the cache is another one again and again")),
        (slow(false), &here, None),
        (News::Interrupted, &here, Some("reading from PostgreSQL is interrupted")),
        (News::Streaming, &here, None),
    ];
    assert_eq!(metrics.unready(&here).as_deref(), Some("nothing is read from PostgreSQL yet"));
    for (news, cache, reason) in steps {
        metrics.news(&news, None, start);
        assert_eq!(metrics.unready(cache).as_deref(), reason, "{news:?} {cache:?}");
        let stands_by = matches!(news, News::StandingBy(_));
        assert_eq!(metrics.standing(cache).is_ok(), reason.is_none() || stands_by, "{news:?} {cache:?}");
        let ready = format!("\ncrieur_ready {}\n", u8::from(reason.is_none()));
        assert!(text(&metrics, cache, start).contains(&ready), "{news:?}");
    }
}

#[test]
fn the_oldest_change_ages_and_nothing_does_on_a_quiet_night() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut metrics = Metrics::new(start);
    let ages = |metrics: &Metrics, now| {
        let text = text(metrics, &[], now);
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name)).expect("it is on the page");
            line.split(' ').nth(1).and_then(|value| value.parse::<f64>().ok()).expect("a number") as u64
        };
        (value("crieur_oldest_undeleted_seconds "), value("crieur_since_confirmed_seconds "))
    };
    let totals = |oldest, settled| News::Totals(Totals { oldest, settled, ..Totals::default() }, Duration::ZERO);
    assert_eq!(ages(&metrics, at(5)).0, 5, "there is no stream yet");
    metrics.news(&News::Streaming, None, at(5));
    for second in (10..40_000).step_by(10) {
        metrics.news(&totals(None, true), None, at(second));
        assert_eq!(ages(&metrics, at(second + 9)), (0, 9));
    }
    // A change that committed three seconds before it was told, and that nobody answers for.
    metrics.news(&totals(Some(at(39_997)), false), None, at(40_000));
    metrics.news(&totals(Some(at(39_997)), false), None, at(40_010));
    assert_eq!(ages(&metrics, at(40_020)), (23, 30));
    // The stream breaks: what commits meanwhile is not known.
    metrics.news(&totals(None, true), None, at(40_030));
    metrics.news(&News::Interrupted, None, at(40_040));
    metrics.news(&News::Interrupted, None, at(40_050));
    assert_eq!(ages(&metrics, at(40_060)).0, 20);
    metrics.news(&News::Streaming, None, at(40_060));
    metrics.news(&News::HeldBack(true), None, at(40_070));
    assert_eq!(ages(&metrics, at(40_080)).0, 10);
    metrics.news(&News::HeldBack(false), None, at(40_080));
    assert_eq!(ages(&metrics, at(40_090)).0, 0);
    metrics.news(&News::StandingBy(7), None, at(40_090));
    assert_eq!(ages(&metrics, at(50_000)).0, 0);
}

#[test]
fn a_silent_loop_is_dead_only_while_it_streams() {
    let start = Instant::now();
    let later = start + SILENCE + Duration::from_secs(1);
    let mut metrics = Metrics::new(start);
    for (news, dead) in [(News::StandingBy(0), false), (News::Interrupted, false), (News::Streaming, true)] {
        metrics.news(&news, None, start);
        assert_eq!((metrics.dead(start), metrics.dead(later).is_some()), (None, dead), "{news:?}");
    }
}

#[test]
fn the_age_of_the_position_counts_from_its_last_confirmation() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let mut metrics = Metrics::new(start);
    let totals = Totals { confirmations: 1, ..Totals::default() };
    for seconds in [10, 20] {
        metrics.news(&News::Totals(totals, Duration::from_millis(1500)), None, at(seconds));
    }
    let dakar = CacheName::from("dakar");
    metrics.news(&News::Gap("missing"), Some(&dakar), at(20));
    metrics.news(&News::Gap("missing"), Some(&dakar), at(20));
    metrics.news(&News::Marked(Lsn(7)), Some(&dakar), at(25));
    let keys = CacheTotals { keys: 3, ..CacheTotals::default() };
    metrics.news(&News::CacheTotals(dakar, keys), None, at(25));
    let text = text(&metrics, &[state("main", true), state("dakar", false)], at(30));
    for line in [
        "crieur_since_confirmed_seconds 20.000",
        "crieur_lateness_seconds 1.500",
        "crieur_gaps_total{cache=\"dakar\",kind=\"missing\"} 2",
        "crieur_keys_sent_total{cache=\"dakar\"} 3",
        "crieur_keys_sent_total{cache=\"main\"} 0",
        "crieur_cache_up{cache=\"main\"} 0",
        "crieur_cache_up{cache=\"dakar\"} 1",
        "crieur_mark_lsn_bytes{cache=\"dakar\"} 7",
        "crieur_mark_age_seconds{cache=\"dakar\"} 5.000",
        "# TYPE crieur_keys_sent_total counter",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
}

#[test]
fn what_passed_through_the_rules_counts_on_over_a_reload_and_what_is_gone_leaves_the_page() {
    let start = Instant::now();
    let mut metrics = Metrics::new(start);
    let labels = |tables: &[&str]| {
        let tables = tables.iter().map(|table| format!("public.{table}")).collect();
        let (rules, lookups) = (vec!["rules.toml:3".to_owned()], vec!["owner".to_owned()]);
        News::Rules(Arc::new(Labels { digest: "4.ab".to_owned(), tables, rules, lookups }))
    };
    let tally = |changes: &[[u64; 4]]| {
        let (keys, questions) = (vec![5], vec![[3, 1]]);
        News::Tally(Arc::new(Tallied { changes: changes.to_vec(), keys, questions }))
    };
    let has = |metrics: &Metrics, line: &str| text(metrics, &[], start).lines().any(|found| found == line);
    metrics.news(&labels(&["a", "b"]), None, start);
    assert!(has(&metrics, "crieur_changes_total{table=\"public.b\",operation=\"truncate\"} 0"));
    metrics.news(&tally(&[[1, 0, 0, 0], [0, 2, 0, 0]]), None, start);
    metrics.news(&labels(&["b", "c"]), None, start);
    metrics.news(&tally(&[[0, 1, 0, 0], [0, 0, 7, 0]]), None, start);
    for line in [
        "crieur_rules_info{digest=\"4.ab\"} 1",
        "crieur_changes_total{table=\"public.b\",operation=\"update\"} 3",
        "crieur_changes_total{table=\"public.c\",operation=\"delete\"} 7",
        "crieur_rule_keys_total{rule=\"rules.toml:3\"} 10",
        "crieur_lookups_total{lookup=\"owner\"} 6",
        "crieur_lookups_refused_total{lookup=\"owner\"} 2",
    ] {
        assert!(has(&metrics, line), "{line} is not in:\n{}", text(&metrics, &[], start));
    }
    assert!(!text(&metrics, &[], start).contains("public.a"));
}

#[test]
fn a_reload_that_failed_leaves_the_time_of_the_one_before() {
    let start = Instant::now();
    let mut metrics = Metrics::new(start);
    let shown = |metrics: &Metrics| {
        let text = text(metrics, &[], start);
        let value =
            |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned).expect("it is there");
        ["crieur_config_last_reload_successful ", "crieur_config_last_reload_success_timestamp_seconds "].map(value)
    };
    assert_eq!(shown(&metrics), ["1", "0.000"], "the start was a success");
    for (succeeded, at, expected) in [(true, 5, ["1", "5.000"]), (false, 6, ["0", "5.000"]), (true, 7, ["1", "7.000"])]
    {
        metrics.reloaded(succeeded, Duration::from_secs(at));
        assert_eq!(shown(&metrics), expected);
    }
}

#[test]
fn every_number_that_the_loop_tells_is_on_the_page() {
    let start = Instant::now();
    let mut metrics = Metrics::new(start);
    let totals = Totals {
        widened: 2,
        not_allowed: 3,
        collapsed: 4,
        memory_bytes: 5,
        confirmed: Lsn(1_000),
        ..Totals::default()
    };
    let of_cache = CacheTotals {
        keys: 10,
        existed: 11,
        sweeps: 12,
        swept: 13,
        repairs_delayed: 14,
        turns: 15,
        echoes_waiting: 16,
        oldest: Some(start),
        ..CacheTotals::default()
    };
    metrics.news(&News::Streaming, None, start);
    metrics.news(&News::Totals(totals, Duration::ZERO), None, start);
    metrics.news(&News::CacheTotals("main".into(), of_cache), None, start);
    metrics.news(&News::Released("main".into(), true), None, start);
    let outbox = Some([7, 80, 900]);
    let seen = ServerSeen { flushed: Some(Lsn(1_250)), held_bytes: Some(300), safe_bytes: Some(400), outbox };
    metrics.news(&News::Server(seen), None, start);
    let budget = Budget::new(1_000_000, Duration::from_secs(60), MarkCost::TCP).ok();
    let cache = CacheState { sentinels: Some(true), billed: 17, returns: 18, budget, ..state("main", true) };
    let process = ProcessState {
        started: Duration::from_secs(19),
        cpu: Some(Duration::from_millis(20)),
        resident_bytes: Some(21),
        open_fds: Some(22),
        max_fds: Some(23),
    };
    let outside = Outside { caches: &[cache], process, warnings: &[("cache.failing", 24)] };
    let text = metrics.text(&outside, start + Duration::from_secs(9));
    for line in [
        "crieur_keys_widened_total 2",
        "crieur_keys_not_allowed_total 3",
        "crieur_families_collapsed_total 4",
        "crieur_memory_bytes 5",
        "crieur_keys_sent_total{cache=\"main\"} 10",
        "crieur_keys_existed_total{cache=\"main\"} 11",
        "crieur_sweeps_total{cache=\"main\"} 12",
        "crieur_keys_swept_total{cache=\"main\"} 13",
        "crieur_repairs_delayed_total{cache=\"main\"} 14",
        "crieur_cache_turns_total{cache=\"main\"} 15",
        "crieur_echoes_waiting{cache=\"main\"} 16",
        "crieur_cache_oldest_undeleted_seconds{cache=\"main\"} 9.000",
        "crieur_cache_released{cache=\"main\"} 1",
        "crieur_cache_sentinels_up{cache=\"main\"} 1",
        "crieur_cache_commands_billed_total{cache=\"main\"} 17",
        "crieur_cache_reconnects_total{cache=\"main\"} 18",
        "crieur_slot_behind_bytes 250",
        "crieur_slot_held_bytes 300",
        "crieur_slot_safe_bytes 400",
        "crieur_outbox_rows 7",
        "crieur_outbox_bytes 80",
        "crieur_outbox_max_bytes 900",
        "crieur_warnings_total{id=\"cache.failing\"} 24",
        "process_start_time_seconds 19.000",
        "process_cpu_seconds_total 0.020",
        "process_resident_memory_bytes 21",
        "process_open_fds 22",
        "process_max_fds 23",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    let bound = text.lines().find(|line| line.starts_with("crieur_cache_age_bound_seconds{cache=\"main\"} "));
    assert!(bound.is_some(), "{text}");
}
