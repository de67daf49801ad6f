//! Rows that the role may not see are no answer of a lookup: the server refuses it, its keys widen, and `check` says why.

use super::daemon;
use super::harness::postgres::{Options, Version};
use super::scene::{Mode, Scene, set};

/// A role that may read everything, until somebody says otherwise.
const ROLE: &str = "CREATE ROLE reader LOGIN REPLICATION; GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";

/// The lines of `check` about the lookup.
fn check(config: &str) -> String {
    let out = daemon::run("check", config, &[]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines = text.lines().skip_while(|line| !line.contains(" lookup owner (")).take(3);
    lines.take_while(|line| line.contains("lookup owner (") || line.contains("mend:")).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_lookup_whose_rows_are_hidden_widens_its_keys_and_check_says_so() {
    for (mode, version) in
        [(Mode::Replication, Version::System), (Mode::Outbox, Version::System), (Mode::Replication, Version::V18)]
    {
        rows_are_hidden(mode, version).await;
    }
}

async fn rows_are_hidden(mode: Mode, version: Version) {
    let scene = Scene::of(mode, Options { version, ..Options::default() }, &[]).await;
    scene.run(ROLE).await;
    if mode == Mode::Outbox {
        scene.run("SELECT crieur.grant_worker('reader')").await;
    }
    // What a role has set for itself does not count.
    scene.run("ALTER ROLE reader SET row_security = on").await;
    let config = scene.config().replace("postgres://postgres@", "postgres://reader@");
    let mut daemon = scene.daemon_with(&config).await;
    daemon.allow("id=lookup.refused");
    let exact = set(&["dashboard:41", "payments:lease:71"]);
    let wide = set(&["dashboard:41", "dashboard:42", "payments:lease:71"]);
    let hidden = "query would be affected by row-level security policy for table \"leases\" (SQLSTATE 42501)";
    let denied = "permission denied for table leases (SQLSTATE 42501)";
    let bypass = "mend: ALTER ROLE \"reader\" BYPASSRLS;";
    let grant = "mend: GRANT SELECT ON the table that the server names TO \"reader\";";
    for (number, (sql, gone, told)) in [
        ("SELECT 1", &exact, None),
        ("ALTER TABLE leases ENABLE ROW LEVEL SECURITY", &wide, Some((hidden, bypass))),
        // Some rows are seen: whether all are, nobody tells.
        ("CREATE POLICY visible ON leases FOR SELECT TO reader USING (id <> 71)", &wide, Some((hidden, bypass))),
        ("ALTER ROLE reader BYPASSRLS", &exact, None),
        ("REVOKE SELECT ON leases FROM reader", &wide, Some((denied, grant))),
        ("GRANT SELECT (id) ON leases TO reader", &wide, Some((denied, grant))),
        ("GRANT SELECT (property_id) ON leases TO reader", &exact, None),
    ]
    .into_iter()
    .enumerate()
    {
        scene.run(sql).await;
        scene.confirmed(&daemon).await;
        let payment = format!("INSERT INTO rental_payments VALUES ({}, 71, 1)", number + 1);
        let before = daemon.log().len();
        assert_eq!(scene.change(&daemon, &payment).await, *gone, "{mode:?} {version:?} {sql}\n{}", daemon.log());
        let (said, checked) = (daemon.log()[before..].to_owned(), check(&config));
        match told {
            Some((why, mend)) => {
                // Each cause is said once in a minute.
                let said = daemon.log();
                assert!(
                    said.contains(why) && said.contains("owner (") && said.contains("crieur check"),
                    "{sql}: {said}"
                );
                assert!(checked.starts_with("WRONG") && checked.contains(mend), "{sql}: {checked}");
            }
            None => {
                assert!(!said.contains("id=lookup.refused"), "{sql}: {said}");
                assert!(checked.starts_with("ok "), "{sql}: {checked}");
            }
        }
    }
    assert_eq!(daemon.stop(), Some(0));
}
