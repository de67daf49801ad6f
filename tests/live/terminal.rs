//! Commands at a real terminal: the questions that they ask, their colours, and narrow ones.

use super::daemon;
use super::harness::pty::Pty;
use super::harness::wait::{PATIENCE, eventually};
use super::scene::{Mode, Scene};

const PROGRAM: &str = env!("CARGO_BIN_EXE_crieur");

/// The folder with this configuration.
fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    std::fs::write(folder.path().join("crieur.toml"), config).expect("written");
    folder
}

/// The command with that configuration, on a terminal of so many columns.
fn at_terminal(folder: &tempfile::TempDir, columns: u16, words: &[&str], env: &[(&str, &str)]) -> Pty {
    let words = [&[PROGRAM], words, &["--config", "crieur.toml"]].concat();
    Pty::start(columns, &words, env, folder.path())
}

#[tokio::test]
async fn a_sweep_asks_and_does_what_the_person_answers() {
    let scene = Scene::start().await;
    let config = format!("control.socket = \"SOCKET\"\n{}", scene.config());
    let folder = folder("");
    let config = config.replace("SOCKET", &folder.path().join("control.sock").display().to_string());
    std::fs::write(folder.path().join("crieur.toml"), &config).expect("written");
    let mut daemon = scene.daemon_with(&config).await;
    for (answer, code, left) in [("n", 1, 2), ("", 1, 2), ("\x04", 1, 2), ("y", 0, 0)] {
        let mut terminal = at_terminal(&folder, 80, &["sweep", "visits:{id}"], &[]);
        terminal.waits_for("delete every key of \"visits:{id}\" in every cache? [y/N]");
        terminal.types(&if answer == "\x04" { answer.to_owned() } else { format!("{answer}\n") });
        let (exit, shown) = terminal.end();
        assert_eq!(exit, Some(code), "{answer:?}: {shown} {}", daemon.log());
        let there: u64 = scene.cache.ask(&["EXISTS", "visits:1", "visits:150"]);
        assert_eq!(there, left, "{answer:?}: {shown}");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[tokio::test]
async fn teardown_drops_when_yes_is_typed_and_not_before() {
    let scene = Scene::of(Mode::Outbox, Default::default(), &[]).await;
    let folder = folder(&scene.config());
    let there = "SELECT count(*)::text FROM pg_namespace WHERE nspname = 'crieur'";
    for (answer, code, left, says) in [
        ("y\n", 1, "1", "nothing was changed"),
        ("\x04", 1, "1", "nothing was changed"),
        ("yes\n", 0, "0", "is dropped"),
    ] {
        let mut terminal = at_terminal(&folder, 80, &["teardown"], &[]);
        terminal.waits_for("Type yes to drop all of this: ");
        terminal.types(answer);
        let (exit, shown) = terminal.end();
        assert!(exit == Some(code) && shown.contains(says), "{answer:?}: {exit:?} {shown}");
        assert_eq!(scene.ask(there).await, left, "{answer:?}: {shown}");
    }
}

#[tokio::test]
async fn init_asks_for_what_it_lacks_and_an_end_of_input_writes_nothing() {
    let scene = Scene::start().await;
    let (database, cache) = (scene.postgres.url(), scene.cache.url());
    for (answers, is_written) in [(&["\n", "no\n"][..], false), (&["\n", "\x04"], false), (&["outbox\n", "\n"], true)] {
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let env = [("DATABASE_URL", database.as_str())];
        let mut terminal = at_terminal(&folder, 80, &["init"], &env);
        terminal.waits_for("The address of the cache");
        terminal.types(&format!("{cache}\n"));
        for (question, answer) in
            ["How are changes read?", "Write crieur.toml and what is beside it? [yes]"].iter().zip(answers)
        {
            terminal.waits_for(question);
            terminal.types(answer);
        }
        let (exit, shown) = terminal.end();
        let written = std::fs::read_to_string(folder.path().join("crieur.toml")).unwrap_or_default();
        assert_eq!(written.contains("mode = \"outbox\""), is_written, "{answers:?}: {shown}");
        assert_eq!(exit, Some(if is_written { 0 } else { 1 }), "{answers:?}: {shown}");
        assert!(is_written || written.is_empty(), "{answers:?}: {written}");
    }
}

/// The word that counts has a colour, unless `NO_COLOR` or a dumb terminal forbid it; in a pipe no byte is one's own.
#[tokio::test]
async fn reports_have_colours_at_a_terminal_alone() {
    let scene = Scene::start().await;
    let config = scene.config();
    scene.cache.ask::<()>(&["SET", "visits:7", "for ever"]);
    scene.cache.ask::<()>(&["SET", "strange:7", "of nobody"]);
    let folder = folder(&config);
    for (command, word) in
        [("check", "\x1b[32mok \x1b[0m"), ("ttl", "\x1b[31mWRONG \x1b[0m"), ("coverage", "\x1b[31mNO RULE \x1b[0m")]
    {
        let (_, shown) = at_terminal(&folder, 80, &[command], &[]).end();
        assert!(shown.contains(word), "{command}: {shown:?}");
        for env in [[("NO_COLOR", "1")], [("TERM", "dumb")]] {
            let (_, plain) = at_terminal(&folder, 80, &[command], &env).end();
            let uncoloured = plain.replace("\r\x1b[K", "");
            assert!(
                !uncoloured.contains('\x1b') && uncoloured.contains(word[5..].trim_end_matches("\x1b[0m")),
                "{plain:?}"
            );
        }
        let out = daemon::run(command, &config, &[]).stdout;
        assert!(!out.contains(&b'\x1b'), "{command}: {}", String::from_utf8_lossy(&out));
    }
}

#[tokio::test]
async fn a_tail_keeps_to_the_columns_of_its_terminal() {
    let scene = Scene::start().await;
    let folder = folder("");
    let socket = folder.path().join("control.sock").display().to_string();
    let config = format!("control.socket = \"{socket}\"\n{}", scene.config());
    std::fs::write(folder.path().join("crieur.toml"), &config).expect("written");
    let mut daemon = scene.daemon_with(&config).await;
    let narrow = at_terminal(&folder, 40, &["tail"], &[]);
    eventually("the daemon has a reader", PATIENCE, async || daemon.log().contains("crieur tail")).await;
    scene.run("UPDATE properties SET title = 'a title' WHERE id = 1").await;
    narrow.waits_for("update");
    narrow.waits_for("…");
    let shown = narrow.shown();
    for line in shown.lines() {
        let mut plain = String::new();
        let mut parts = line.split('\x1b');
        plain.push_str(parts.next().unwrap_or_default());
        parts.for_each(|part| plain.push_str(part.split_once(['m', 'K']).map_or("", |(_, rest)| rest)));
        assert!(plain.chars().count() <= 40, "{plain:?} in {shown:?}");
    }
    drop(narrow);
    assert_eq!(daemon.stop(), Some(0));
}
