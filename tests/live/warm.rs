//! Warming: pages whose keys existed when they were deleted are asked for again, by a real site over a real cache: behind
//! the last echo, two at a time, within the limit, and never with an old value at the end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::admin::{address, shows};
use super::daemon::{self, Daemon};
use super::harness::cluster::Cluster;
use super::harness::process::Signal;
use super::harness::pty::Pty;
use super::harness::redis::{Redis, Server};
use super::harness::sink::Sink;
use super::harness::site::{Pause, Site, SitePage};
use super::harness::upstash::{TOKEN, Upstash};
use super::harness::wait::{PATIENCE, settled};
use super::scene::{Mode, Scene};

const DETAIL: &str = "properties:detail:";

/// Between what it reads and what it stores it can be held. `/annonces/7` is made from `properties:detail:7`.
fn cache_aside(postgres: String, cache: String) -> impl Fn(&str, &Pause) -> SitePage + Send + Sync {
    move |path, pause| {
        let id = path.rsplit('/').next().unwrap_or_default().to_owned();
        let client = redis::Client::open(cache.as_str()).expect("a URL");
        let mut cache = client.get_connection().expect("it answers");
        let key = format!("{DETAIL}{id}");
        let cached: Option<String> = redis::cmd("GET").arg(&key).query(&mut cache).expect("it answers");
        if let Some(title) = cached {
            return SitePage::ok(&title);
        }
        let Some(title) = title(&postgres, &id) else { return SitePage::status(404, &[]) };
        pause.here();
        let _: () = redis::cmd("SET").arg(&key).arg(&title).query(&mut cache).expect("it is writable");
        SitePage::ok(&title)
    }
}

/// What the database says now.
fn title(postgres: &str, id: &str) -> Option<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(postgres, tokio_postgres::NoTls).await.expect("it answers");
        let driver = tokio::spawn(connection);
        let id: i32 = id.parse().expect("a number");
        let row = client.query_opt("SELECT title FROM properties WHERE id = $1", &[&id]).await.expect("valid SQL");
        driver.abort();
        row.map(|row| row.get(0))
    })
}

fn site_of(scene: &Scene) -> Site {
    Site::start(cache_aside(scene.postgres.url(), scene.cache.url()))
}

/// The scene's configuration with pages of properties, these echoes, and more.
fn warmed(scene: &Scene, site: &Site, echo: &str, more: &str) -> String {
    let keys = "keys = [\"all_properties_public\", \"detail:{id}\", \"city:{city}\"]";
    let warm = format!("{keys}\nwarm = \"{}\"", site.url("/annonces/{id}"));
    let config = scene.config().replace(keys, &warm).replace("echo = []", &format!("echo = {echo}"));
    format!("{more}\n{config}")
}

/// The site was asked for these pages, sorted; which of several that are ready at once goes first nobody says.
async fn visited(site: &Site, daemon: &Daemon, paths: &[&str]) {
    settled(&format!("{paths:?} were asked for"), PATIENCE, async || {
        let mut seen = site.paths();
        seen.sort();
        if seen == paths { Ok(()) } else { Err((seen, daemon.log())) }
    })
    .await;
}

fn cached(scene: &Scene, id: u32) -> Option<String> {
    scene.cache.ask(&["GET", &format!("{DETAIL}{id}")])
}

/// Sets every detail key to what the database says now, and takes away those of others.
fn fill(scene: &Scene, ids: &[u32], title: &str) {
    for id in 1..=9 {
        let _: () = scene.cache.ask(&["DEL", &format!("{DETAIL}{id}")]);
    }
    for id in ids {
        let _: () = scene.cache.ask(&["SET", &format!("{DETAIL}{id}"), title]);
    }
}

