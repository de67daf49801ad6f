//! `crieur record`: the live stream to a file, with what is needed to replay it without the server.
//!
//! It streams from a temporary slot of its own, which ends with the session: it moves nobody's position, disturbs no
//! daemon and leaves nothing behind. Lookups run on the loop's own road, once their transaction is visible.

use std::collections::VecDeque;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use tokio::time::{Instant, sleep};

use crate::amount::duration;
use crate::cli::beside::{Beside, Onlooker};
use crate::cli::origin::Origin;
use crate::cli::process::end_signal;
use crate::config::Config;
use crate::control::Control;
use crate::decode::Frame;
use crate::error::{Error, Exit, Result};
use crate::lsn::{Lsn, Xid};
use crate::question::{Answer, Question};
use crate::source::recording::{Header, LookupAnswer, PartitionRoot, RecordingWriter};
use crate::tap::{FrameTap, Tapped};

/// While lookups wait for their transaction to become visible, a snapshot is taken this often.
const VISIBLE_INTERVAL: Duration = Duration::from_millis(5);

/// The longest wait for what committed before the stop.
const DRAIN_MAX: Duration = Duration::from_secs(5);

/// Arguments of `crieur record`.
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    /// The configuration file; its rules decide which lookups are recorded.
    #[arg(long, value_name = "FILE", default_value = "/etc/crieur/crieur.toml")]
    pub config: PathBuf,
    /// The recording; must not exist. It will hold row values: keep it like the database.
    #[arg(long, value_name = "RECORDING")]
    pub out: PathBuf,
    /// Stop after this long (30s, 5m, 1h); otherwise at SIGINT or SIGTERM.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
}

/// What a recording says while it grows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Milestone {
    /// Changes that commit from now on are recorded; the stream begins here.
    Ready(Lsn),
    /// Everything up to here was received, and its lookups are answered.
    Settled(Lsn),
}

/// What became of a recording.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recorded {
    /// Frames of the stream.
    pub frames: u64,
    /// Lookups with their answers.
    pub lookups: u64,
    /// Lookups whose transaction was not visible at the end: a replay widens their keys.
    pub unanswered: u64,
}

/// Records until told to stop.
pub async fn run(config: &Config, arguments: &RecordArgs, say: &mut impl Write) -> anyhow::Result<Exit> {
    let signal = end_signal()?;
    let stop = async {
        match arguments.duration {
            Some(limit) => drop(tokio::time::timeout(limit, signal).await),
            None => signal.await,
        }
    };
    let file = create(&arguments.out)?;
    let (mut said, mut ready) = (Ok(()), false);
    let recorded = record(config, std::io::BufWriter::new(file), stop, |news| match news {
        Milestone::Ready(lsn) => {
            ready = true;
            said = writeln!(say, "recording from {lsn}").and_then(|()| say.flush());
        }
        Milestone::Settled(_) => {}
    })
    .await;
    if !ready {
        // Nothing is in it, and it would stand in the way of the next attempt; the error matters more than its remains.
        let _ = std::fs::remove_file(&arguments.out);
    }
    let recorded = recorded.map_err(|error| match error.exit() {
        Exit::CantCreate => error
            .while_doing(&format!("write \"{}\"", arguments.out.display()))
            .hint("`crieur replay` reads what was written before. Make room there, or name another file with --out."),
        _ => error,
    })?;
    let Recorded { frames, lookups, unanswered } = recorded;
    said.and_then(|()| writeln!(say, "{frames} frames, {lookups} lookups answered, {unanswered} not"))?;
    Ok(Exit::Ok)
}

fn parse_duration(text: &str) -> std::result::Result<Duration, &'static str> {
    duration(text).ok_or("a duration is a whole number and a unit: 30s, 5m, 1h")
}

/// A new file that only its owner can read.
fn create(path: &Path) -> anyhow::Result<std::fs::File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.with_context(|| format!("recording \"{}\" cannot be made", path.display()))
}

/// Writes the stream to `out` until `stop`.
pub async fn record(
    config: &Config,
    out: impl Write,
    stop: impl Future<Output = ()>,
    news: impl FnMut(Milestone),
) -> Result<Recorded> {
    let mut stop = pin!(stop);
    let origin = Origin::of(config)?;
    let recorded = origin.beside("record", stop.as_mut(), Recording { config, out, news }).await?;
    recorded.ok_or_else(|| Error::transient("stopped before the recording began"))
}

