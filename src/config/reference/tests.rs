//! That each default is a value, and values out of bounds are refused.

use super::*;

#[test]
fn every_default_is_a_value_of_its_key() {
    for key in KEYS {
        let Some(default) = key.default else { continue };
        assert!(key.kind.check(&Value::new(None, default)).is_ok(), "{}", key.name);
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let refused = [
        ("postgres.slot", "Crieur"),
        ("postgres.slot", ""),
        ("postgres.liveness_timeout", "10ms"),
        ("cache.echo", "2s,1s"),
        ("cache.echo", "0s"),
        ("cache.on_gap", "ignore"),
        ("limits.batch_keys_max", "0"),
        ("limits.memory_bytes_max", "1KiB"),
        ("cache.protect", "a,,b"),
        ("cache.invalidate", "*"),
        ("cache.invalidate", "a:*:b"),
        ("cache.invalidate", "a[b]:*"),
        ("cache.url", ""),
        ("cache.required", "maybe"),
        ("cache.budget", "0"),
        ("cache.budget", "200K/month"),
        ("cache.budget", "-1"),
        ("cache.hold_wal_bytes_max", "1TB"),
        ("cache.transport", "http"),
        ("cache.token", ""),
        ("cache.leases", "yes"),
        ("cache.nodes", "172.17.0.2:6379"),
        ("cache.nodes", "172.17.0.2:x=h"),
        ("admin.listen", "localhost:9186"),
        ("admin.listen", "9186"),
    ];
    for (name, value) in refused {
        let key = KEYS.iter().find(|key| key.name == name).expect("a key of the table");
        assert!(key.kind.check(&Value::new(None, value)).is_err(), "{name} = {value}");
    }
    for (written, commands) in
        [("200k", Some(200_000)), ("1.5M", Some(1_500_000)), ("12_000", Some(12_000)), ("none", None)]
    {
        assert_eq!(ConfigKind::Budget.check(&Value::new(None, written)), Ok(Checked::Budget(commands)), "{written}");
    }
    let long = "a".repeat(64);
    assert!(ConfigKind::Slot.check(&Value::new(None, long.as_str())).is_err());
    assert_eq!(ConfigKind::Ascending.check(&Value::new(None, "")), Ok(Checked::Durations(Vec::new())));
}
