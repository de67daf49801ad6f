//! Pages that a real Varnish keeps, purged by crieur through the receiver of `docs/guide/varnish.md`: what this page
//! shows is what runs here. The site makes its pages from rows, and may be held behind its SELECT.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_postgres::Client;

use super::harness::process;
use super::harness::sink::SECRET;
use super::harness::varnish::{Receiver, Varnish};
use super::harness::wait::{PATIENCE, settled};
use super::scene::Scene;

/// The block of this language on the page.
fn block(language: &str) -> &'static str {
    let page = include_str!("../../docs/guide/varnish.md");
    let begin = format!("```{language} test=live/varnish.rs\n");
    let (_, rest) = page.split_once(&begin).expect("the page has the block");
    rest.split_once("```").expect("a block ends").0
}

/// A site behind Varnish: `/biens/1` has the tag of the row, `/ville/1` that of its city, `/tout/1` the coarse one. What
/// stands behind a `?` makes another page of the same row.
struct Site {
    port: u16,
    desk: Arc<Desk>,
}

/// Where pages are made.
struct Desk {
    sql: Client,
    /// How often the row of each page was read.
    reads: Mutex<HashMap<String, u32>>,
    /// The page that waits between its SELECT and its answer.
    held: watch::Sender<String>,
    /// How long each page takes.
    takes: Duration,
}

impl Site {
    async fn start(scene: &Scene, takes: Duration) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there are free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let (sql, reads) = (scene.postgres.client().await, Mutex::default());
        let desk = Arc::new(Desk { sql, reads, held: watch::Sender::new(String::new()), takes });
        let own = Arc::clone(&desk);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&own), socket));
            }
        });
        Site { port, desk }
    }

    fn reads(&self, path: &str) -> u32 {
        self.desk.reads.lock().expect("no holder panics").get(path).copied().unwrap_or(0)
    }
}

/// As `encodeURIComponent` does it.
fn encoded(tag: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte);
    tag.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn serve(desk: Arc<Desk>, mut socket: TcpStream) -> std::io::Result<()> {
    let head = read_until(&mut socket, "\r\n\r\n").await?;
    let path = head.split(' ').nth(1).expect("a request names its path").to_owned();
    let mut parts = path.split('?').next().unwrap_or_default().split('/').skip(1);
    let (kind, id) = (parts.next().unwrap_or_default(), parts.next().and_then(|id| id.parse::<i32>().ok()));
    let id = id.expect("a page of a row");
    let row = desk.sql.query_one("SELECT title, city FROM properties WHERE id = $1", &[&id]).await.expect("valid SQL");
    let (title, city): (String, String) = (row.get(0), row.get(1));
    *desk.reads.lock().expect("no holder panics").entry(path.clone()).or_default() += 1;
    tokio::time::sleep(desk.takes).await;
    let mut held = desk.held.subscribe();
    held.wait_for(|held| *held != path).await.expect("the desk stands");
    let tags = match kind {
        "ville" => encoded(&format!("city:{city}")),
        "tout" => "properties".to_owned(),
        _ => encoded(&format!("property:{id}")),
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\ncache-control: s-maxage=86400\r\nxkey: {tags}\r\nconnection: close\r\n\r\n{title}",
        title.len()
    );
    socket.write_all(answer.as_bytes()).await
}

async fn read_until(socket: &mut TcpStream, end: &str) -> std::io::Result<String> {
    let (mut text, mut some) = (String::new(), [0; 4096]);
    loop {
        let count = socket.read(&mut some).await?;
        text.push_str(&String::from_utf8_lossy(&some[..count]));
        if count == 0 || text.contains(end) {
            return Ok(text);
        }
    }
}

