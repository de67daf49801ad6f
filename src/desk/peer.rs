//! Who asks at the control socket, by the kernel's word, and who may: root, the daemon's own user, and members of its group.

use std::os::fd::AsRawFd;

use tokio::net::UnixStream;

/// Groups of one process that are looked at; Linux allows 65,536, and nobody has so many.
const GROUPS_MAX: usize = 1024;

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its groups, its own before the others.
    pub groups: Vec<u32>,
    /// Its process, as it was when it connected; 0 where the kernel does not tell.
    pub pid: i32,
}

impl Peer {
    /// As the kernel noted it when the peer connected (`SO_PEERCRED`, `SO_PEERGROUPS`: unix(7)).
    pub fn of(socket: &UnixStream) -> std::io::Result<Peer> {
        let told = socket.peer_cred()?;
        let mut groups = vec![told.gid()];
        groups.extend(other_groups(socket));
        Ok(Peer { uid: told.uid(), groups, pid: told.pid().unwrap_or_default() })
    }
}

/// The supplementary groups; none where they cannot be told, which admits nobody more.
#[allow(unsafe_code)]
fn other_groups(socket: &UnixStream) -> Vec<u32> {
    let mut groups = vec![0 as libc::gid_t; GROUPS_MAX];
    let mut size = (GROUPS_MAX * size_of::<libc::gid_t>()) as libc::socklen_t;
    // SAFETY: the descriptor is open while `socket` lives; the kernel writes at most `size` bytes into the buffer, which has
    // as many, and into `size` how many it wrote. socket2 and tokio do not expose this option.
    let answer = unsafe {
        let into: *mut libc::gid_t = groups.as_mut_ptr();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, into.cast(), &mut size)
    };
    if answer != 0 {
        return Vec::new();
    }
    groups.truncate(size as usize / size_of::<libc::gid_t>());
    groups
}

/// The user and the group of the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Daemon {
    uid: u32,
    gid: u32,
}

impl Daemon {
    /// Those of a socket's two ends within this process.
    ///
    /// # Errors
    ///
    /// The kernel makes no socket.
    pub fn of_this_process() -> std::io::Result<Daemon> {
        let (one, _other) = UnixStream::pair()?;
        let own = one.peer_cred()?;
        Ok(Daemon { uid: own.uid(), gid: own.gid() })
    }

    /// Whether this one may ask.
    pub fn admits(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.uid || peer.groups.contains(&self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_the_daemon_itself_and_its_group_may_ask_and_nobody_else() {
        let daemon = Daemon { uid: 990, gid: 980 };
        let admits = |uid, groups: &[u32]| daemon.admits(&Peer { uid, groups: groups.to_vec(), pid: 1 });
        assert!(admits(0, &[0]) && admits(990, &[1]) && admits(1000, &[1000, 4, 980]));
        assert!(!admits(1000, &[1000, 4]) && !admits(980, &[990]) && !admits(1000, &[0]));
    }

    #[tokio::test]
    async fn the_kernel_says_who_this_process_is() {
        let (one, _other) = UnixStream::pair().expect("the kernel makes sockets");
        let peer = Peer::of(&one).expect("the kernel tells");
        let own = Daemon::of_this_process().expect("the kernel tells");
        assert!(own.admits(&peer) && peer.uid == own.uid && peer.groups[0] == own.gid);
    }
}
