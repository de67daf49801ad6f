//! A primary, its replica, and the Sentinels that watch them: real ones, all on loopback.

use std::time::Duration;

use super::redis::{Redis, Server};
use super::wait::{self, PATIENCE};

/// What the Sentinels call the primary.
pub const NAME: &str = "m";

/// How a failover begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// `SENTINEL FAILOVER`: the old primary answers for ten more seconds.
    Asked,
    /// `SENTINEL FAILOVER … COORDINATED`: the old primary hands over (Valkey 9).
    Coordinated,
    /// `kill -9` of the primary.
    Killed,
}

/// A watched pair; it ends with this value.
pub struct Watched {
    /// The primary at first, and its replica.
    pub servers: [Redis; 2],
    pub sentinels: Vec<Redis>,
}

impl Watched {
    /// Two servers with further lines of configuration, and three Sentinels that know each other and the replica.
    pub fn start(server: Server, conf: &[&str]) -> Watched {
        Watched::with(server, conf, &[])
    }

    /// The same, with further lines of the Sentinels' configuration.
    pub fn with(server: Server, conf: &[&str], of_sentinels: &[&str]) -> Watched {
        let lines: Vec<&str> = ["repl-diskless-sync-delay 0"].into_iter().chain(conf.iter().copied()).collect();
        let primary = Redis::start(&server, &lines);
        let replica_of = format!("replicaof 127.0.0.1 {}", primary.port());
        let replica = Redis::start(&server, &lines.iter().copied().chain([replica_of.as_str()]).collect::<Vec<_>>());
        let link = wait::poll(PATIENCE, || replica.log().contains("Finished with success").then_some(()));
        assert!(link.is_some(), "the replica does not follow:\n{}", replica.log());
        let sentinels = (0..3).map(|_| sentinel(server, primary.port(), of_sentinels)).collect();
        Watched { servers: [primary, replica], sentinels }
    }

    /// Waits until every Sentinel knows the others and the replica, and sees all of them up.
    pub fn settle(&self) {
        for sentinel in &self.sentinels {
            let ready = wait::poll(PATIENCE, || {
                let told = details(sentinel);
                let is = |name: &str, value: &str| field(&told, name).is_some_and(|found| found == value);
                let replicas: Vec<Vec<String>> = sentinel.ask(&["SENTINEL", "REPLICAS", NAME]);
                let is_followed = |replica: &Vec<String>| {
                    field(replica, "flags").is_some_and(|flags| flags == "slave")
                        && field(replica, "master-link-status").is_some_and(|status| status == "ok")
                        && field(replica, "master-port") == field(&told, "port")
                };
                let all = is("num-other-sentinels", "2") && is("flags", "master") && is("num-slaves", "1");
                (all && replicas.iter().all(is_followed)).then_some(())
            });
            assert!(ready.is_some(), "the Sentinels do not settle: {:?}\n{}", details(sentinel), sentinel.log());
        }
    }

    /// The address of the cache.
    pub fn url(&self) -> String {
        let hosts: Vec<String> =
            self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!("redis+sentinel://{}/{NAME}", hosts.join(","))
    }

    /// The port that a majority of the Sentinels names.
    pub fn named(&self) -> Option<u16> {
        let words: Vec<u16> = self.sentinels.iter().filter_map(named_by).collect();
        let votes = |port: u16| words.iter().filter(|word| **word == port).count();
        words.iter().copied().find(|port| votes(*port) > self.sentinels.len() / 2)
    }

    /// The server that a majority names: [`Watched::servers`] at this index.
    pub fn primary(&self) -> usize {
        let found = wait::poll(PATIENCE, || {
            let named = self.named()?;
            self.servers.iter().position(|server| server.port() == named)
        });
        found.expect("a majority names one of the two")
    }

    /// Begins a failover of the server at this index; it may end much later.
    pub fn fail_over(&mut self, how: How, primary: usize) {
        let words: &[&str] = match how {
            How::Killed => return self.servers[primary].kill(),
            How::Asked => &["SENTINEL", "FAILOVER", NAME],
            How::Coordinated => &["SENTINEL", "FAILOVER", NAME, "COORDINATED"],
        };
        let begun = wait::poll(PATIENCE, || {
            let mut command = redis::Cmd::new();
            command.arg(words).query::<String>(&mut self.sentinels[0].connection()).ok()
        });
        assert!(begun.is_some(), "no failover begins:\n{}", self.sentinels[0].log());
    }
}

/// One more Sentinel that watches whoever listens at this port.
pub fn sentinel(server: Server, primary: u16, conf: &[&str]) -> Redis {
    let monitor = format!("sentinel monitor {NAME} 127.0.0.1 {primary} 2");
    let lines = [monitor.as_str(), "sentinel down-after-milliseconds m 1000", "sentinel failover-timeout m 3000"];
    Redis::start(&server, &lines.into_iter().chain(conf.iter().copied()).collect::<Vec<_>>())
}

/// What one Sentinel says, if it answers.
fn named_by(sentinel: &Redis) -> Option<u16> {
    let client = redis::Client::open(sentinel.url()).ok()?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(1)).ok()?;
    let asked = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(NAME).query::<Vec<String>>(&mut connection);
    asked.ok()?.get(1)?.parse().ok()
}

fn details(sentinel: &Redis) -> Vec<String> {
    sentinel.ask(&["SENTINEL", "MASTER", NAME])
}

fn field(told: &[String], name: &str) -> Option<String> {
    told.chunks_exact(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone())
}
