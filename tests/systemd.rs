//! The unit file: what systemd says of it, and that its numbers agree with the configuration's.

use std::process::Command;

/// The unit as the repository ships it.
const UNIT: &str = include_str!("../systemd/crieur.service");

/// The value of `name=` in the unit.
fn setting(name: &str) -> &'static str {
    let line = UNIT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("the unit sets {name}"))
}

#[test]
fn configuration_errors_do_not_restart() {
    use crieur::error::Exit;
    let codes = format!("{} {}", Exit::Usage as u8, Exit::Config as u8);
    assert_eq!(setting("RestartPreventExitStatus"), codes);
}

#[test]
fn the_unit_gives_the_daemon_longer_to_stop_than_the_daemon_takes() {
    let seconds: u64 = setting("TimeoutStopSec").trim_end_matches('s').parse().expect("whole seconds");
    assert!(seconds > 10, "limits.stop_timeout is 10 s by default");
}

/// What systemd says of a unit; the program that it starts need not be installed here.
fn complaints(unit: &str) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("crieur.service");
    // Any program that exists stands for it.
    std::fs::write(&path, unit.replace("/usr/local/bin/crieur", "/bin/true")).expect("the directory is ours");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output();
    let output = output.expect("systemd-analyze is there: run tests/setup.sh");
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().filter(|line| line.contains("crieur.service")).map(str::to_owned).collect()
}

#[test]
fn systemd_understands_the_unit() {
    assert_eq!(complaints(UNIT), [""; 0]);
    let wrong = UNIT.replace("Restart=on-failure", "Restart=sometimes");
    assert_ne!(complaints(&wrong), [""; 0], "systemd says what it does not understand");
}