/// The head and the body of one answer.
async fn request(port: u16, method: &str, path: &str, more: &str) -> (String, String) {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    // Varnish keeps a page for each name of the site.
    let asked = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{more}\r\n");
    socket.write_all(asked.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    (head.to_owned(), body.to_owned())
}

/// What a visitor of Varnish sees.
pub async fn visit(port: u16, path: &str) -> String {
    let (head, body) = request(port, "GET", path, "").await;
    assert!(head.starts_with("HTTP/1.1 200") && !head.contains("xkey"), "{head}");
    body
}

/// Servers, Varnish, receiver.
pub struct World {
    pub scene: Scene,
    site: Site,
    pub varnish: Varnish,
    /// `None` while it is away.
    receiver: Option<Receiver>,
    /// Where crieur's messages go.
    receives: u16,
}

impl World {
    /// Pages take so long to be made.
    pub async fn start(takes: Duration) -> World {
        let scene = Scene::start().await;
        scene.run("UPDATE properties SET city = 'Saint Louis' WHERE id = 2").await;
        let site = Site::start(&scene, takes).await;
        let varnish = Varnish::start(block("vcl"), site.port);
        let mut world = World { scene, site, varnish, receiver: None, receives: process::free_port() };
        world.receive();
        world
    }

    /// The receiver stands at its address, again.
    fn receive(&mut self) {
        self.receiver = Some(Receiver::start(block("js"), SECRET, &[&self.varnish], self.receives));
    }

    /// The rules with tags, and the sink with these keys besides.
    pub fn config(&self, sink: &str) -> String {
        let url = format!("http://127.0.0.1:{}/", self.receives);
        let section =
            format!("[sinks.varnish]\nkind = \"webhook\"\nurl = \"{url}\"\nsecret = \"{SECRET}\"\n{sink}\n[cache]\n");
        let keys = "keys = [\"all_properties_public\", \"detail:{id}\", \"city:{city}\"]";
        let tags = format!("{keys}\ntags = [\"property:{{id}}\", \"city:{{city}}\"]\ntags_all = \"properties\"");
        self.scene.config().replace(keys, &tags).replace("[cache]\n", &section)
    }

    pub async fn visit(&self, path: &str) -> String {
        visit(self.varnish.port(), path).await
    }

    /// Varnish keeps the page: it comes without the site.
    pub async fn kept(&self, path: &str) -> String {
        let mut page = self.visit(path).await;
        settled(&format!("{path} is kept"), PATIENCE, async || {
            let reads = self.site.reads(path);
            page = self.visit(path).await;
            if self.site.reads(path) == reads { Ok(()) } else { Err(reads) }
        })
        .await;
        page
    }

    /// Waits until visitors see this title.
    pub async fn shows(&self, path: &str, title: &str) {
        settled(&format!("{path} shows {title}"), PATIENCE, async || match self.visit(path).await {
            page if page == title => Ok(()),
            page => Err((page, self.receiver.as_ref().map(Receiver::log))),
        })
        .await;
    }

    /// How often the site read the row of this page.
    pub fn reads(&self, path: &str) -> u32 {
        self.site.reads(path)
    }

    pub async fn retitle(&self, id: u32, title: &str) {
        self.scene.run(&format!("UPDATE properties SET title = '{title}' WHERE id = {id}")).await;
    }

    /// A page whose making began before a change and ended behind its purge; its visitor came before the change.
    async fn across(&self, path: &str, title: &str) {
        let witness = format!("/biens/1?temoin-{title}");
        let old = self.kept(&witness).await;
        self.site.desk.held.send_replace(path.to_owned());
        let (port, own) = (self.varnish.port(), path.to_owned());
        let slow = tokio::spawn(async move { visit(port, &own).await });
        settled("the page's row is read", PATIENCE, async || match self.site.reads(path) {
            0 => Err("no"),
            _ => Ok(()),
        })
        .await;
        self.retitle(1, title).await;
        self.shows(&witness, title).await;
        self.site.desk.held.send_replace(String::new());
        assert_eq!(slow.await.expect("it does not panic"), old);
    }
}

#[tokio::test]
async fn a_page_behind_varnish_shows_the_new_row_after_the_last_echo_and_without_echoes_one_stays_old() {
    let world = World::start(Duration::ZERO).await;
    let mut daemon = world.scene.daemon_with(&world.config("echo = []")).await;
    for page in ["/biens/1", "/ville/2"] {
        assert_eq!(world.kept(page).await, "old");
    }
    world.retitle(1, "first").await;
    world.shows("/biens/1", "first").await;
    // A tag with a space.
    world.retitle(2, "first").await;
    world.shows("/ville/2", "first").await;
    // What the purge came too early for stays, behind every purge of others and at any later time.
    world.across("/biens/1?sans", "second").await;
    world.kept("/biens/3").await;
    world.retitle(3, "second").await;
    world.shows("/biens/3", "second").await;
    world.scene.confirmed(&daemon).await;
    assert_eq!(world.kept("/biens/1?sans").await, "first", "the test would find a stale page");
    assert_eq!(daemon.stop(), Some(0));

    let daemon = world.scene.daemon_with(&world.config("echo = [\"1s\", \"20s\"]")).await;
    world.across("/biens/1?avec", "third").await;
    world.shows("/biens/1?avec", "third").await;
    assert_eq!(world.kept("/biens/1?avec").await, "third");
    drop(daemon);
}

#[tokio::test]
async fn the_receiver_purges_for_nobody_else_and_hears_again_what_it_missed() {
    let mut world = World::start(Duration::ZERO).await;
    let mut daemon = world.scene.daemon_with(&world.config("echo = []")).await;
    daemon.allow("id=cache.failing");
    assert_eq!(world.kept("/biens/1").await, "old");
    let reads = world.site.reads("/biens/1");
    let (body, tag) = (r#"{"data":{"tags":["property:1"]}}"#, "xkey-purge: property%3A1\r\n");
    let forged = format!(
        "content-length: {}\r\nwebhook-id: msg_1\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,AAAA\r\n\r\n{body}",
        body.len()
    );
    for (port, method, more, status) in [
        (world.receives, "POST", forged.as_str(), "401"),
        (world.varnish.port(), "PURGE", tag, "405"),
        (world.varnish.purges(), "GET", tag, "400"),
    ] {
        let (said, _) = request(port, method, "/biens/1", more).await;
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
    }
    assert_eq!((world.visit("/biens/1").await.as_str(), world.site.reads("/biens/1")), ("old", reads), "it is kept");

    // Nobody takes the message for a while.
    world.receiver = None;
    world.retitle(1, "missed").await;
    daemon.wait_for_log("id=cache.failing");
    assert_eq!(world.visit("/biens/1").await, "old");
    world.receive();
    world.shows("/biens/1", "missed").await;
    // The coarse tag of a truncated table reaches every page that has it.
    assert_eq!(world.kept("/tout/1").await, "missed");
    let emptied = "BEGIN; CREATE TEMPORARY TABLE kept AS TABLE properties; TRUNCATE properties; \
                   INSERT INTO properties SELECT id, city, 'all', owner_id FROM kept; COMMIT";
    world.scene.run(emptied).await;
    world.shows("/tout/1", "all").await;
}
