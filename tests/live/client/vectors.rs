//! `clients/vectors.json`: what both clients put at which key, byte for byte.

use std::time::Duration;

use crieur_cache::{From, Locks, Options, Protocol, Redis};
use serde_json::Value;

use super::Bench;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../clients/vectors.json")).expect("the file is JSON")
}

fn list<'v>(vectors: &'v Value, name: &str) -> &'v Vec<Value> {
    vectors[name].as_array().filter(|list| !list.is_empty()).unwrap_or_else(|| panic!("there are no {name}"))
}

fn text<'v>(vector: &'v Value, name: &str) -> &'v str {
    vector[name].as_str().unwrap_or_else(|| panic!("{vector} has no {name}"))
}

fn bytes(vector: &Value, name: &str) -> Vec<u8> {
    let hex = text(vector, name);
    let digits = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"));
    digits.collect()
}

const PLACES: [(Protocol, &str); 3] =
    [(Protocol::Key, "in_key"), (Protocol::Companion, "beside"), (Protocol::Plain, "beside")];

/// Two numbers are equal as JavaScript sees them.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right).all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left.iter().all(|(key, value)| right.get(key).is_some_and(|other| same(value, other)))
        }
        (left, right) => left == right,
    }
}

#[tokio::test]
async fn values_are_written_and_read_as_the_vectors_say() {
    let (bench, vectors) = (Bench::start(), vectors());
    for (protocol, place) in PLACES {
        let cache = bench.at(bench.server.port()).protocol(protocol).build().expect("it is valid");
        for vector in list(&vectors, "values") {
            let (name, value) = (text(vector, "name"), &vector["value"]);
            let made = cache.read("k", Options::new(), async || Ok::<_, ()>(value.clone())).await.expect("a row");
            assert!(made.from == From::Miss && same(&made.value, value), "{name}: {made:?}");
            let held = bench.held("n:k").unwrap_or_default();
            assert_eq!(String::from_utf8_lossy(&held), String::from_utf8_lossy(&bytes(vector, place)), "{name}");
            bench.unlink("n:k");
        }
        for vector in list(&vectors, "values").iter().chain(list(&vectors, "read")) {
            let () = redis::cmd("SET")
                .arg("n:k")
                .arg(bytes(vector, place))
                .query(&mut bench.server.connection())
                .expect("it is writable");
            let found = cache.read("k", Options::new(), async || Err::<Value, _>("a fetch")).await.expect("a hit");
            assert!(found.from == From::Hit && same(&found.value, &vector["value"]), "{vector}: {found:?}");
        }
        bench.unlink("n:k");
    }
}

#[tokio::test]
async fn what_is_no_value_is_passed_by_without_an_error_and_without_a_wait() {
    let (bench, vectors) = (Bench::start(), vectors());
    let cache = bench.at(bench.server.port()).wait(Duration::from_secs(600)).build().expect("it is valid");
    for vector in list(&vectors, "foreign") {
        let held = bytes(vector, "in_key");
        let () = redis::cmd("SET").arg("n:k").arg(&held).query(&mut bench.server.connection()).expect("it is writable");
        let row = cache.read("k", Options::new(), async || Ok::<_, ()>(7)).await.expect("the row");
        assert!(row.from == From::Bypass && row.value == 7, "{vector}: {row:?}");
        assert_eq!(bench.held("n:k"), Some(held), "{vector}: nothing is stored over it");
    }
    let () = bench.server.ask(&["DEL", "n:k"]);
    let _: u64 = bench.server.ask(&["LPUSH", "n:k", "x"]);
    let row = cache.read("k", Options::new(), async || Ok::<_, ()>(7)).await.expect("the row");
    assert_eq!((row.from, cache.stats().errors), (From::Bypass, 1), "a list stands there");
}

#[tokio::test]
async fn keys_leases_copies_and_locks_are_named_as_the_vectors_say() {
    let (bench, vectors) = (Bench::start(), vectors());
    let at = format!("redis://127.0.0.1:{}", bench.server.port());
    let exists = |key: &[u8]| {
        let answer: redis::RedisResult<bool> = redis::cmd("EXISTS").arg(key).query(&mut bench.server.connection());
        answer.expect("it answers")
    };
    for vector in list(&vectors, "keys") {
        let store = Redis::open(&at).expect("a valid address");
        let cache = crieur_cache::Cache::builder(store).protocol(Protocol::Companion).build().expect("it is valid");
        let options = || {
            let options = Options::new().grace(Duration::from_secs(60));
            vector["namespace"].as_str().into_iter().fold(options, |options, space| options.namespace(space))
        };
        let key = text(vector, "key");
        let seen = async || Ok::<_, ()>(exists(&bytes(vector, "lease")));
        let made = cache.read(key, options(), seen).await.expect("a row");
        assert!(made.value, "{vector}: no lease while the row is read");
        let (stored, grace) = (bytes(vector, "stored"), bytes(vector, "grace"));
        assert!(exists(&stored) && exists(&grace) && !exists(&bytes(vector, "lease")), "{vector}");
        let () = bench.server.ask(&["FLUSHALL"]);
    }
    for vector in list(&vectors, "grace") {
        let () = redis::cmd("SET")
            .arg("grace:{k}")
            .arg(bytes(vector, "bytes"))
            .query(&mut bench.server.connection())
            .expect("it is writable");
        let cache =
            crieur_cache::Cache::builder(Redis::open(&at).expect("a valid address")).build().expect("it is valid");
        let options = Options::new().grace(Duration::from_secs(60));
        let found = cache.read("k", options, async || Err::<Value, _>("the source is away")).await.expect("the copy");
        assert_eq!(found.value.to_string(), text(vector, "text"));
        assert!(matches!(found.from, From::Grace(_)), "{found:?}");
    }
    for vector in list(&vectors, "lock") {
        let locks = Locks::new(Redis::open(&at).expect("a valid address"));
        let lock = locks.acquire(text(vector, "name"), Default::default()).await.expect("it is free");
        let token: redis::RedisResult<String> =
            redis::cmd("GET").arg(bytes(vector, "key")).query(&mut bench.server.connection());
        assert_eq!(token.as_deref(), Ok(lock.token()), "{vector}");
    }
}
