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

#[test]
fn systemd_understands_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return; // A system without systemd cannot run the unit either.
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    // The program is not installed where the unit expects it: any program that exists stands for it.
    let unit = UNIT.replace("/usr/local/bin/crieur", "/bin/true");
    let path = directory.path().join("crieur.service");
    std::fs::write(&path, unit).expect("written");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output().expect("runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("crieur.service")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}
