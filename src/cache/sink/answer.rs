//! What an answer of a sink means. Pure. Nothing of a body is repeated: it may quote tags.

use hyper::StatusCode;
use hyper::header::{HeaderMap, RETRY_AFTER};

use super::time::retry_after;
use crate::error::{Class, Error};
use crate::tag::SinkKind;

/// A service that asks for a longer pause is asked again sooner: what it says may be a mistake.
const PAUSE_SECONDS_MAX: u64 = 3_600;
/// The pause that a service wants that says "too many" and no time.
const PAUSE_SECONDS: u64 = 30;

/// What follows from an answer.
#[derive(Debug)]
pub(super) enum SinkVerdict {
    /// The tags are purged, as far as the service says.
    Done,
    /// The same request may be taken later; behind a pause of so many seconds, where the service wants one.
    Later(Error, Option<u64>),
    /// The same request will be refused again.
    Refused(Error, SinkRefusal),
}

/// What is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SinkRefusal {
    /// These tags; others may be taken.
    Batch,
    /// Every request, because what answers at the address is none that takes tags.
    Place,
    /// Every request, and that may change from outside: whoever asks may not, or there is no such address yet.
    All,
}

const WAIT: &str = "The tags go again until the sink takes them. Look at the log of the site or the service.";
const NEVER: &str = "Look at the log of the site or the service for its cause, and mend that: the tags go again by themselves, and each \
                     start of crieur purges the coarse tags once.";
const BUSY: &str = "Write into rate of the sink what the plan allows.";
const MOVED: &str = "Write the address that answers itself into url of the sink: crieur follows no redirect, since it might lead a signed \
                     message or a token elsewhere.";

/// Reads an answer. `now` is in seconds since 1970.
pub(super) fn verdict(kind: SinkKind, status: StatusCode, headers: &HeaderMap, body: &[u8], now: u64) -> SinkVerdict {
    let code = status.as_u16();
    let said = headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?, now));
    let said = said.map(|seconds| seconds.min(PAUSE_SECONDS_MAX));
    match code {
        200..=299 if kind == SinkKind::Cloudflare && says_no(body) => SinkVerdict::Refused(
            Error::transient("the service says that it purged nothing").class(Class::TransientSlow).hint(token(kind)),
            SinkRefusal::Batch,
        ),
        200..=299 => SinkVerdict::Done,
        429 => {
            let error = Error::transient("the sink refuses so many requests (HTTP 429)").hint(BUSY);
            SinkVerdict::Later(error, Some(said.unwrap_or(PAUSE_SECONDS)))
        }
        300..=399 => {
            let message = format!("the answer leads elsewhere (HTTP {code}), and crieur does not follow");
            SinkVerdict::Later(Error::transient(message).class(Class::TransientSlow).hint(MOVED), None)
        }
        408 | 425 | 500.. => {
            SinkVerdict::Later(Error::transient(format!("the sink failed (HTTP {code})")).hint(WAIT), said)
        }
        401 | 403 | 407 => {
            let refused = Error::transient(format!("the sink refuses crieur (HTTP {code})"));
            SinkVerdict::Refused(refused.class(Class::TransientSlow).hint(token(kind)), SinkRefusal::All)
        }
        404 | 405 | 410 => {
            let refused = Error::transient(format!("nothing takes tags at the address (HTTP {code})"));
            let refusal = if code == 404 { SinkRefusal::All } else { SinkRefusal::Place };
            SinkVerdict::Refused(refused.class(Class::TransientSlow).hint(place(kind)), refusal)
        }
        _ => {
            let refused = Error::transient(format!("the sink refuses the tags (HTTP {code})"));
            SinkVerdict::Refused(refused.class(Class::TransientSlow).hint(NEVER), SinkRefusal::Batch)
        }
    }
}

