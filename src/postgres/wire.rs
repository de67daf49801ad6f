//! The replication session: log-in, simple queries and the CopyBoth stream, on `postgres-protocol`.
//!
//! It speaks messages, not changes, and keeps no position. It has one owner and one writer; reading is cancel-safe.

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::config::ChannelBinding;

use crate::change::Oid;
use crate::decode::encodings::Encoding;
use crate::decode::transcode::Transcoder;
use crate::error::{Error, Exit, Result};
use crate::observe::{Id, log};
use crate::postgres::dsn::{Dsn, SessionTarget};
use crate::postgres::frames::Frames;
use crate::postgres::link::{Link, each_host};
use crate::postgres::socket::ReceiveWindow;
use crate::postgres::sqlstate::{error_fields, no_password, server_error, wrong_target};
use crate::reminder::Reminder;

/// A row of a simple query, as text.
pub type TextRow = Vec<Option<String>>;

/// A replication session.
#[derive(Debug)]
pub struct Wire {
    link: Link,
    frames: Frames,
    out: BytesMut,
    server_encoding: String,
    /// The stream comes in the server's encoding.
    transcoder: Option<Box<Transcoder>>,
    /// Tables of which a value has no form in UTF-8.
    said: Reminder<Oid, Instant>,
}

/// A database with the encoding SQL_ASCII holds whatever bytes the application wrote. A client that wants UTF-8 has them
/// checked, not converted (`pg_server_to_any` in src/backend/utils/mb/mbutils.c): one row that is no
/// UTF-8 would end the stream at every try.
pub(crate) const UNCONVERTED: &str = "SET client_encoding = 'SQL_ASCII'";

/// For statements of ours.
const CONVERTED: &str = "SET client_encoding = 'UTF8'";

/// Names in statements of ours are the server's own, whatever role or database put into the path; the stream's values
/// are written under theirs ([`ROLES_PATH`]).
const NO_PATH: &str = "SET search_path TO ''";
/// For a stream that begins.
pub(crate) const ROLES_PATH: &str = "RESET search_path";

fn broken(cause: std::io::Error) -> Error {
    Error::transient("the connection to the server broke").because(cause)
}

/// An ErrorResponse as an error.
pub fn error_response(body: &[u8]) -> Error {
    let (code, message) = error_fields(body);
    server_error(&code, &message)
}

fn unexpected(tag: u8, when: &str) -> Error {
    let tag = tag.escape_ascii();
    Error::definite(Exit::Protocol, format!("unexpected message \"{tag}\" {when}"))
}

/// How values are written, whatever is set for the role, the database or the server: a key must not depend on it. What
/// the URL's own `options` say comes behind this and wins.
pub(crate) const OUTPUT: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=1 \
                                 -c bytea_output=hex";

impl Wire {
    /// Connects to the first host that will do and logs in for logical replication.
    pub async fn connect(dsn: &Dsn, limit: Duration) -> Result<Self> {
        each_host(dsn, limit, ReceiveWindow::Small, async |link| Wire::log_in(link, dsn).await).await
    }

    async fn log_in(link: Link, dsn: &Dsn) -> Result<Self> {
        let (frames, server_encoding) = (Frames::default(), String::new());
        let (transcoder, said) = (None, Reminder::default());
        let mut wire = Wire { link, frames, out: BytesMut::new(), server_encoding, transcoder, said };
        let user = dsn.user()?;
        let options = format!("{OUTPUT} {}", dsn.config.get_options().unwrap_or_default());
        let parameters = [
            ("user", user.as_str()),
            ("database", dsn.config.get_dbname().unwrap_or(&user)),
            ("replication", "database"),
            ("application_name", dsn.config.get_application_name().unwrap_or("crieur")),
            ("client_encoding", "UTF8"),
            ("options", options.trim()),
        ];
        wire.send(|out| frontend::startup_message(parameters, out)).await?;
        wire.authenticate(dsn, &user).await?;
        loop {
            match wire.next().await? {
                (b'Z', _) => break,
                (b'S', body) => wire.parameter(&body),
                (b'K' | b'N', _) => {}
                (b'E', body) => return Err(error_response(&body)),
                (tag, _) => return Err(unexpected(tag, "after log-in")),
            }
        }
        if wire.server_encoding == "SQL_ASCII" {
            wire.simple_query(UNCONVERTED).await?;
        }
        wire.simple_query(NO_PATH).await?;
        wire.check_target(dsn.target).await?;
        Ok(wire)
    }

