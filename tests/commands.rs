//! The program as it is typed, without a server: names of commands, variables, files that cannot be read.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

const RULES: &str = "[[rules]]\ntable = 't'\nkeys = ['k:{id}']\n";
const CHANGE: &[&str] = &["--table", "public.t", "--op", "delete", "--old", "{\"id\": 7}"];

/// Exit code, standard output, standard error.
fn crieur(args: &[&str], env: &[(&str, &OsStr)]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_crieur")).args(args).env_clear().envs(env.iter().copied()).output();
    let output = output.expect("cargo built the program");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it ends by itself"), text(&output.stdout), text(&output.stderr))
}

fn explain(config: &Path, env: &[(&str, &OsStr)]) -> (i32, String, String) {
    crieur(&[&["explain", "--config", &config.display().to_string()], CHANGE].concat(), env)
}

fn written(config: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let path = directory.path().join("crieur.toml");
    fs::write(&path, config).expect("the directory is ours");
    (directory, path)
}

#[test]
fn a_command_that_does_not_exist_is_told_what_to_type_and_never_to_write() {
    for (name, words) in [("state", "`crieur status`"), ("start", "crieur run"), ("valdate", "allowed here: ")] {
        let (code, out, said) = crieur(&[name], &[]);
        assert_eq!((code, out.as_str()), (64, ""), "{name}");
        assert!(said.contains(&format!("no command \"{name}\"")) && said.contains(words), "{said}");
        assert!(!said.contains("did you mean \"setup\""), "{said}");
    }
    let (code, out, said) = crieur(&["status", "--config", "/nowhere/crieur.toml"], &[]);
    assert_eq!((code, out.as_str()), (66, ""), "{said}");
    for words in ["cannot read \"/nowhere/crieur.toml\"", "name another one with --config FILE"] {
        assert!(said.contains(words), "{said}");
    }
    let (code, help, said) = crieur(&["help"], &[]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(help.contains("List cached keys that no rule deletes, and rules without a cached key"), "{help}");
}

/// The journal reads what systemd connected to it, which `JOURNAL_STREAM` names.
#[test]
fn the_journal_gets_priorities_and_a_file_beside_it_gets_none() {
    use std::os::unix::fs::MetadataExt as _;
    let directory = tempfile::tempdir().expect("the temporary directory is writable");
    let path = directory.path().join("log");
    let said = |named: &dyn Fn(&fs::Metadata) -> String| {
        let log = fs::File::create(&path).expect("the directory is ours");
        let stream = named(&log.metadata().expect("it is open"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_crieur"));
        command.args(["run", "--config", "/nowhere/crieur.toml"]).env_clear().env("JOURNAL_STREAM", stream).stderr(log);
        assert_eq!(command.status().expect("cargo built the program").code(), Some(66));
        fs::read_to_string(&path).expect("lines are text")
    };
    let journal = said(&|file| format!("{}:{}", file.dev(), file.ino()));
    assert!(journal.lines().count() > 0 && journal.lines().all(|line| line.starts_with("<3>")), "{journal}");
    let beside = said(&|file| format!("{}:{}", file.dev(), file.ino() + 1));
    assert!(beside.starts_with("error: ") && !beside.contains("<3>"), "{beside}");
}

#[test]
fn explain_and_replay_need_no_addresses_and_what_connects_does() {
    let (_directory, path) = written(RULES);
    let (code, out, said) = explain(&path, &[]);
    assert_eq!((code, said.as_str()), (0, ""));
    assert!(out.contains("k:7"), "{out}");
    let config = path.display().to_string();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let workload = fs::read_dir(golden).expect("it is there").find_map(|entry| {
        let found = entry.expect("readable").path();
        fs::read_dir(&found).ok()?.find_map(|file| {
            let file = file.expect("readable").path();
            fs::read(&file).ok()?.starts_with(b"crieur recording 1 ").then_some(file)
        })
    });
    let recording = workload.expect("a recording").display().to_string();
    let (code, _, said) = crieur(&["replay", "--config", &config, &recording], &[]);
    assert_eq!((code, said.as_str()), (0, ""));
    for command in ["check", "setup", "run", "coverage", "status"] {
        let (code, _, said) = crieur(&[command, "--config", &config], &[("PGHOST", OsStr::new("h"))]);
        assert_eq!(code, 78, "{command}");
        for words in ["postgres.url is missing", "cache.url is missing", "PGHOST does not say postgres.url"] {
            assert!(said.contains(words), "{command}: {said}");
        }
    }
    // Cut off, as by a full disk.
    let whole = fs::read(&recording).expect("readable");
    let cut = path.with_file_name("cut");
    fs::write(&cut, &whole[..whole.len() - 1]).expect("written");
    let (code, _, said) = crieur(&["replay", "--config", &config, &cut.display().to_string()], &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&cut.display().to_string()) && said.contains("ends inside of the entry at byte "), "{said}");
}

#[test]
fn a_variable_of_ours_that_cannot_be_read_stops_the_start_by_its_name() {
    let (_directory, path) = written(RULES);
    let latin = OsStr::from_bytes(b"item:1,caf\xe9:*");
    for name in ["CRIEUR__CACHE__PROTECT", "CRIEUR_CACHE_PROTECT", "CRIEUR_LOG", "DATABASE_URL", "REDIS_URL"] {
        let (code, out, said) = explain(&path, &[(name, latin)]);
        assert_eq!((code, out.as_str()), (78, ""), "{name}");
        assert!(said.contains(&format!("environment variable {name} is not UTF-8")) && !said.contains("caf"), "{said}");
    }
    for (name, value) in [("CRIEUR_CACHE_TIMEOUT", "2s"), ("CRIEUR_LOG", "verbose"), ("CRIEUR__CACHE__TIMOUT", "2s")] {
        let (code, _, said) = explain(&path, &[(name, OsStr::new(value))]);
        assert_eq!(code, 78, "{name}");
        assert!(said.contains(name), "{said}");
    }
    for name in ["LS_COLORS", "PGHOST", "CRIEUR"] {
        assert_eq!(explain(&path, &[(name, latin)]).0, 0, "{name} is none of ours");
    }
}

#[test]
fn a_blank_variable_hides_no_credential() {
    let (directory, path) = written(RULES);
    fs::write(directory.path().join("redis_url"), "redis://127.0.0.1:1?hunter=2\n").expect("written");
    fs::write(directory.path().join("database_url"), "postgres://u@127.0.0.1:1/d\n").expect("written");
    let config = path.display().to_string();
    let (_, _, said) = crieur(
        &["coverage", "--config", &config],
        &[
            ("CREDENTIALS_DIRECTORY", directory.path().as_os_str()),
            ("REDIS_URL", OsStr::new(" ")),
            ("DATABASE_URL", OsStr::new("")),
        ],
    );
    assert!(said.contains("parameter \"hunter\""), "the credential is what is read: {said}");
    fs::write(directory.path().join("redis_url"), b"\xff").expect("written");
    let credentials = [("CREDENTIALS_DIRECTORY", directory.path().as_os_str())];
    let (code, _, said) = crieur(&["coverage", "--config", &config], &credentials);
    assert_eq!(code, 66, "{said}");
    assert!(said.contains(&directory.path().join("redis_url").display().to_string()), "{said}");
}

/// Nobody has set the variable that a credential stands for, so no message may name that variable.
#[test]
fn a_bad_value_of_a_credential_is_told_by_its_file() {
    let (directory, path) = written(RULES);
    let file = |name: &str| directory.path().join(name).display().to_string();
    let config = path.display().to_string();
    let good = ("postgres://u@127.0.0.1:1/d", "redis://127.0.0.1:1");
    for (postgres, cache, wrong, words) in [
        ("postgres://u@h/d?sslmode=verify_full", good.1, "database_url", "sslmode"),
        (good.0, "redis://127.0.0.1:1?hunter=2", "redis_url", "parameter \"hunter\""),
        (good.0, "http://127.0.0.1:1", "redis_url", "web address"),
        (good.0, good.1, "redis_url", "connect"),
        // One is written where the other belongs, and the other is not there.
        (" ", good.0, "redis_url", "looks like an address for postgres.url"),
    ] {
        fs::write(file("database_url"), postgres).expect("written");
        fs::write(file("redis_url"), cache).expect("written");
        let given = [("CREDENTIALS_DIRECTORY", directory.path().as_os_str())];
        let command = if wrong == "database_url" { "check" } else { "coverage" };
        let (code, _, said) = crieur(&[command, "--config", &config], &given);
        assert_ne!(code, 0, "{postgres} {cache}: {said}");
        assert!(said.contains(words) && said.contains(&file(wrong)), "{postgres} {cache}: {said}");
        let place = said.lines().filter(|line| line.contains("-->") || line.starts_with("error"));
        let variable = place.filter(|line| line.contains("_URL"));
        assert_eq!(variable.collect::<Vec<_>>(), [""; 0], "{postgres} {cache}: {said}");
    }
}

#[test]
fn a_rules_file_that_may_not_be_read_is_not_a_relative_path() {
    let (directory, path) = written("rules_file = 'rules'\n");
    let note = |said: &str| said.lines().find(|line| line.contains('^')).unwrap_or(said).to_owned();
    let (code, _, said) = explain(&path, &[]);
    assert_eq!(code, 78);
    assert!(note(&said).ends_with("the path is relative to this file"), "{said}");
    // A directory may be read by nobody, root included.
    fs::create_dir(directory.path().join("rules")).expect("the directory is ours");
    let (code, _, said) = explain(&path, &[]);
    assert_eq!(code, 78);
    assert!(note(&said).ends_with("it must be a file with text"), "{said}");
    assert!(said.contains("crieur.toml:1:"), "{said}");
}

#[test]
fn the_cost_of_a_recording_of_an_instant_is_told_without_a_month() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/dousell");
    let rules = fs::read_to_string(golden.join("rules.toml")).expect("it is there");
    let (_directory, path) = written(&rules);
    let (config, recording) = (path.display().to_string(), golden.join("pg17.rec").display().to_string());
    let (code, out, said) = crieur(&["explain", "--config", &config, "--cost", &recording], &[]);
    assert_eq!((code, said.as_str()), (0, ""));
    for words in ["the recording is too short for a month: its changes span 0.", "without a budget: ", " commands\n"] {
        assert!(out.contains(words), "{words}: {out}");
    }
    for words in ["a month like this", "free plan", "$"] {
        assert!(!out.contains(words), "{words}: {out}");
    }
}
