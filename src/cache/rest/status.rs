//! What an answer over HTTP means: its replies, or an error with a class and a way out. Pure.
//!
//! Nothing of a body is repeated in a message: it may quote keys. The service's error texts are known by their beginnings
//! (`cache/reply.rs`), whatever code they come with: that of a plan that is used up is not documented.

use ::redis::Value;
use hyper::StatusCode;

use super::json::{JsonAnswer, answered};
use crate::cache::http::HttpAnswer;
use crate::cache::reply;
use crate::error::{Class, Error, Result};

const TOKEN: &str = "Copy UPSTASH_REDIS_REST_TOKEN as the service shows it under REST API; the read-only token cannot delete. It changes when \
    the database's password is reset.";
const PORTAL: &str = "Something between answers in the service's place: a proxy, a filter, the log-in page of a network. Let this machine \
    reach the host directly, or correct the address.";
const ADDRESS: &str = "Correct the address: it is UPSTASH_REDIS_REST_URL, https:// and a host, without a path.";
const BUSY: &str = "The service asks for fewer requests: crieur waits a minute and more between two tries.";
const WAIT: &str = "The service cannot answer now; the keys go again until it does.";
const CUT: &str = "The keys go again. Should it last, something between changes the answers.";

/// The replies of an answer: to one command, or to `several`.
pub(super) fn replies(answer: &HttpAnswer, several: Option<usize>) -> Result<Vec<Value>> {
    let status = answer.status;
    // 400 also is the answer to one command that failed: then it says so as the command's reply would.
    let is_reply = status.is_success() || status == StatusCode::BAD_REQUEST;
    match answered(&answer.body, several) {
        JsonAnswer::Replies(replies) if is_reply => Ok(replies),
        JsonAnswer::Replies(replies) => Err(unusual(status, replies.first().and_then(said))),
        JsonAnswer::Refused(code, detail) if is_reply => Err(reply::classify("the request", &code, &detail)),
        JsonAnswer::Refused(code, detail) => Err(unusual(status, Some((code, detail)))),
        JsonAnswer::Foreign if is_reply => Err(foreign(&answer.body)),
        JsonAnswer::Foreign => Err(unusual(status, None)),
    }
}

fn said(value: &Value) -> Option<(String, String)> {
    let Value::ServerError(error) = value else { return None };
    Some((error.code().to_owned(), error.details().unwrap_or_default().to_owned()))
}

/// Whether the same would be refused again at once.
pub(super) fn is_lasting(error: &Error) -> bool {
    error.class != Class::Transient
}

/// The error of a status that no reply has.
fn unusual(status: StatusCode, said: Option<(String, String)>) -> Error {
    if let Some((code, detail)) = said
        && reply::is_quota(&code, &detail)
    {
        return reply::classify("the request", &code, &detail);
    }
    let (class, message, hint) = match status.as_u16() {
        401 => (Class::TransientSlow, "the service refuses the token (HTTP 401)".to_owned(), TOKEN),
        403 | 407 | 511 => {
            (Class::TransientSlow, format!("something refuses the request (HTTP {})", status.as_u16()), PORTAL)
        }
        429 => (Class::TransientSlow, "the service refuses so many requests (HTTP 429)".to_owned(), BUSY),
        300..=399 => (
            Class::Transient,
            format!("the answer leads elsewhere (HTTP {}), and crieur does not follow", status.as_u16()),
            PORTAL,
        ),
        404 | 405 => (Class::Transient, format!("no REST interface answers there (HTTP {})", status.as_u16()), ADDRESS),
        500.. => (Class::Transient, format!("the service failed (HTTP {})", status.as_u16()), WAIT),
        other => (Class::Transient, format!("the service answered with HTTP {other}"), WAIT),
    };
    Error::transient(message).class(class).hint(hint)
}

/// The error of an answer that is none of this interface.
fn foreign(body: &[u8]) -> Error {
    let first = body.trim_ascii_start().first();
    match first {
        Some(b'<') => Error::transient("a web page came instead of an answer").hint(PORTAL),
        Some(b'{' | b'[') => Error::transient("the answer ends too early, or has another shape").hint(CUT),
        Some(_) | None => Error::transient("what came is no answer of a REST interface").hint(PORTAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::body::Bytes;

    #[test]
    fn what_a_person_must_mend_waits_for_minutes_and_weather_does_not() {
        let quota = r#"{"error":"ERR max requests limit exceeded. Limit: 500000, Usage: 500001. See secret"}"#;
        for (status, body, slow, words) in [
            (401, r#"{"error":"WRONGPASS secret"}"#, true, "refuses the token (HTTP 401)"),
            (429, "secret", true, "HTTP 429"),
            (400, quota, true, "500000"),
            (429, quota, true, "the plan of this cache is used up"),
            (200, quota, true, "the plan of this cache is used up"),
            (503, "<html>secret", false, "HTTP 503"),
            (200, "<html>secret", false, "a web page"),
            (200, "\n <!DOCTYPE secret", false, "a web page"),
            (200, r#"[{"result":"sec"#, false, "ends too early"),
            (200, "secret", false, "no answer of a REST interface"),
            (302, "", false, "leads elsewhere"),
            (404, "", false, "no REST interface"),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let answer = HttpAnswer { status, headers: hyper::HeaderMap::new(), body: Bytes::from(body.to_owned()) };
            let error = replies(&answer, Some(1)).expect_err(words);
            assert!(error.chain().contains(words), "{status}: {}", error.chain());
            assert_eq!(error.class == Class::TransientSlow, slow, "{status} {body}");
            assert!(error.hint.is_some() && !format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn a_command_that_failed_is_a_reply() {
        let body = Bytes::from_static(br#"{"error":"ERR syntax error"}"#);
        let answer = HttpAnswer { status: StatusCode::BAD_REQUEST, headers: hyper::HeaderMap::new(), body };
        assert!(matches!(replies(&answer, None).expect("a reply")[..], [Value::ServerError(_)]));
    }
}