    /// ParameterStatus: name and value, each with a NUL byte behind it.
    fn parameter(&mut self, body: &[u8]) {
        if let Some(value) = body.strip_prefix(b"server_encoding\0") {
            self.server_encoding = String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value)).into_owned();
        }
    }

    async fn check_target(&mut self, target: SessionTarget) -> Result<()> {
        let wanted = match target {
            SessionTarget::Any => return Ok(()),
            SessionTarget::Primary => "f",
            SessionTarget::Standby => "t",
        };
        let rows = self.simple_query("SELECT pg_catalog.pg_is_in_recovery()").await?;
        let found = rows.first().and_then(|row| row.first()?.as_deref());
        if found == Some(wanted) {
            return Ok(());
        }
        Err(wrong_target(target))
    }

    /// Answers what the server asks for until it is satisfied.
    async fn authenticate(&mut self, dsn: &Dsn, user: &str) -> Result<()> {
        let binding_required = dsn.config.get_channel_binding() == ChannelBinding::Require;
        let mut bound = false;
        loop {
            let body = match self.next().await? {
                (b'R', body) => body,
                (b'N' | b'v', _) => continue,
                (b'E', body) => return Err(error_response(&body)),
                (tag, _) => return Err(unexpected(tag, "at log-in")),
            };
            let (kind, rest) = body.split_first_chunk::<4>().ok_or_else(|| unexpected(b'R', "at log-in"))?;
            let kind = u32::from_be_bytes(*kind);
            if binding_required && !bound && kind != 10 {
                return Err(Error::definite(Exit::NoPermission, "the server does not ask for channel binding")
                    .hint("channel_binding=require needs TLS and a SCRAM password; prefer takes what is there."));
            }
            match kind {
                0 => return Ok(()),
                3 => {
                    // `Link` ends a TCP session before this point when it is not under TLS.
                    let password = password(dsn)?;
                    self.send(|out| frontend::password_message(&password, out)).await?;
                }
                5 => {
                    let salt = rest.first_chunk::<4>().ok_or_else(|| unexpected(b'R', "at log-in"))?;
                    let hash = md5_hash(user.as_bytes(), &password(dsn)?, *salt);
                    self.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
                }
                10 => bound = self.scram(dsn, rest).await?,
                kind => {
                    return Err(Error::definite(Exit::Unavailable, format!("log-in method {kind} is not supported"))
                        .hint("Use scram-sha-256, md5, a client certificate or trust in pg_hba.conf."));
                }
            }
        }
    }

    /// SCRAM-SHA-256, bound to the server's certificate where both sides can; says whether it was bound.
    async fn scram(&mut self, dsn: &Dsn, mechanisms: &[u8]) -> Result<bool> {
        let offers = |name: &[u8]| mechanisms.split(|byte| *byte == 0).any(|offered| offered == name);
        let wanted = dsn.config.get_channel_binding();
        let end_point = (wanted != ChannelBinding::Disable).then(|| self.link.end_point()).flatten();
        let (binding, mechanism) = match (offers(sasl::SCRAM_SHA_256_PLUS.as_bytes()), end_point) {
            (true, Some(hash)) => (sasl::ChannelBinding::tls_server_end_point(hash), sasl::SCRAM_SHA_256_PLUS),
            // Both could be bound but for the offer: saying so lets the server notice a stranger in between.
            (false, Some(_)) => (sasl::ChannelBinding::unrequested(), sasl::SCRAM_SHA_256),
            (_, None) => (sasl::ChannelBinding::unsupported(), sasl::SCRAM_SHA_256),
        };
        let bound = mechanism == sasl::SCRAM_SHA_256_PLUS;
        if wanted == ChannelBinding::Require && !bound {
            return Err(Error::definite(Exit::NoPermission, "the server offers no channel binding")
                .hint("channel_binding=require needs TLS and a SCRAM password; prefer takes what is there."));
        }
        if !offers(mechanism.as_bytes()) {
            return Err(Error::definite(Exit::Unavailable, "the server offers no SCRAM-SHA-256"));
        }
        let failed = |cause| Error::definite(Exit::NoPermission, "SCRAM failed").because(cause);
        let mut scram = sasl::ScramSha256::new(&password(dsn)?, binding);
        self.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
        scram.update(&self.sasl(11).await?).map_err(failed)?;
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        scram.finish(&self.sasl(12).await?).map_err(failed)?;
        Ok(bound)
    }

    async fn sasl(&mut self, step: u32) -> Result<Vec<u8>> {
        match self.next().await? {
            (b'R', body) => match body.split_first_chunk::<4>() {
                Some((kind, rest)) if u32::from_be_bytes(*kind) == step => Ok(rest.to_vec()),
                _ => Err(unexpected(b'R', "in SCRAM")),
            },
            (b'E', body) => Err(error_response(&body)),
            (tag, _) => Err(unexpected(tag, "in SCRAM")),
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        self.out.clear();
        write(&mut self.out).map_err(|cause| Error::definite(Exit::Config, "form a message").because(cause))?;
        self.link.write_all(&self.out).await.map_err(broken)?;
        self.link.flush().await.map_err(broken)
    }

    /// The next message, copied: for log-in and queries, where speed does not matter.
    async fn next(&mut self) -> Result<(u8, Vec<u8>)> {
        while !self.frames.has_message() {
            self.fill().await?;
        }
        match self.frames.next()? {
            Some((tag, body)) => Ok((tag, body.to_vec())),
            None => Err(Error::definite(Exit::Software, "a message was there and is not")),
        }
    }

    /// Runs one statement of the simple query protocol, replication commands included, and returns its rows.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<TextRow>> {
        self.send(|out| frontend::query(sql, out)).await?;
        let (mut rows, mut refused) = (Vec::new(), None);
        loop {
            match self.next_or(&mut refused).await? {
                (b'Z', _) => return refused.map_or(Ok(rows), Err),
                (b'D', body) => rows.push(text_row(&body).ok_or_else(|| unexpected(b'D', "that cannot be read"))?),
                (b'E', body) => refused = Some(error_response(&body)),
                (b'T' | b'C' | b'N' | b'S' | b'I', _) => {}
                (tag, _) => return Err(unexpected(tag, "in the answer to a query")),
            }
        }
    }

    /// Runs a command that turns the session into a stream in both directions. Behind a refusal the session can be used.
    pub async fn start_copy_both(&mut self, sql: &str) -> Result<()> {
        let command = self.convert_here(sql).await?;
        let started = self.copy_both(&command).await;
        if started.is_err() && self.transcoder.take().is_some() {
            self.simple_query(CONVERTED).await?;
        }
        started
    }

    /// Where this can convert the stream as the server would, the server need not: it gives up at the first byte that has no
    /// form in UTF-8, at every try. The command, as it must be sent.
    async fn convert_here(&mut self, sql: &str) -> Result<Vec<u8>> {
        let encoding = Encoding::named(&self.server_encoding);
        let Some((encoding, command)) = encoding.and_then(|encoding| Some((encoding, encoding.bytes(sql)?))) else {
            return Ok(sql.as_bytes().to_vec());
        };
        let (bytes, text) = encoding.sample();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = encoding.name;
        let ask = format!("SELECT pg_catalog.convert_from(pg_catalog.decode('{hex}', 'hex'), '{name}')");
        if self.simple_query(&ask).await?.first().and_then(|row| row.first()?.as_ref()) != Some(&text) {
            log!(
                Id::Encoding,
                "the server converts {name} in another way than crieur: the server converts the stream itself"
            );
            return Ok(sql.as_bytes().to_vec());
        }
        self.simple_query(&format!("SET client_encoding = '{name}'")).await?;
        self.transcoder = Some(Box::new(Transcoder::new(encoding)));
        Ok(command)
    }

    async fn copy_both(&mut self, command: &[u8]) -> Result<()> {
        self.send(|out| {
            out.put_u8(b'Q');
            let length = i32::try_from(command.len() + 5).map_err(std::io::Error::other)?;
            out.put_i32(length);
            out.extend_from_slice(command);
            out.put_u8(0);
            Ok(())
        })
        .await?;
        let mut refused = None;
        loop {
            match self.next_or(&mut refused).await? {
                (b'W', _) => return Ok(()),
                (b'E', body) => refused = Some(error_response(&body)),
                // What comes behind it is the next answer's.
                (b'Z', _) => return Err(refused.unwrap_or_else(|| unexpected(b'Z', "instead of a stream"))),
                (b'N' | b'S', _) => {}
                (tag, _) => return Err(refused.unwrap_or_else(|| unexpected(tag, "instead of a stream"))),
            }
        }
    }

    /// The next message; where none comes any more behind an error that the server said, that error.
    async fn next_or(&mut self, said: &mut Option<Error>) -> Result<(u8, Vec<u8>)> {
        let next = self.next().await;
        next.map_err(|error| said.take().unwrap_or(error))
    }

    /// Reads what is there into the buffer, at least one byte; says how many. Cancel-safe.
    pub async fn fill(&mut self) -> Result<usize> {
        let count = self.link.read(self.frames.space()).await.map_err(broken)?;
        if count == 0 {
            return Err(Error::transient("the server closed the connection"));
        }
        self.frames.filled(count);
        Ok(count)
    }

    /// Waits until the kernel has as many bytes as its low-water mark asks for. Cancel-safe.
    pub async fn readable(&self) -> Result<()> {
        self.link.socket().readable().await.map_err(broken)
    }

    /// Whether a receive window lies between the server and us.
    pub fn has_window(&self) -> bool {
        !self.link.socket().is_unix()
    }

    /// Whether [`message`](Wire::message) has something to say.
    pub fn has_message(&self) -> bool {
        self.frames.has_message()
    }

    /// The next whole message in the buffer: tag and body, borrowed. Texts of a stream are UTF-8, as far as they have a form
    /// in it.
    #[inline]
    pub fn message(&mut self) -> Result<Option<(u8, &[u8])>> {
        let message = self.frames.next()?;
        match (message, &mut self.transcoder) {
            (Some((b'd', body)), Some(transcoder)) => {
                transcoder.payload(body);
                if let Some((oid, table)) = transcoder.odd() {
                    say_odd(&mut self.said, oid, table);
                }
                Ok(Some((b'd', transcoder.last(body))))
            }
            (message, _) => Ok(message),
        }
    }

    /// Sends one CopyData message. Not cancel-safe: whoever gives up drops the session.
    pub async fn send_copy_data(&mut self, payload: &[u8]) -> Result<()> {
        self.send(|out| {
            frontend::CopyData::new(payload)?.write(out);
            Ok(())
        })
        .await
    }

    /// Ends the stream: CopyDone, the server's own, and Terminate.
    pub async fn copy_done(&mut self) -> Result<()> {
        self.send(|out| {
            frontend::copy_done(out);
            Ok(())
        })
        .await?;
        // What was on its way still arrives; nothing of it is taken, so it comes again.
        while !matches!(self.next().await?.0, b'Z' | b'E') {}
        self.send(|out| {
            frontend::terminate(out);
            Ok(())
        })
        .await
    }

    /// See [`Socket::set_receive_low_water`](crate::postgres::socket::Socket::set_receive_low_water).
    pub fn set_receive_low_water(&self, bytes: i32) {
        self.link.socket().set_receive_low_water(bytes);
    }
}

/// Once a minute for each table.
fn say_odd(said: &mut Reminder<Oid, Instant>, oid: Oid, table: &str) {
    if said.is_due(&oid, Instant::now()) {
        let hint = "No reader can read that value in UTF-8, so no key is made of it. Mend the row.";
        log!(
            Id::ValueUnreadable,
            hint,
            "table \"{}\" has a value with a byte that has no form in UTF-8",
            table.escape_debug()
        );
    }
}

fn password(dsn: &Dsn) -> Result<Vec<u8>> {
    dsn.config.get_password().map(<[u8]>::to_vec).ok_or_else(no_password)
}

/// A DataRow: Int16 count, then Int32 length (-1 is NULL) and bytes for each column.
fn text_row(body: &[u8]) -> Option<TextRow> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut row = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        match i32::from_be_bytes(*length) {
            -1 => {
                row.push(None);
                rest = after;
            }
            length => {
                let (text, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                row.push(Some(String::from_utf8(text.to_vec()).ok()?));
                rest = after;
            }
        }
    }
    rest.is_empty().then_some(row)
}
