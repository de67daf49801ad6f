//! A wall clock that a test sets: libfaketime, preloaded into one process and those that it makes.
//!
//! Only the time of day jumps. What measures durations (`CLOCK_MONOTONIC`) goes on, as on a machine whose clock is set.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::process;

/// One clock; it shows the right time at first.
pub struct Clock {
    dir: TempDir,
}

impl Clock {
    pub fn right() -> Clock {
        let dir =
            tempfile::Builder::new().prefix("crieur-clock-").tempdir().expect("the temporary directory is writable");
        process::give(dir.path(), process::unprivileged());
        let clock = Clock { dir };
        clock.set(0);
        clock
    }

    /// It is this many seconds fast from now on; slow, when negative.
    pub fn set(&self, seconds: i64) {
        let half = self.dir.path().join("half");
        fs::write(&half, format!("{seconds:+}\n")).expect("the directory is writable");
        // Whoever asks for the time sees the old file or the new one, never a half.
        fs::rename(half, self.file()).expect("the directory is writable");
    }

    /// The environment of whoever lives by it.
    ///
    /// # Panics
    /// Without the library.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}

/// Debian puts it below the name of the machine's architecture.
fn library() -> PathBuf {
    let place = Path::new("faketime/libfaketime.so.1");
    let entries = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = entries.map(|entry| entry.path().join(place)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("libfaketime is not there: run tests/setup.sh"))
}