#[tokio::test]
async fn what_existed_is_asked_for_behind_the_last_echo_and_nothing_else() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let site = site_of(&scene);
        let mut daemon = scene.daemon_with(&warmed(&scene, &site, "[\"100ms\", \"400ms\"]", "")).await;
        fill(&scene, &[1, 3], "old");
        scene.run("UPDATE properties SET title = 'new' WHERE id IN (1, 2)").await;
        visited(&site, &daemon, &["/annonces/1"]).await;
        // The position waits for the echoes: had one come behind the page, it would have deleted what the page stored.
        scene.confirmed(&daemon).await;
        settled("the page stored its value", PATIENCE, async || match site.answered() {
            1 => Ok(()),
            _ => Err(daemon.log()),
        })
        .await;
        assert_eq!((cached(&scene, 1).as_deref(), cached(&scene, 2)), (Some("new"), None), "{}", daemon.log());
        // Pages go in their order: had the other one been wanted, it would have come before this one.
        scene.run("UPDATE properties SET title = 'newer' WHERE id = 3").await;
        visited(&site, &daemon, &["/annonces/1", "/annonces/3"]).await;
        let visit = &site.visits()[0];
        assert!(visit.method == "GET" && visit.agent.starts_with("crieur/"), "{visit:?}");
        assert_eq!(daemon.stop(), Some(0));
    }
}

/// Then the last echo deletes what the page stored.
#[tokio::test]
async fn without_that_guard_the_page_comes_too_early() {
    let scene = Scene::start().await;
    let site = site_of(&scene);
    let config = warmed(&scene, &site, "[\"400ms\", \"2s\"]", "");
    let daemon = scene.daemon_in(&config, &[("CRIEUR_WITHOUT", "pages".to_owned())]).await;
    fill(&scene, &[1], "old");
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    visited(&site, &daemon, &["/annonces/1"]).await;
    scene.confirmed(&daemon).await;
    assert_eq!(cached(&scene, 1), None, "{}", daemon.log());
}

