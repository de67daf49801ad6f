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

#[test]
fn a_loop_that_stands_still_is_ended_and_one_that_waits_for_an_answer_is_not() {
    let seconds: u64 = setting("WatchdogSec").trim_end_matches('s').parse().expect("whole seconds");
    // The longest that one turn may wait inside of a handler is the last status, two seconds.
    assert!((10..=60).contains(&seconds), "{seconds}");
    assert_eq!((setting("Type"), setting("NotifyAccess")), ("notify", "main"));
}

#[test]
fn the_unit_is_closed_and_a_drop_in_may_give_it_a_dynamic_user() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("crieur.service");
    let plain = UNIT.replace("/usr/local/bin/crieur", "/bin/true");
    let dynamic = plain.replace("User=crieur\nGroup=crieur\n", "DynamicUser=yes\n");
    assert_ne!(plain, dynamic);
    for unit in [plain, dynamic] {
        assert_eq!(complaints(&unit), [""; 0]);
        std::fs::write(&path, unit).expect("the directory is ours");
        let output =
            Command::new("systemd-analyze").args(["security", "--offline=yes", "--no-pager"]).arg(&path).output();
        let output = output.expect("systemd-analyze is there: run tests/setup.sh");
        let said = String::from_utf8_lossy(&output.stdout);
        let score = said.lines().find_map(|line| line.split("exposure level for crieur.service: ").nth(1));
        let score = score.and_then(|rest| rest.split(' ').next()?.parse::<f32>().ok());
        assert!(score.is_some_and(|score| score <= 1.2), "{said}");
    }
}

/// The units of the package, made from that of the repository.
#[test]
fn the_units_of_the_package_are_understood_and_instances_share_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/package/units.sh");
    let made = Command::new("sh").arg(script).arg(directory.path()).output().expect("there is a shell");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).expect("it was made");
    let (one, instance) = (read("crieur.service"), read("crieur@.service"));
    assert_eq!(one.replace("/usr/bin/crieur", "/usr/local/bin/crieur"), UNIT, "but for the program it is the same");
    for (line, plain) in instance.lines().zip(one.lines()).filter(|(line, _)| !line.starts_with('#')) {
        assert!(line == plain || line.contains("%i"), "{line}");
    }
    for shared in ["/etc/crieur/crieur.", "RuntimeDirectory=crieur\n"] {
        assert!(!instance.contains(shared), "{shared}");
    }
    for unit in [one, instance] {
        assert_eq!(complaints(&unit.replace("/usr/bin/crieur", "/usr/local/bin/crieur")), [""; 0]);
    }
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
