//! What is sent to whom: path, headers and body of a purge, by the contract of each kind. Pure.
//!
//! Vercel: `POST /v1/edge-cache/dangerously-delete-by-tags` or `invalidate-by-tags`, a bearer token, `{"tags": […]}`.
//! Cloudflare: `POST /client/v4/zones/ZONE/purge_cache`, a bearer token, `{"tags": […]}`. Fastly:
//! `POST /service/SERVICE/purge`, the token in `fastly-key`, `{"surrogate_keys": […]}`. A webhook: `message.rs`.

use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use serde_json::json;

use crate::config::SinkConfig;
use crate::error::{Error, Exit, Result};
use crate::tag::SinkKind;

/// What every API of Cloudflare begins with; an address may hold it.
const CLOUDFLARE: &str = "/client/v4";

/// The path of every request, with its parameters. `base` is that of the address.
pub(super) fn path(config: &SinkConfig, base: &str) -> String {
    let (plain, owner) = (base.split('?').next().unwrap_or_default().trim_end_matches('/'), percent(&config.owner));
    match config.kind {
        SinkKind::Webhook => base.to_owned(),
        SinkKind::Vercel => {
            let how = if config.soft { "invalidate-by-tags" } else { "dangerously-delete-by-tags" };
            let team = config.team.as_ref().map_or_else(String::new, |team| format!("&teamId={}", percent(team)));
            format!("{plain}/v1/edge-cache/{how}?projectIdOrName={owner}{team}")
        }
        SinkKind::Cloudflare => {
            let plain = plain.strip_suffix(CLOUDFLARE).unwrap_or(plain);
            format!("{plain}{CLOUDFLARE}/zones/{owner}/purge_cache")
        }
        SinkKind::Fastly => format!("{plain}/service/{owner}/purge"),
    }
}

/// The headers of every request.
pub(super) fn headers(config: &SinkConfig) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("crieur/", env!("CARGO_PKG_VERSION"))));
    if let Some(token) = &config.token {
        let (name, before) = match config.kind {
            SinkKind::Fastly => (HeaderName::from_static("fastly-key"), ""),
            SinkKind::Webhook | SinkKind::Vercel | SinkKind::Cloudflare => (AUTHORIZATION, "Bearer "),
        };
        let unfit = |_| {
            let message = format!("{}.token holds characters that no token has", config.section);
            Error::definite(Exit::Config, message)
                .hint("Copy it as the service shows it, without quotes or line breaks.")
        };
        let mut value = HeaderValue::try_from(format!("{before}{}", token.expose().trim())).map_err(unfit)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    if config.soft && config.kind == SinkKind::Fastly {
        headers.insert(HeaderName::from_static("fastly-soft-purge"), HeaderValue::from_static("1"));
    }
    Ok(headers)
}

/// The body of a purge at a service.
pub(super) fn body(kind: SinkKind, tags: &[Vec<u8>]) -> Vec<u8> {
    let texts: Vec<_> = tags.iter().map(|tag| String::from_utf8_lossy(tag)).collect();
    let body = match kind {
        SinkKind::Fastly => json!({ "surrogate_keys": texts }),
        SinkKind::Webhook | SinkKind::Vercel | SinkKind::Cloudflare => json!({ "tags": texts }),
    };
    body.to_string().into_bytes()
}

/// Every byte but letters, digits, `-` and `_`, as a URL writes it.
fn percent(text: &str) -> String {
    let written = |byte: u8| match byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(written).collect()
}
