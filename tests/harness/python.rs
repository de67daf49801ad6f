//! redis-py, as `tests/setup.sh` fetches it: a cluster client that is not ours and not redis-rs.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use super::process::target_dir;
use super::standin::script;

/// A running `tests/standin/redis_py.py`, whose keys are stored; it ends with this value.
pub struct RedisPy {
    child: Child,
}

impl RedisPy {
    /// Stores `PREFIX1` to `PREFIXcount` in the cluster that a node at this port belongs to.
    pub fn start(port: u16, prefix: &str, count: u32) -> RedisPy {
        let part = target_dir().join("servers/redis-py");
        assert!(part.exists(), "redis-py is not there: run tests/setup.sh");
        let mut command = Command::new("python3");
        command.arg(script("redis_py.py")).args([&port.to_string(), prefix, &count.to_string()]);
        command.env("PYTHONPATH", part).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut python = RedisPy { child: command.spawn().expect("python3 is there after tests/setup.sh") };
        let mut found = String::new();
        let stdout = python.child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut found).expect("it says what it finds");
        if found.trim() != count.to_string() {
            let (_, said) = python.ends();
            panic!("redis-py finds {found:?} of {count} keys: {said}");
        }
        python
    }

    /// Whether it sees all its keys go, and what it complains of.
    pub fn ends(mut self) -> (bool, String) {
        // One that has ended reads no line.
        let _ = self.child.stdin.take().expect("it is piped").write_all(b"\n");
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("it is piped");
        std::io::Read::read_to_string(&mut stderr, &mut said).expect("it writes text");
        (self.child.wait().expect("it is our child").success(), said)
    }
}

impl Drop for RedisPy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
