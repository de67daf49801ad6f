//! The verifier beside readers as bad as they can be.
//!
//! This file is called so that its name stands first: tests begin in the order of their names, and a test of a minute that
//! begins last makes the whole run longer by that minute.

use super::harness::wait::{PATIENCE, settled};
use super::scene::Scene;
use super::verify::{VERIFY, fill};

/// Readers as bad as they can be: each stores what it read before the change, behind its first delete. The echo takes that
/// away, and meanwhile the daemon looks at every key, again and again.
#[tokio::test]
async fn under_changes_and_late_readers_nothing_is_accused_and_a_stale_key_is_found_all_the_same() {
    let scene = Scene::start().await;
    let admin = super::admin::address();
    let text = format!("{}\n[admin]\nlisten = \"{admin}\"\n{VERIFY}", scene.config());
    let mut daemon = scene.daemon_with(&text.replace("echo = []", "echo = [\"250ms\"]")).await;
    fill(&scene);
    let series = |name: &str| -> f64 {
        let page = super::admin::get(admin, "/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|value| value.trim().parse().ok()).unwrap_or(-1.0)
    };
    let begun = std::time::Instant::now();
    let mut changes = 0;
    while series("crieur_verify_checked_total") < 40.0 {
        assert!(
            begun.elapsed() < 4 * PATIENCE,
            "only {} checks: {}",
            series("crieur_verify_checked_total"),
            daemon.log()
        );
        for id in 1..=9 {
            let row = format!(
                "SELECT json_build_object('id', id, 'city', city, 'title', title)::text FROM properties WHERE id = {id}"
            );
            let before = scene.ask(&row).await;
            scene.run(&format!("UPDATE properties SET title = 'n{changes}' WHERE id = {id}")).await;
            scene.cache.ask::<()>(&["SET", &format!("properties:detail:{id}"), &before]);
            changes += 1;
        }
    }
    assert!(changes > 100, "{changes} changes");
    daemon.allow("id=verify.stale");
    scene.cache.ask::<()>(&["SET", "payments:lease:71", "7"]);
    settled("the stale key is found, and no other", 2 * PATIENCE, async || match series("crieur_verify_stale_total") {
        1.0 => Ok(()),
        other => Err((other, daemon.log())),
    })
    .await;
    assert_eq!(daemon.log().matches("id=verify.stale").count(), 1, "{}", daemon.log());
    assert!(daemon.log().contains("payments:lease:71"), "{}", daemon.log());
}
