//! The sinks: whether each is there and lets crieur purge. Nothing is purged: what is sent names no tag. Pure but for that.

use crate::cache::sink::SinkCache;
use crate::cli::finding::Finding;
use crate::config::{Config, SinkConfig};
use crate::error::Result;

/// What each sink answers to a request without tags.
pub async fn findings(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for sink in &config.sinks {
        let tried = async { SinkCache::new(sink)?.try_without_tags().await };
        findings.push(finding(sink, tried.await));
    }
    findings
}

fn finding(sink: &SinkConfig, tried: Result<()>) -> Finding {
    let subject = format!("sink {}", sink.name);
    match tried {
        Ok(()) => {
            let after = if sink.after.is_empty() { "no cache".to_owned() } else { sink.after.join(", ") };
            let kind = sink.kind.word();
            Finding::ready(subject, format!("{kind} answers, and lets crieur purge; its tags go behind {after}"))
        }
        Err(error) => Finding::wrong(subject, error.chain()).mend_all(error.hint),
    }
}
