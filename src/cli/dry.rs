//! `crieur run --dry-run`: what the daemon would delete, printed instead.
//!
//! It looks on beside the daemon: the configured slot is not touched, no position of it moves, and a daemon that works goes
//! on working. The cache is not connected to, so no mark is read or written. What is printed is what `crieur replay`
//! prints; keys hold row values.

use std::io::Write;
use std::pin::pin;

use crate::cli::beside::{Beside, Onlooker};
use crate::cli::origin::Origin;
use crate::config::Config;
use crate::control::Control;
use crate::decode::Frame;
use crate::error::Exit;
use crate::observe::{Id, log};
use crate::source::recording::Header;
use crate::tap::{FrameTap, Settled};

/// Prints until `stop`, or until the connection ends.
pub async fn run(config: &Config, stop: impl Future<Output = ()>, out: &mut impl Write) -> anyhow::Result<Exit> {
    let mut stop = pin!(stop);
    Origin::of(config)?.beside("dry", stop.as_mut(), Printer { config, out }).await?;
    Ok(Exit::Ok)
}

/// Prints what goes.
struct Printer<'a, W> {
    config: &'a Config,
    out: &'a mut W,
}

impl<W: Write> Onlooker for Printer<'_, W> {
    type Seen = ();
    type Failure = anyhow::Error;

    async fn look_on(
        self,
        mut stream: impl Beside,
        _: Header,
        control: impl Control,
        mut stop: impl Future<Output = ()> + Unpin,
    ) -> anyhow::Result<()> {
        let rules = &self.config.rules;
        let mut tap = FrameTap::new(rules, self.config.limits.memory_bytes());
        let left_alone = "the configured slot and the cache are left alone";
        log!(Id::Dry, "dry run: keys are printed and nothing is deleted; {left_alone}");
        loop {
            tokio::select! {
                () = &mut stop => return Ok(stream.close().await?),
                more = stream.wait() => more?,
            }
            stream.turn().await?;
            while let Some(frame) = stream.frame()? {
                let Frame::XLogData { payload, .. } = Frame::parse(&frame)? else { continue };
                let tapped = tap.payload(payload, &control).await?;
                for transaction in tapped.into_iter().filter_map(|tapped| tapped.transaction) {
                    let settled = Settled::ask(transaction, rules, &control).await?;
                    write!(self.out, "{settled}").and_then(|()| self.out.flush())?;
                }
            }
        }
    }
}
