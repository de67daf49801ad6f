//! A webhook: its body, its name, and its signature after Standard Webhooks. Pure.
//!
//! A message that had no answer goes again under the name that it had, so that whoever took it already can tell. What is
//! signed is the very bytes that are sent, each time with the time of sending.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::header::{HeaderMap, HeaderValue};
use serde::Serialize;
use sha2::Sha256;

use super::time::rfc3339;
use crate::config::SigningKey;

/// What a message is about, for whoever takes several kinds.
const TYPE: &str = "crieur.tags";

/// What is sent, with its fields in the order in which Standard Webhooks shows them.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    tags: Vec<Cow<'a, str>>,
}

/// A message and its name.
#[derive(Clone, PartialEq, Eq)]
pub struct SinkMessage {
    id: String,
    tags: Vec<Vec<u8>>,
    body: Vec<u8>,
}

impl std::fmt::Debug for SinkMessage {
    /// Without the tags, which hold row values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SinkMessage({})", self.id)
    }
}

impl SinkMessage {
    /// A message of these tags; `id` is a text that no other message has. Seconds since 1970.
    pub(super) fn new(tags: &[Vec<u8>], id: &str, now: u64) -> Self {
        let texts = tags.iter().map(|tag| String::from_utf8_lossy(tag)).collect();
        let body = Body { r#type: TYPE, timestamp: rfc3339(now), data: Data { tags: texts } };
        let body = serde_json::to_vec(&body).expect("a body is plain data");
        SinkMessage { id: format!("msg_{id}"), tags: tags.to_vec(), body }
    }

    /// Whether it is of these tags.
    pub(super) fn is_of(&self, tags: &[Vec<u8>]) -> bool {
        self.tags == tags
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// What is sent with it now.
    pub(super) fn headers(&self, keys: &[SigningKey], now: u64) -> HeaderMap {
        let signatures: Vec<String> = keys.iter().map(|key| self.signature(key, now)).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", self.id.clone()),
            ("webhook-timestamp", now.to_string()),
            ("webhook-signature", signatures.join(" ")),
        ] {
            headers.insert(name, HeaderValue::try_from(value).expect("letters, digits and signs of Base64"));
        }
        headers
    }

    fn signature(&self, key: &SigningKey, now: u64) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes a key of any length");
        mac.update(format!("{}.{now}.", self.id).as_bytes());
        mac.update(&self.body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_published_example() {
        // The vector of the specification's own libraries.
        let key = SigningKey(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("Base64"));
        let body = br#"{"test": 2432232314}"#.to_vec();
        let message = SinkMessage { id: "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned(), tags: Vec::new(), body };
        assert_eq!(message.signature(&key, 1_614_265_330), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let headers = message.headers(&[key.clone(), SigningKey(b"other".to_vec())], 1_614_265_330);
        let signatures = headers["webhook-signature"].to_str().expect("text");
        assert_eq!(signatures.split(' ').filter(|one| one.starts_with("v1,")).count(), 2, "one of each key");
        assert!(headers["webhook-id"] == message.id && headers["webhook-timestamp"] == "1614265330");
    }

    #[test]
    fn the_body_says_what_it_is_when_and_which_tags() {
        let message = SinkMessage::new(&[b"city:\"D\"".to_vec(), "é".into()], "x", 1_795_910_400);
        let text = std::str::from_utf8(message.body()).expect("text");
        assert_eq!(
            text,
            r#"{"type":"crieur.tags","timestamp":"2026-11-29T00:00:00Z","data":{"tags":["city:\"D\"","é"]}}"#
        );
        assert_eq!(format!("{message:?}"), "SinkMessage(msg_x)");
    }
}
