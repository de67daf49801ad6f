//! `crieur ttl`: lifetimes of real keys against `[ttl]`, on a server, a cluster and a service that bills.

use super::daemon::run_with;
use super::harness::cluster::{Cluster, PRIMARIES};
use super::harness::redis::{Redis, Server};
use super::harness::upstash::{TOKEN, Upstash};
use super::scene::RULES;

fn config(cache: &str, ttl: &str) -> String {
    format!("[postgres]\nurl = \"postgres://nobody@127.0.0.1:1/none\"\n{cache}\n{ttl}\n{RULES}")
}

fn ttl(config: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let out = run_with(&[&["ttl"], arguments].concat(), config);
    let [said, complained] = [out.stdout, out.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (out.status.code(), said, complained)
}

/// The list of Dousell Immo.
const TTL: &str = "[ttl]\n\"properties:all_properties_public\" = \"5m\"\n\"properties:detail:{id}\" = \"1h\"\n\
                   \"dashboard:*\" = \"30m\"\n\"available_slots:*\" = \"2m\"\n";

#[test]
fn a_key_that_lives_longer_than_its_line_or_for_ever_is_wrong_and_named() {
    let cache = Redis::start(&Server::System, &[]);
    let section = format!("[cache]\nurl = \"{}\"", cache.url());
    let set = |key: &str, seconds: u32| cache.ask::<()>(&["SET", key, "value", "EX", &seconds.to_string()]);
    (1..=1_500).for_each(|id| set(&format!("properties:detail:{id}"), 3_500));
    set("properties:all_properties_public", 299);
    set("available_slots:1", 60);
    cache.ask::<()>(&["SET", "lock:1", "held"]);
    cache.ask::<()>(&["SET", "session:1", "of somebody"]);
    let (code, said, complained) = ttl(&config(&section, TTL), &[]);
    assert_eq!((code, complained.as_str()), (Some(0), ""), "{said}");
    assert!(said.contains("properties:detail:*: 1500, the longest lives 58m"), "{said}");
    assert!(!said.contains("lock:") && !said.contains("session:"), "what nobody owns is nobody's business: {said}");
    set("available_slots:2", 3_600);
    cache.ask::<()>(&["SET", "visits:7", "for ever"]);
    let (code, said, _) = ttl(&config(&section, TTL), &[]);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "1 of 2 live longer than 2m",
        "\"available_slots:2\"",
        "keys visits:*: 1 of 1 have no TTL",
        "\"visits:7\"",
        "mend: ",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    let (code, said, complained) = ttl(&config(&section, TTL), &["--json"]);
    assert_eq!((code, complained.as_str()), (Some(1), ""), "{said}");
    let told: serde_json::Value = serde_json::from_str(&said).expect("one object");
    let families = told["caches"][0]["families"].as_array().expect("a list");
    let slots = families.iter().find(|family| family["pattern"] == "available_slots:*").expect("it has a line");
    assert_eq!((&slots["most_s"], &slots["keys"], &slots["over"]), (&120.into(), &2.into(), &1.into()), "{said}");
    let (code, _, complained) = ttl(&config(&section, ""), &[]);
    assert!(code == Some(1) && complained.contains("the configuration has no [ttl]"), "{code:?} {complained}");
}

#[test]
fn where_commands_are_billed_the_price_is_said_first_and_a_user_without_the_right_is_told() {
    let cache = Redis::start(&Server::System, &[]);
    (1..=700).for_each(|id| cache.ask::<()>(&["SET", &format!("visits:{id}"), "value", "EX", "60"]));
    let metered = config(&format!("[cache]\nurl = \"{}\"\nmetered = \"yes\"", cache.url()), TTL);
    let (code, said, complained) = ttl(&metered, &[]);
    assert_eq!((code, said.as_str()), (Some(64), ""));
    assert!(complained.contains("costs up to 702 commands") && complained.contains("hint: Add --yes"), "{complained}");
    let (code, said, complained) = ttl(&metered, &["--yes"]);
    assert_eq!(code, Some(0), "{said} {complained}");
    let words = ["ACL", "SETUSER", "poor", "on", ">right", "~*", "-@all", "+scan", "+dbsize", "+info", "+ping"];
    cache.ask::<()>(&words);
    let url = format!("redis://poor:right@127.0.0.1:{}", cache.port());
    let (code, _, complained) = ttl(&config(&format!("[cache]\nurl = \"{url}\""), TTL), &[]);
    assert!(code != Some(0) && complained.to_lowercase().contains("pttl"), "{code:?} {complained}");
}

/// Each primary is asked for its own keys.
#[test]
fn a_key_of_any_shard_of_a_cluster_is_seen_once() {
    let cluster = Cluster::start(Server::Valkey9, &[]);
    let all: Vec<usize> = (0..PRIMARIES).collect();
    let set = |key: &str, seconds: &str| {
        let owner = cluster.owner(key, &all).expect("a primary has each slot");
        cluster.at::<()>(owner, &["SET", key, "value", "EX", seconds]).expect("it is there");
    };
    (1..=60).for_each(|id| set(&format!("properties:detail:{id}"), "3000"));
    let owners = (1..=60).filter_map(|id| cluster.owner(&format!("properties:detail:{id}"), &all));
    assert_eq!(owners.collect::<std::collections::BTreeSet<_>>().len(), PRIMARIES, "each shard has some");
    let section = format!("[cache]\nurl = \"{}\"", cluster.url());
    let (code, said, complained) = ttl(&config(&section, TTL), &[]);
    assert_eq!((code, complained.as_str()), (Some(0), ""), "{said}");
    assert!(
        said.contains("properties:detail:*: 60, the longest lives 49m") || said.contains("60, the longest lives 50m"),
        "{said}"
    );
    for id in 1..=3 {
        set(&format!("available_slots:{id}"), "3000");
    }
    let (code, said, _) = ttl(&config(&section, TTL), &[]);
    assert!(code == Some(1) && said.contains("keys available_slots:*: 3 of 3 live longer than 2m"), "{said}");
}

/// The price is said first, and is what the service bills at most.
#[test]
fn over_rest_a_look_costs_no_more_than_was_said() {
    let upstash = Upstash::start();
    (1..=300).for_each(|id| upstash.backend.ask::<()>(&["SET", &format!("visits:{id}"), "value", "EX", "60"]));
    upstash.backend.ask::<()>(&["SET", "available_slots:9", "value"]);
    let section = format!("[cache]\nurl = \"{}\"\ntoken = \"{TOKEN}\"\ntransport = \"rest\"", upstash.rest_url());
    let (code, said, complained) = ttl(&config(&section, TTL), &[]);
    assert_eq!((code, said.as_str()), (Some(64), ""), "{complained}");
    let price = complained.split("costs up to ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    let price = price.unwrap_or_else(|| panic!("no price in {complained}"));
    let before = upstash.billed();
    let (code, said, complained) = ttl(&config(&section, TTL), &["--yes"]);
    assert_eq!(code, Some(1), "{said} {complained}");
    assert!(said.contains("keys available_slots:*: 1 of 1 have no TTL, for example \"available_slots:9\""), "{said}");
    assert!(said.contains("visits:*: 300"), "{said}");
    // What asked for the number of keys is billed as well.
    let spent = upstash.billed() - before;
    assert!((301..=price + 1).contains(&spent), "{spent} commands, and {price} were said");
}
