//! A command at a real terminal: util-linux' `script` gives it one, of as many columns as are wanted.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::wait;

/// The command and what it showed.
pub struct Pty {
    child: Child,
    keyboard: Option<ChildStdin>,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Runs the words, with this environment and no other.
    pub fn start(columns: u16, words: &[&str], env: &[(&str, &str)], dir: &Path) -> Pty {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', r"'\''"))).collect();
        let line = format!("stty cols {columns} rows 24 -echo; exec {}", quoted.join(" "));
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]).current_dir(dir);
        let path = std::env::var("PATH").expect("there is a PATH");
        command.env_clear().env("PATH", path).env("TERM", "xterm").env("SHELL", "/bin/sh").envs(env.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("script is of util-linux, which every Debian has");
        let (shown, mut screen) = (Arc::<Mutex<Vec<u8>>>::default(), child.stdout.take().expect("piped"));
        let all = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut part) {
                all.lock().expect("nobody panics").extend_from_slice(&part[..read]);
            }
        });
        let keyboard = child.stdin.take();
        Pty { child, keyboard, shown }
    }

    /// Everything that was shown so far; a terminal ends lines with CR LF.
    pub fn shown(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock().expect("nobody panics")).replace("\r\n", "\n")
    }

    /// Waits until this was shown.
    pub fn waits_for(&self, text: &str) {
        let found = wait::poll(wait::PATIENCE, || self.shown().contains(text).then_some(()));
        assert!(found.is_some(), "the terminal does not show {text:?}: {}", self.shown());
    }

    /// A person types.
    pub fn types(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().expect("it is there until the end");
        keyboard.write_all(text.as_bytes()).and_then(|()| keyboard.flush()).expect("the terminal takes it");
    }

    /// The end: the exit code, and all that was shown.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = wait::poll(wait::PATIENCE, || self.child.try_wait().expect("our own child"));
        let status = status.unwrap_or_else(|| panic!("it does not end: {}", self.shown()));
        // The thread reads what the terminal still holds.
        let mut before = usize::MAX;
        let _ = wait::poll(Duration::from_secs(2), || {
            let now = self.shown.lock().expect("nobody panics").len();
            (std::mem::replace(&mut before, now) == now).then_some(())
        });
        (status.code(), self.shown())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill(); // It may have ended.
        let _ = self.child.wait();
    }
}