/// Whether an answer of Cloudflare says that nothing was purged.
fn says_no(body: &[u8]) -> bool {
    let value = serde_json::from_slice::<serde_json::Value>(body);
    value.is_ok_and(|value| value.get("success") == Some(&serde_json::Value::Bool(false)))
}

fn token(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::Webhook => {
            "Give the site and secret of the sink the same whsec_…, and let their clocks agree to minutes; where a protection stands \
             before the site, let this address through."
        }
        SinkKind::Vercel => "Write a token into token of the sink that may purge the caches of the project.",
        SinkKind::Cloudflare => {
            "Write a token into token of the sink that has the permission Cache Purge for the zone."
        }
        SinkKind::Fastly => "Write a token into token of the sink whose scope is purge_select, for the service.",
    }
}

fn place(kind: SinkKind) -> &'static str {
    match kind {
        SinkKind::Webhook => "Correct url of the sink: it is that of the route which takes the message, with POST.",
        SinkKind::Vercel => "Correct project, and team if there is one, of the sink.",
        SinkKind::Cloudflare => "Correct zone of the sink: it is the zone's id.",
        SinkKind::Fastly => "Correct service of the sink: it is the service's id.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(kind: SinkKind, code: u16, after: Option<&str>, body: &str) -> String {
        let mut headers = HeaderMap::new();
        if let Some(after) = after {
            headers.insert(RETRY_AFTER, after.parse().expect("a value"));
        }
        let status = StatusCode::from_u16(code).expect("a status");
        let verdict = verdict(kind, status, &headers, body.as_bytes(), 0);
        assert!(!format!("{verdict:?}").contains("hunter2"), "{verdict:?}");
        match verdict {
            SinkVerdict::Done => "done".to_owned(),
            SinkVerdict::Later(error, pause) => {
                assert!(error.is_transient() && error.hint.is_some());
                let slow = if error.class == Class::TransientSlow { " slowly" } else { "" };
                format!("later{slow}{}", pause.map_or_else(String::new, |pause| format!(" {pause}")))
            }
            SinkVerdict::Refused(error, refusal) => {
                assert!(error.hint.is_some());
                format!("{refusal:?} refused")
            }
        }
    }

    #[test]
    fn each_status_has_one_meaning() {
        let no = r#"{"success":false,"errors":[{"message":"hunter2"}]}"#;
        for (kind, code, after, body, expected) in [
            (SinkKind::Webhook, 200, None, "", "done"),
            (SinkKind::Webhook, 204, None, no, "done"),
            (SinkKind::Cloudflare, 200, None, r#"{"success":true}"#, "done"),
            (SinkKind::Cloudflare, 200, None, no, "Batch refused"),
            (SinkKind::Vercel, 429, Some("7"), "hunter2", "later 7"),
            (SinkKind::Vercel, 429, Some("99999"), "hunter2", "later 3600"),
            (SinkKind::Vercel, 429, None, "hunter2", "later 30"),
            (SinkKind::Fastly, 503, Some("2"), "hunter2", "later 2"),
            (SinkKind::Fastly, 500, None, "hunter2", "later"),
            (SinkKind::Webhook, 408, None, "hunter2", "later"),
            (SinkKind::Webhook, 302, None, "hunter2", "later slowly"),
            (SinkKind::Webhook, 401, None, "hunter2", "All refused"),
            (SinkKind::Webhook, 404, None, "hunter2", "All refused"),
            (SinkKind::Webhook, 405, None, "hunter2", "Place refused"),
            (SinkKind::Webhook, 410, None, "hunter2", "Place refused"),
            (SinkKind::Webhook, 415, None, "hunter2", "Batch refused"),
            (SinkKind::Webhook, 422, None, "hunter2", "Batch refused"),
            (SinkKind::Webhook, 400, None, "hunter2", "Batch refused"),
            (SinkKind::Webhook, 413, None, "hunter2", "Batch refused"),
        ] {
            assert_eq!(seen(kind, code, after, body), expected, "{kind:?} {code}");
        }
    }
}