#[tokio::test]
async fn a_newer_change_moves_the_page_behind_itself_and_nothing_old_is_left() {
    let scene = Scene::start().await;
    let site = site_of(&scene);
    let mut daemon = scene.daemon_with(&warmed(&scene, &site, "[\"200ms\", \"2s\"]", "")).await;
    fill(&scene, &[1], "old");
    for title in ["v1", "v2", "v3"] {
        scene.run(&format!("UPDATE properties SET title = '{title}' WHERE id = 1")).await;
    }
    visited(&site, &daemon, &["/annonces/1"]).await;
    scene.confirmed(&daemon).await;
    settled("the last title is cached", PATIENCE, async || match cached(&scene, 1).as_deref() {
        Some("v3") => Ok(()),
        other => Err((other.map(str::to_owned), daemon.log())),
    })
    .await;
    assert_eq!(site.paths().len(), 1, "one page for three changes");
    // The page is being made when the next change comes: it has read the old row, and stores it behind the delete.
    site.hold();
    scene.run("UPDATE properties SET title = 'v4' WHERE id = 1").await;
    visited(&site, &daemon, &["/annonces/1", "/annonces/1"]).await;
    let fence = "properties:all_properties_public";
    let _: () = scene.cache.ask(&["SET", fence, "old"]);
    scene.run("UPDATE properties SET title = 'v5' WHERE id = 1").await;
    settled("the change was deleted once", PATIENCE, async || {
        if scene.cache.ask::<bool>(&["EXISTS", fence]) { Err(daemon.log()) } else { Ok(()) }
    })
    .await;
    site.let_go();
    visited(&site, &daemon, &["/annonces/1", "/annonces/1", "/annonces/1"]).await;
    scene.confirmed(&daemon).await;
    settled("the last title is cached", PATIENCE, async || match cached(&scene, 1).as_deref() {
        Some("v5") => Ok(()),
        other => Err((other.map(str::to_owned), daemon.log())),
    })
    .await;
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn at_once_with_leases_two_at_a_time_and_never_more_than_the_limit() {
    let scene = Scene::start().await;
    let make = cache_aside(scene.postgres.url(), scene.cache.url());
    let site = Site::start(move |path, pause| {
        std::thread::sleep(Duration::from_millis(40)); // So that several would overlap.
        make(path, pause)
    });
    let address = address();
    let more = format!("[admin]\nlisten = \"{address}\"\n[limits]\nwarm_rate = 5");
    let daemon = scene.daemon_with(&warmed(&scene, &site, "[]", &more)).await;
    fill(&scene, &[1, 2, 3, 4, 5, 6, 7, 8], "old");
    scene.run("UPDATE properties SET title = 'new'").await;
    shows(address, "crieur_warm_pages_total{result=\"fetched\"} 5").await;
    shows(address, "crieur_warm_waiting_pages 3").await;
    // Other pages that are ready wait, too.
    fill(&scene, &[9], "old");
    scene.run("UPDATE properties SET title = 'newer' WHERE id = 9").await;
    shows(address, "crieur_warm_waiting_pages 4").await;
    scene.confirmed(&daemon).await;
    assert_eq!((site.paths().len(), site.peak()), (5, 2), "{:?}", site.paths());
}

#[tokio::test]
async fn a_site_that_hangs_or_answers_wrongly_holds_nothing_up() {
    let scene = Scene::start().await;
    let site = Site::start(|path, pause| match path {
        "/annonces/1" => SitePage::status(301, &[("location", "http://127.0.0.1:1/evil")]),
        "/annonces/2" => SitePage::status(500, &[]),
        "/annonces/3" => {
            pause.here();
            SitePage::ok("late")
        }
        _ => SitePage::ok("page"),
    });
    let address = address();
    let more = format!("[admin]\nlisten = \"{address}\"\n[limits]\nwarm_timeout = \"2s\"");
    let mut daemon = scene.daemon_with(&warmed(&scene, &site, "[]", &more)).await;
    daemon.allow("id=warm.");
    site.hold();
    fill(&scene, &[1, 2, 3, 4], "old");
    scene.run("UPDATE properties SET title = 'new' WHERE id IN (1, 2, 3)").await;
    // Deletes and the position go on, whatever becomes of the pages.
    scene.confirmed(&daemon).await;
    shows(address, "crieur_warm_pages_total{result=\"failed\"} 3").await;
    scene.run("UPDATE properties SET title = 'new' WHERE id = 4").await;
    shows(address, "crieur_warm_pages_total{result=\"fetched\"} 1").await;
    let said = daemon.log();
    assert!(said.contains("id=warm.elsewhere") && said.contains("HTTP 301"), "{said}");
    assert!(said.contains("id=warm.failed") && said.contains("/annonces/{id}"), "{said}");
    assert!(!said.contains("annonces/1") && !said.contains("evil"), "a row's value is in the log: {said}");
    assert_eq!(site.paths().len(), 4, "nothing is asked for twice");
}

#[tokio::test]
async fn a_site_that_wants_a_pause_is_asked_once_more_behind_it() {
    let scene = Scene::start().await;
    let first = AtomicBool::new(true);
    let site = Site::start(move |_, _| match first.swap(false, Ordering::SeqCst) {
        true => SitePage::status(503, &[("retry-after", "1")]),
        false => SitePage::ok("page"),
    });
    let mut daemon = scene.daemon_with(&warmed(&scene, &site, "[]", "")).await;
    daemon.allow("id=warm.failed");
    fill(&scene, &[1], "old");
    scene.run("UPDATE properties SET title = 'new' WHERE id = 1").await;
    visited(&site, &daemon, &["/annonces/1", "/annonces/1"]).await;
    assert!(daemon.log().contains("asked again in 1 s (HTTP 503)"), "{}", daemon.log());
}

#[tokio::test]
async fn a_key_that_one_of_two_caches_had_is_one_page_and_a_sink_holds_it() {
    let (scene, other, sink) = (Scene::start().await, Redis::start(&Server::System, &[]), Sink::webhook());
    let site = site_of(&scene);
    let another = format!("[caches.other]\nurl = \"{}\"\necho = [\"300ms\"]\n", other.url());
    let sinks = sink.section(&format!("echo = []\nwarm = \"{}\"", site.url("/annonces/{id}")));
    let keys = "keys = [\"all_properties_public\", \"detail:{id}\", \"city:{city}\"]";
    let tags = format!("{keys}\ntags = [\"property:{{id}}\"]\ntags_all = \"properties\"");
    let config = format!("{another}{sinks}{}", scene.config().replace(keys, &tags));
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow_failing_cache(); // What hangs is cut off in the end.
    settled("the purge of the start is over", PATIENCE, async || {
        if sink.purged().is_empty() { Err(daemon.log()) } else { Ok(()) }
    })
    .await;
    scene.confirmed(&daemon).await;
    fill(&scene, &[1], "old");
    let _: () = other.ask(&["SET", &format!("{DETAIL}1"), "old"]);
    let _: () = other.ask(&["SET", &format!("{DETAIL}2"), "old"]);
    sink.fault(json!({ "do": "hang" }));
    scene.run("UPDATE properties SET title = 'new' WHERE id < 4").await;
    settled("the caches deleted", PATIENCE, async || {
        if cached(&scene, 1).is_none() && !other.ask::<bool>(&["EXISTS", &format!("{DETAIL}2")]) {
            Ok(())
        } else {
            Err(daemon.log())
        }
    })
    .await;
    assert_eq!(site.paths(), [""; 0], "the sink would answer with the old page");
    sink.heal();
    settled("both pages were asked for once", PATIENCE, async || {
        let mut seen = site.paths();
        seen.sort();
        if seen == ["/annonces/1", "/annonces/2"] { Ok(()) } else { Err((seen, sink.log(), daemon.log())) }
    })
    .await;
}

#[tokio::test]
async fn a_cache_that_is_away_is_not_waited_for() {
    let (scene, other) = (Scene::start().await, Redis::start(&Server::System, &[]));
    let site = site_of(&scene);
    let another = format!(
        "[caches.other]\nurl = \"{}\"\nrequired = false\ntimeout = \"300ms\"\necho = [\"100ms\"]\n",
        other.url()
    );
    let mut daemon = scene.daemon_with(&warmed(&scene, &site, "[\"100ms\"]", &another)).await;
    daemon.allow_failing_cache();
    fill(&scene, &[1, 2], "old");
    other.freeze();
    for id in [1, 2] {
        scene.run(&format!("UPDATE properties SET title = 'new' WHERE id = {id}")).await;
    }
    visited(&site, &daemon, &["/annonces/1", "/annonces/2"]).await;
    assert!(daemon.log().contains("id=cache.failing cache=other"), "{}", daemon.log());
    other.thaw();
}

/// Where each command is billed, so many keys of one flush have a command of their own, and the others' pages are dropped.
#[tokio::test]
async fn where_commands_are_billed_few_keys_of_a_flush_are_asked_for() {
    let (scene, service) = (Scene::start().await, Upstash::start());
    let (site, address) = (Site::start(|_, _| SitePage::ok("page")), address());
    let billed = "echo = []\nmetered = \"yes\"\nheartbeat = \"600s\"\nbudget = \"none\"";
    let more = format!("[admin]\nlisten = \"{address}\"");
    let config =
        warmed(&scene, &site, "[]", &more).replace(&scene.cache.url(), &service.tcp_url()).replace("echo = []", billed);
    let mut daemon = Daemon::start(&config, &[]);
    daemon.allow("id=warm.dropped");
    daemon.wait_for_log("id=sweep.ended");
    scene.confirmed(&daemon).await;
    scene.run("INSERT INTO properties SELECT id, 'Dakar', 'x', 1 FROM generate_series(101, 130) AS id").await;
    shows(address, "crieur_warm_pages_total{result=\"dropped\"} 10").await;
    assert_eq!(site.paths(), [""; 0], "nobody had any of them");
}

#[tokio::test]
async fn a_cluster_and_a_service_over_rest_tell_which_keys_existed() {
    let scene = Scene::start().await;
    let site = Site::start(|_, _| SitePage::ok("page"));
    let cluster = Cluster::start(Server::System, &[]);
    let text = warmed(&scene, &site, "[]", "").replace(&scene.cache.url(), &cluster.url());
    let mut daemon = Daemon::start(&text, &[]);
    daemon.wait_for_log("id=sweep.ended");
    scene.confirmed(&daemon).await;
    cluster.set(&format!("{DETAIL}2"), "old");
    cluster.set(&format!("{DETAIL}5"), "old");
    scene
        .run("UPDATE properties SET title = 'new' WHERE id = 5; UPDATE properties SET title = 'new' WHERE id < 4")
        .await;
    visited(&site, &daemon, &["/annonces/2", "/annonces/5"]).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// Where nobody says who answers, each mark deletes once more what was deleted since the last one.
#[tokio::test]
async fn over_rest_a_page_follows_the_mark_that_deletes_its_key_once_more() {
    let (scene, service) = (Scene::start().await, Upstash::start());
    let backend = service.backend.url();
    let site = Site::start(cache_aside(scene.postgres.url(), backend));
    let address_keys =
        format!("echo = []\ntransport = \"rest\"\ntoken = \"{TOKEN}\"\nheartbeat = \"1s\"\nbudget = \"none\"");
    let text = warmed(&scene, &site, "[]", "")
        .replace(&scene.cache.url(), &service.rest_url())
        .replace("echo = []", &address_keys);
    let mut daemon = Daemon::start(&text, &[]);
    daemon.wait_for_log("id=sweep.ended");
    scene.confirmed(&daemon).await;
    for id in [2, 5] {
        let _: () = service.backend.ask(&["SET", &format!("{DETAIL}{id}"), "old"]);
    }
    scene.run("UPDATE properties SET title = 'new' WHERE id < 7").await;
    settled("both pages were asked for, and have stored their values", PATIENCE, async || {
        let mut seen = site.paths();
        seen.sort();
        if seen == ["/annonces/2", "/annonces/5"] && site.answered() == 2 { Ok(()) } else { Err((seen, daemon.log())) }
    })
    .await;
    // Another mark: it carries nothing of these.
    scene.run("INSERT INTO visit_bookings VALUES (1000, 1000)").await;
    scene.confirmed(&daemon).await;
    for id in [2, 5] {
        let value: Option<String> = service.backend.ask(&["GET", &format!("{DETAIL}{id}")]);
        assert_eq!(value.as_deref(), Some("new"), "{}", daemon.log());
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn a_reload_takes_another_address_and_none() {
    let scene = Scene::start().await;
    let site = Site::start(|_, _| SitePage::ok("page"));
    let text = warmed(&scene, &site, "[]", "");
    let mut daemon = scene.daemon_with(&text).await;
    let none = text.replace(&format!("\nwarm = \"{}\"", site.url("/annonces/{id}")), "");
    assert!(none != text && !none.contains("warm"), "{none}");
    let mut starts = 1;
    let mut changes = async |text: &str, id: u32| {
        std::fs::write(daemon.config_path(), text).expect("it is ours");
        daemon.signal(Signal::Hup);
        starts += 1;
        daemon.wait_for_logs("id=stream.started", starts);
        fill(&scene, &[id], "old");
        scene.run(&format!("UPDATE properties SET title = 'new' WHERE id = {id}")).await;
        scene.confirmed(&daemon).await;
    };
    changes(&text.replace("/annonces/{id}", "/biens/{id}?n={id}"), 1).await;
    settled("the other address was asked", PATIENCE, async || if site.paths().len() == 1 { Ok(()) } else { Err(()) })
        .await;
    changes(&none, 2).await;
    changes(&text, 3).await;
    visited(&site, &daemon, &["/annonces/3", "/biens/1?n=1"]).await;
    assert_eq!(daemon.stop(), Some(0));
}

/// What a command printed, its exit code, and what it said on standard error.
fn command(args: &[&str], config: &str) -> (Option<i32>, String, String) {
    let out = daemon::run_with(args, config);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code(), text(&out.stdout), text(&out.stderr))
}

#[tokio::test]
async fn a_command_fetches_the_pages_of_all_rows_or_of_a_list_and_of_no_other_site() {
    for mode in Mode::ALL {
        let scene = Scene::of(mode, Default::default(), &[]).await;
        let site = Site::start(|path, _| SitePage::status(if path == "/annonces/3" { 500 } else { 200 }, &[]));
        let config = warmed(&scene, &site, "[]", "");
        let (code, shown, said) = command(&["warm", "detail:{id}"], &config);
        assert_eq!((code, shown.as_str()), (Some(1), "8 of 9 pages fetched, 1 failed\n"), "{said}");
        assert!(said.contains("/annonces/3: HTTP 500"), "{said}");
        let mut seen = site.paths();
        seen.sort();
        assert_eq!(seen, (1..10).map(|id| format!("/annonces/{id}")).collect::<Vec<_>>(), "each once");
        assert!(site.peak() <= 2);
        let (code, shown, said) = command(&["warm", "properties:detail:{id}", "--limit", "2", "--dry-run"], &config);
        assert_eq!((code, shown.lines().count()), (Some(0), 2), "{shown} {said}");
        assert!(shown.lines().all(|line| line.starts_with(&site.url("/annonces/"))), "{shown}");
        assert!(said.contains("more pages than --limit 2"), "{said}");
        assert_eq!(site.paths().len(), 9, "a dry run asks for nothing");
        // Neither the key nor its page has a value.
        let front = config.replace("/annonces/{id}", "/");
        let (code, shown, said) = command(&["warm", "all_properties_public", "--dry-run"], &front);
        assert_eq!((code, shown.trim_end()), (Some(0), site.url("/").as_str()), "{said}");
    }
}

#[tokio::test]
async fn a_list_is_fetched_and_what_leads_elsewhere_is_refused_by_its_line() {
    let scene = Scene::start().await;
    let site = Site::start(|_, _| SitePage::ok("page"));
    let config = warmed(&scene, &site, "[]", "");
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let list = folder.path().join("pages.txt");
    let name = list.to_str().expect("a plain path");
    let write = |text: &str| std::fs::write(&list, text).expect("it is ours");
    write(&format!("# pages\n{}\n{}\n\n{}\n", site.url("/a"), site.url("/b?x=1"), site.url("/a")));
    let (code, shown, said) = command(&["warm", name], &config);
    assert_eq!((code, shown.as_str()), (Some(0), "2 of 2 pages fetched, 0 failed\n"), "{said}");
    assert_eq!(site.paths().len(), 2);
    write(&format!("{}\nhttps://evil.example/x\nhttp://127.0.0.1:1/\n", site.url("/c")));
    let (code, _, said) = command(&["warm", name], &config);
    assert!(code == Some(65) && said.contains("line 2 leads to another site") && said.contains("line 3"), "{said}");
    assert_eq!(site.paths().len(), 2, "nothing is asked for");
    // A device is read as a pipe is, and nothing of a list is left out in silence.
    let (code, shown, said) = command(&["warm", "/dev/null"], &config);
    assert_eq!((code, shown.as_str()), (Some(0), "0 of 0 pages fetched, 0 failed\n"), "{said}");
    std::fs::File::create(&list).and_then(|file| file.set_len(64 * 1024 * 1024 + 1)).expect("it is ours");
    let (code, _, said) = command(&["warm", name], &config);
    assert!(code == Some(65) && said.contains("longer than 64 MiB"), "{code:?} {said}");
    for (what, words) in [
        ("nothing:{id}", &["no file, and no template"][..]),
        ("dashboard:{owner.owner_id}", &["made by a lookup", "into a file"]),
        ("visits:{id}", &["no rule says which pages", "warm ="]),
    ] {
        let (code, _, said) = command(&["warm", what], &config);
        assert!(code == Some(64) && words.iter().all(|words| said.contains(words)), "{what}: {code:?} {said}");
    }
}

#[tokio::test]
async fn a_terminal_shows_a_bar_and_ctrl_c_ends_with_what_was_done() {
    let scene = Scene::start().await;
    let first = AtomicBool::new(true);
    let site = Site::start(move |_, pause| {
        if !first.swap(false, Ordering::SeqCst) {
            pause.here();
        }
        SitePage::ok("page")
    });
    site.hold();
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    std::fs::write(folder.path().join("crieur.toml"), warmed(&scene, &site, "[]", "")).expect("written");
    let words = [env!("CARGO_BIN_EXE_crieur"), "warm", "detail:{id}", "--config", "crieur.toml"];
    let mut terminal = Pty::start(100, &words, &[], folder.path());
    terminal.waits_for("1 of 9 pages, 0 failed");
    terminal.types("\x03");
    let (exit, shown) = terminal.end();
    assert!(exit == Some(1) && shown.contains("1 of 9 pages fetched, 0 failed; interrupted"), "{exit:?} {shown}");
}
