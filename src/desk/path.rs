//! Where the control socket is. Pure.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where systemd's unit has it.
pub const USUAL: &str = "/run/crieur/control.sock";

/// The name in a runtime directory.
const NAME: &str = "control.sock";

/// Where the daemon listens: as configured, or in the runtime directory that systemd made for it (systemd.exec(5): several
/// are parted by colons, and the first is the unit's own); `None` where there is neither.
pub fn of_daemon(configured: Option<&Path>, runtime_directory: Option<&OsStr>) -> Option<PathBuf> {
    let first = |directories: &OsStr| {
        let first = directories.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        (!first.is_empty()).then(|| Path::new(OsStr::from_bytes(first)).join(NAME))
    };
    configured.map(Path::to_owned).or_else(|| runtime_directory.and_then(first))
}

/// Where a command asks.
pub fn of_command(asked: Option<&Path>, configured: Option<&Path>, runtime_directory: Option<&OsStr>) -> PathBuf {
    let daemon = || of_daemon(configured, runtime_directory);
    asked.map(Path::to_owned).or_else(daemon).unwrap_or_else(|| USUAL.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_where_it_is_configured_or_in_the_first_runtime_directory() {
        let of = |configured: Option<&str>, runtime: Option<&str>| {
            of_daemon(configured.map(Path::new), runtime.map(OsStr::new)).map(|path| path.display().to_string())
        };
        for (configured, runtime, expected) in [
            (None, None, None),
            (None, Some(""), None),
            (None, Some("/run/crieur"), Some("/run/crieur/control.sock")),
            (None, Some("/run/crieur:/run/other"), Some("/run/crieur/control.sock")),
            (Some("/tmp/c"), Some("/run/crieur"), Some("/tmp/c")),
        ] {
            assert_eq!(of(configured, runtime).as_deref(), expected, "{configured:?} {runtime:?}");
        }
        assert_eq!(of_command(None, None, None), Path::new(USUAL));
        assert_eq!(of_command(Some(Path::new("/a")), Some(Path::new("/b")), None), Path::new("/a"));
    }
}
