//! The commands' side of the control socket: where it is, one question, and the answers in turn.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::desk::path::of_command;
use crate::desk::words::{DeskAnswer, DeskQuestion};
use crate::error::{Error, Exit, Result};

/// Where the daemon is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct SocketArgs {
    /// The control socket of the daemon; without it: control.socket of the configuration, or /run/crieur/control.sock.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl SocketArgs {
    /// The socket, by the argument, or as the configuration file says; what of the file cannot be read says nothing.
    pub(super) fn path(&self, config: &Path) -> PathBuf {
        let variable = std::env::var_os("CRIEUR__CONTROL__SOCKET").filter(|path| !path.is_empty()).map(PathBuf::from);
        let configured = variable.or_else(|| written(&std::fs::read_to_string(config).ok()?));
        of_command(self.socket.as_deref(), configured.as_deref(), std::env::var_os("RUNTIME_DIRECTORY").as_deref())
    }
}

/// `control.socket` of a configuration file.
fn written(text: &str) -> Option<PathBuf> {
    let table: toml::Table = text.parse().ok()?;
    Some(table.get("control")?.get("socket")?.as_str()?.into())
}

/// The answers to a question.
#[derive(Debug)]
pub(super) struct DeskAnswers {
    lines: BufReader<UnixStream>,
    line: Vec<u8>,
}

impl DeskAnswers {
    /// Asks.
    ///
    /// # Errors
    ///
    /// Nobody answers there, or this user may not ask.
    pub(super) async fn of(path: &Path, question: &DeskQuestion) -> Result<DeskAnswers> {
        let mut socket = UnixStream::connect(path).await.map_err(|cause| unanswered(path, cause))?;
        let mut text = serde_json::to_vec(question).map_err(|_| Error::definite(Exit::Software, "write a question"))?;
        text.push(b'\n');
        // A daemon that refuses may close before it reads: its answer says why.
        let _ = socket.write_all(&text).await;
        Ok(DeskAnswers { lines: BufReader::new(socket), line: Vec::new() })
    }

    /// The next one; `None` when the daemon ended. Cancel-safe: what was read of a line is kept.
    ///
    /// # Errors
    ///
    /// The daemon refuses, or says what this version does not understand.
    pub(super) async fn next(&mut self) -> Result<Option<DeskAnswer>> {
        // Whatever breaks the connection is the daemon's end.
        let read = self.lines.read_until(b'\n', &mut self.line).await.unwrap_or(0);
        if read == 0 || !self.line.ends_with(b"\n") {
            return Ok(None);
        }
        let line = std::mem::take(&mut self.line);
        match serde_json::from_slice(&line) {
            Ok(DeskAnswer::Refused { why, hint, exit }) => {
                let exit = Exit::ALL.into_iter().find(|known| *known as u8 == exit).unwrap_or(Exit::Unavailable);
                Err(Error::definite(exit, format!("the daemon refuses: {why}")).hint(hint))
            }
            Ok(answer) => Ok(Some(answer)),
            Err(_) => Err(Error::definite(Exit::Protocol, "the daemon's answer is not understood")
                .hint("The daemon is of another version than this command: restart it (systemctl restart crieur).")),
        }
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

fn unanswered(path: &Path, cause: std::io::Error) -> Error {
    let shown = path.display();
    let (exit, what, hint) = match cause.kind() {
        ErrorKind::NotFound => (
            Exit::Unavailable,
            format!("no daemon answers: there is no socket \"{shown}\""),
            "Start the daemon: systemctl start crieur. It makes the socket where control.socket says, or in the \
             RuntimeDirectory of its unit; name another one with --socket.",
        ),
        ErrorKind::ConnectionRefused if !is_socket(path) => (
            Exit::Unavailable,
            format!("no daemon answers at \"{shown}\", which is no socket"),
            "Name the control socket of the daemon with --socket.",
        ),
        ErrorKind::ConnectionRefused => (
            Exit::Unavailable,
            format!("no daemon answers at \"{shown}\": the one that made this socket has ended"),
            "Start the daemon: systemctl start crieur. Or name another socket with --socket.",
        ),
        ErrorKind::PermissionDenied => (
            Exit::NoPermission,
            format!("this user may not ask the daemon at \"{shown}\""),
            "Run the command as root, as the daemon's user, or as a member of the daemon's group.",
        ),
        _ => (
            Exit::Unavailable,
            format!("no daemon answers at \"{shown}\""),
            "Name the control socket of the daemon with --socket.",
        ),
    };
    Error::definite(exit, what).because(cause).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_of_a_file_is_read_whatever_else_stands_there() {
        let of = |text: &str| written(text).map(|path| path.display().to_string());
        assert_eq!(of("[control]\nsocket = '/a'\n[[rules]]\nnonsense = 1\n").as_deref(), Some("/a"));
        for none in ["", "[control]\n", "[control]\nsocket = 5\n", "not toml"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
