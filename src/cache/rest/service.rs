//! What the service wants of every request over REST: the token, the form of answers, and the token of our last write.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};

use crate::cache::http::{Client, FarEnd, HttpAnswer, Lane, Unanswered};
use crate::cache::place::HostPort;
use crate::error::{Error, Exit, Result};
use crate::tls::Trust;

/// What an answer may weigh: a page of a scan with the longest keys there can be.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What was written last can be read behind this token.
const SYNC_TOKEN: &str = "upstash-sync-token";

/// The service, and what it said of our last write.
pub(super) struct Service {
    client: Client,
    sync: RefCell<Option<HeaderValue>>,
}

impl Service {
    pub(super) fn new(place: HostPort, trust: Option<Arc<Trust>>, token: &str, timeout: Duration) -> Result<Self> {
        let unfit = |_| {
            Error::definite(Exit::Config, "the token holds characters that no token has")
                .hint("Copy UPSTASH_REDIS_REST_TOKEN as the service shows it, without quotes, spaces or line breaks.")
        };
        let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(unfit)?;
        bearer.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, bearer);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("upstash-encoding", HeaderValue::from_static("base64"));
        let client = Client::new(place, trust, headers, timeout, (FarEnd::Cache, ANSWER_BYTES_MAX))?;
        Ok(Service { client, sync: RefCell::default() })
    }

    /// Sends one request and reads the whole answer. `writes`: reads behind it must see what it did.
    pub(super) async fn post(
        &self,
        lane: &Lane,
        path: &str,
        body: Vec<u8>,
        writes: bool,
    ) -> std::result::Result<HttpAnswer, Unanswered> {
        let mut headers = HeaderMap::new();
        if path == "/" || path == "/pipeline" || path == "/multi-exec" {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(sync) = self.sync.borrow().as_ref() {
            headers.insert(SYNC_TOKEN, sync.clone());
        }
        let answer = self.client.post(lane, path, &headers, body).await?;
        if let Some(sync) = answer.headers.get(SYNC_TOKEN).filter(|_| writes) {
            self.sync.replace(Some(sync.clone()));
        }
        Ok(answer)
    }
}
