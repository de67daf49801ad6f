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
fn what_a_restart_cannot_mend_is_not_restarted_and_all_else_ever_more_slowly() {
    use crieur::error::Exit;
    let never: Vec<u8> =
        setting("RestartPreventExitStatus").split(' ').map(|code| code.parse().expect("a code")).collect();
    assert_eq!(never, Exit::FOR_GOOD.map(|exit| exit as u8));
    // A full disk, a port that is taken, a bug: these may pass, and a stopped daemon leaves a stale cache.
    for exit in [Exit::Failed, Exit::Data, Exit::Software, Exit::Os, Exit::CantCreate, Exit::Protocol] {
        assert!(!never.contains(&(exit as u8)), "{exit:?}");
    }
    assert_eq!(setting("Restart"), "on-failure");
    assert_eq!(setting("StartLimitIntervalSec"), "0", "no number of failures ends the attempts");
    let steps: u32 = setting("RestartSteps").parse().expect("a number");
    assert!(steps > 0 && setting("RestartMaxDelaySec") == "5min");
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
    let of_the_unit = said.lines().filter(|line| line.contains("crieur.service"));
    // systemd before 254 passes these over, and the unit says so.
    let newer = |line: &&str| {
        line.contains("Unknown key") && (line.contains("RestartSteps") || line.contains("RestartMaxDelaySec"))
    };
    of_the_unit.filter(|line| !newer(line)).map(str::to_owned).collect()
}

#[test]
fn systemd_understands_the_unit() {
    assert_eq!(complaints(UNIT), [""; 0]);
    let wrong = UNIT.replace("Restart=on-failure", "Restart=sometimes");
    assert_ne!(complaints(&wrong), [""; 0], "systemd says what it does not understand");
}
