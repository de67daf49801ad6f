//! Upstash: the stand-in speaks as the real one does, and crieur works with it over REST and over TCP.

use super::harness::redis::{Redis, Server};
use super::harness::upstash;

#[test]
fn the_real_sdk_and_the_documented_forms_work_with_the_stand_in() {
    let backend = Redis::start(&Server::Valkey9, &[]);
    let (is_right, said) = upstash::sdk(&backend);
    assert!(is_right, "{said}");
}
