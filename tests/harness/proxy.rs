//! A TCP proxy in the test's own process that can do to a link what networks do: cut, refuse, stall, half a reply.
//!
//! It knows bytes and directions only. One thread accepts, two threads per connection copy; nothing needs a runtime, so
//! a blocked test cannot stall the link by accident.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the client to the server.
    Questions,
    /// From the server to the client.
    Answers,
}

/// `ReadyForQuery` of a PostgreSQL session outside of a transaction.
const READY: &[u8] = b"Z\0\0\0\x05I";

#[derive(Default)]
struct Faults {
    refuse: bool,
    /// Answers stand still as soon as a session is ready.
    stall_when_ready: bool,
    /// Answers to queries stand still; what a stream sends comes through.
    only_streams: bool,
    /// Directions that stand still: bytes are neither passed on nor read.
    stalled: Vec<Direction>,
    /// So many bytes of answers pass, over all connections together, then everything is cut and refused.
    answers_left: Option<usize>,
    /// How much later each piece of an answer arrives.
    delay: Duration,
    /// Both ends of every connection.
    open: Vec<(TcpStream, TcpStream)>,
    accepted: usize,
    closed: bool,
    /// Where new connections go.
    server: u16,
    /// Or to one of these, in turn.
    in_turn: Vec<u16>,
}

impl Faults {
    fn cut(&mut self) {
        for (client, server) in self.open.drain(..) {
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        }
    }
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no holder panics")
    }
}

/// A proxy to one server; it ends with this value.
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
}

impl Proxy {
    /// Listens at a free port of loopback for connections to `server` there.
    pub fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared::default());
        shared.lock().server = server;
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.lock().closed {
                    return;
                }
                accept(&accepting, client);
            }
        });
        Proxy { shared, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connections that were let through so far.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }

    /// New connections go to another server; old ones stay where they are.
    pub fn move_to(&self, server: u16) {
        self.shared.lock().server = server;
    }

    /// New connections go to these servers in turn, as behind a balancer; to the one of before where there are none.
    pub fn take_turns(&self, servers: &[u16]) {
        self.shared.lock().in_turn = servers.to_vec();
    }

    /// Ends every connection; new ones lead to another server there, as after a failover.
    pub fn lead_to(&self, server: u16) {
        self.move_to(server);
        self.cut();
    }

    /// Ends every connection; new ones are welcome.
    pub fn cut(&self) {
        self.shared.lock().cut();
        self.shared.changed.notify_all();
    }

    /// Ends every connection, and each new one at once.
    pub fn refuse(&self) {
        self.shared.lock().refuse = true;
        self.cut();
    }

    /// Bytes of this direction stand still from now on, in old and new connections.
    pub fn stall(&self, direction: Direction) {
        self.shared.lock().stalled.push(direction);
    }

    /// Answers stand still behind the next log-in, as behind a balancer that keeps the line open while the server is
    /// gone.
    pub fn stall_behind_log_in(&self) {
        self.shared.lock().stall_when_ready = true;
    }

    /// Answers to PostgreSQL's ordinary sessions stand still from now on; a stream that runs goes on.
    pub fn stall_all_but_streams(&self) {
        self.shared.lock().only_streams = true;
    }

    /// Each piece of an answer arrives so much later from now on, as from a server that is far away.
    pub fn delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Lets this many more bytes of answers pass, then cuts every connection and refuses new ones until
    /// [`Proxy::heal`].
    pub fn cut_after(&self, answers: usize) {
        self.shared.lock().answers_left = Some(answers);
    }

    /// Whether the cut that [`Proxy::cut_after`] asked for has happened.
    pub fn has_cut(&self) -> bool {
        self.shared.lock().answers_left.is_none()
    }

    /// No faults from now on. Connections that stood still go on.
    pub fn heal(&self) {
        let mut faults = self.shared.lock();
        faults.refuse = false;
        faults.stalled.clear();
        (faults.stall_when_ready, faults.only_streams) = (false, false);
        faults.delay = Duration::ZERO;
        faults.answers_left = None;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port)); // Wakes the accepting thread, so that it sees the end.
    }
}

fn accept(shared: &Arc<Shared>, client: TcpStream) {
    let mut faults = shared.lock();
    if faults.refuse {
        return;
    }
    let port = match faults.in_turn.len() {
        0 => faults.server,
        servers => faults.in_turn[faults.accepted % servers],
    };
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let twin = |socket: &TcpStream| socket.try_clone().expect("file descriptors are there");
    faults.accepted += 1;
    faults.open.push((twin(&client), twin(&server)));
    for (from, to, direction) in
        [(twin(&client), twin(&server), Direction::Questions), (twin(&server), twin(&client), Direction::Answers)]
    {
        let shared = Arc::clone(shared);
        thread::spawn(move || copy(&shared, from, to, direction));
    }
}

/// Passes bytes on until either end closes.
fn copy(shared: &Shared, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        let mut faults = shared.lock();
        // CopyData: pieces begin with a message as long as they are small.
        let is_answer = direction == Direction::Answers && buffer[0] != b'd';
        while (faults.stalled.contains(&direction) || faults.only_streams && is_answer) && !faults.closed {
            faults = shared.changed.wait(faults).expect("no holder panics");
        }
        let allowed = match (&mut faults.answers_left, direction) {
            (Some(left), Direction::Answers) => {
                let allowed = read.min(*left);
                *left -= allowed;
                Some((allowed, *left == 0))
            }
            (Some(_), Direction::Questions) | (None, _) => None,
        };
        let delay = if direction == Direction::Answers { faults.delay } else { Duration::ZERO };
        drop(faults);
        thread::sleep(delay);
        let (allowed, last) = allowed.unwrap_or((read, false));
        let passed = to.write_all(&buffer[..allowed]);
        let mut faults = shared.lock();
        if faults.stall_when_ready && direction == Direction::Answers && buffer[..read].ends_with(READY) {
            faults.stalled.push(Direction::Answers);
        }
        drop(faults);
        if last {
            let mut faults = shared.lock();
            faults.answers_left = None;
            faults.refuse = true;
            faults.cut();
            break;
        }
        if passed.is_err() {
            break;
        }
    }
    // The end of one direction is the end of both: neither protocol knows half-closed links.
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
