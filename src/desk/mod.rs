//! The desk: a unix socket at which commands on this machine ask the running daemon.
//!
//! Whoever may connect is judged by the kernel's word of who it is (`peer.rs`). One line of JSON asks, and lines of JSON
//! answer (`words.rs`). The desk cannot disturb the loop: it is a task of its own that reads rings and snapshots under locks
//! held for microseconds, and hands a sweep to the loop over a bounded channel.
//! Connections are bounded in number, questions in bytes and time, and whoever does not read its answers is left.

mod asking;
mod line;
pub mod path;
pub mod peer;
mod sources;
mod sweeping;
pub mod words;

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::desk::peer::{Daemon, Peer};
pub use crate::desk::sources::Desk;
use crate::error::{Error, Exit, Result};
use crate::observe::{Id, log};
use crate::reminder::Reminder;

/// Connections at once; the next one is told so.
const CONNECTIONS_MAX: usize = 8;
/// The owner and the group may connect, which is a write.
const MODE: u32 = 0o660;
/// Before the next try when no connection can be accepted: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The socket's file, which goes with this value.
#[derive(Debug)]
pub struct DeskFile(PathBuf);

impl Drop for DeskFile {
    fn drop(&mut self) {
        // What is left there is replaced at the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Listens, and answers from then on in a task of its own.
///
/// # Errors
///
/// A definite one: the socket cannot be made there.
pub fn open(path: &Path, desk: Desk) -> Result<DeskFile> {
    make_room(path)?;
    let daemon = Daemon::of_this_process()
        .map_err(|cause| Error::definite(Exit::Os, "cannot make a unix socket").because(cause))?;
    let listener = UnixListener::bind(path).map_err(|cause| {
        let hint = if cause.kind() == ErrorKind::InvalidInput { LONG } else { PLACE };
        refused(path).because(cause).hint(hint)
    })?;
    let file = DeskFile(path.to_owned());
    std::fs::set_permissions(path, PermissionsExt::from_mode(MODE))
        .map_err(|cause| refused(path).because(cause).hint(PLACE))?;
    log!(Id::ControlServed, path = %path.display(), "commands are answered at the control socket");
    tokio::spawn(accept(listener, desk, daemon));
    Ok(file)
}

const PLACE: &str =
    "The folder must exist and be the daemon's: change control.socket, or give the unit RuntimeDirectory=crieur.";

/// Of sun_path (unix(7)), with its end.
const LONG: &str = "The path of a socket has at most 107 bytes: change control.socket.";

fn refused(path: &Path) -> Error {
    Error::definite(Exit::Os, format!("cannot listen on the socket \"{}\"", path.display()))
}

/// Takes away what a dead daemon left. Whatever else stands there stays.
fn make_room(path: &Path) -> Result<()> {
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(refused(path).because(cause).hint(PLACE)),
    };
    if !found.file_type().is_socket() {
        let what = format!("cannot listen on \"{}\": a file that is no socket stands there", path.display());
        return Err(Error::definite(Exit::Os, what).hint("Take the file away, or change control.socket."));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(cause) if cause.kind() == ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|cause| refused(path).because(cause).hint(PLACE))
        }
        Err(cause) if cause.kind() == ErrorKind::NotFound => Ok(()),
        Ok(_) | Err(_) => {
            let what = format!("cannot listen on \"{}\": another process answers there", path.display());
            let hint = "Another crieur runs: stop it, or give this one a control.socket of its own.";
            Err(Error::definite(Exit::Os, what).hint(hint))
        }
    }
}

async fn accept(listener: UnixListener, desk: Desk, daemon: Daemon) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut strangers = Reminder::default();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(peer) = admitted(&socket, &daemon, &mut strangers) else {
            tokio::spawn(asking::refuse(socket, words::NOT_ALLOWED));
            continue;
        };
        match Arc::clone(&free).try_acquire_owned() {
            Ok(permit) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    asking::converse(socket, &desk, &peer).await;
                    drop(permit);
                });
            }
            Err(_) => drop(tokio::spawn(asking::refuse(socket, words::BUSY))),
        }
    }
}

/// Who asks, if it may.
fn admitted(socket: &UnixStream, daemon: &Daemon, strangers: &mut Reminder<u32, Instant>) -> Option<Peer> {
    let peer = Peer::of(socket).ok()?;
    if daemon.admits(&peer) {
        return Some(peer);
    }
    if strangers.is_due(&peer.uid, Instant::now()) {
        log!(
            Id::ControlRefused,
            uid = peer.uid,
            pid = peer.pid,
            "a process of another user asked at the control socket and was refused"
        );
    }
    None
}