/// Where a recording goes, and who hears of it.
struct Recording<'a, W, N> {
    config: &'a Config,
    out: W,
    news: N,
}

impl<W: Write, N: FnMut(Milestone)> Onlooker for Recording<'_, W, N> {
    type Seen = Recorded;
    type Failure = Error;

    async fn look_on(
        mut self,
        mut stream: impl Beside,
        header: Header,
        control: impl Control,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> Result<Recorded> {
        let mut recorder = Recorder::new(self.config, control, RecordingWriter::new(self.out, &header)?);
        (self.news)(Milestone::Ready(stream.position()));
        // Behind the stop: what committed before it belongs to the recording, as far as it comes within a bounded time.
        let mut end: Option<(Lsn, Instant)> = None;
        while end.is_none_or(|(end, limit)| {
            Instant::now() < limit && (stream.position() < end || !recorder.waiting.is_empty())
        }) {
            tokio::select! {
                () = &mut stop, if end.is_none() => end = Some((stream.end().await?, Instant::now() + DRAIN_MAX)),
                () = sleep(VISIBLE_INTERVAL), if !recorder.waiting.is_empty() => {}
                more = stream.wait() => more?,
            }
            stream.turn().await?;
            while let Some(frame) = stream.frame()? {
                recorder.frame(&frame).await?;
            }
            recorder.lookups().await?;
            if recorder.waiting.is_empty() {
                (self.news)(Milestone::Settled(stream.position()));
            }
        }
        stream.close().await?;
        recorder.finish()
    }
}

/// Everything but the connection.
struct Recorder<'a, W: Write, C: Control> {
    config: &'a Config,
    writer: RecordingWriter<W>,
    control: C,
    tap: FrameTap<'a>,
    /// Questions of transactions that are not yet visible, in commit order.
    waiting: VecDeque<(Xid, Vec<Question>)>,
    recorded: Recorded,
}

impl<'a, W: Write, C: Control> Recorder<'a, W, C> {
    fn new(config: &'a Config, control: C, writer: RecordingWriter<W>) -> Self {
        let limits = &config.limits;
        Recorder {
            config,
            writer,
            control,
            tap: FrameTap::new(&config.rules, limits.memory_bytes()),
            waiting: VecDeque::new(),
            recorded: Recorded::default(),
        }
    }

    /// The frame is written before it is understood: what cannot be decoded is what one wants to have recorded.
    async fn frame(&mut self, frame: &[u8]) -> Result<()> {
        self.writer.frame(frame)?;
        self.recorded.frames += 1;
        let Frame::XLogData { payload, .. } = Frame::parse(frame)? else { return Ok(()) };
        for Tapped { tables, transaction } in self.tap.payload(payload, &self.control).await? {
            if let Some((oid, named)) = tables {
                let mut named = named.unwrap_or_default().into_iter();
                let root = PartitionRoot { oid: oid.0, root: named.next(), inherits: named.collect() };
                self.writer.partition_root(&root)?;
            }
            if let Some(transaction) = transaction.filter(|transaction| !transaction.load.lookups.is_empty()) {
                let questions = self.config.rules.questions(&transaction.load.lookups);
                self.waiting.push_back((transaction.xid, questions));
            }
        }
        Ok(())
    }

    /// Asks and writes what visible transactions want to know, in commit order.
    async fn lookups(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let snapshot = self.control.snapshot().await?;
        while self.waiting.front().is_some_and(|(xid, _)| snapshot.contains(*xid)) {
            let (_, questions) = self.waiting.pop_front().unwrap_or((Xid(0), Vec::new()));
            let answers = self.control.ask(&questions).await?;
            for (question, answer) in questions.into_iter().zip(answers) {
                self.answered(question, answer)?;
            }
        }
        Ok(())
    }

    fn answered(&mut self, question: Question, answer: Answer) -> Result<()> {
        let lookup = self.config.rules.lookups().get(question.lookup.0 as usize);
        let sql = lookup.map(|lookup| lookup.sql.clone()).unwrap_or_default();
        let rows = match answer {
            Answer::Rows(rows) => Ok(rows),
            Answer::Refused(why) | Answer::Late(why) => Err(why),
        };
        self.recorded.lookups += 1;
        self.writer.lookup(&LookupAnswer { sql, args: question.args, rows })
    }

    fn finish(mut self) -> Result<Recorded> {
        self.recorded.unanswered = self.waiting.iter().map(|(_, questions)| questions.len() as u64).sum();
        self.writer.finish()?;
        Ok(self.recorded)
    }
}
