//! What the cache's user must be allowed: one list, for the hint of a refusal, for `check` and for the documentation. Pure.

use super::lease;
use crate::config::Leases;

/// The commands that crieur sends. INFO says which server it is; SELECT is for a database other than 0.
pub const COMMANDS: &str = "+info +select +unlink +scan +get +set +eval";

/// What a cluster needs besides: who has which slots, and keys of a slot that is on its way.
pub const IN_CLUSTER: &str = "+cluster|nodes +cluster|info +cluster|slots +asking";

/// The line that gives `user` what these families need, for redis-cli.
pub fn grant(user: &str, families: &[Vec<u8>], leases: Leases) -> String {
    let mut line = format!("ACL SETUSER {} ~crieur:mark:*", word(user));
    let mut add = |pattern: &[u8]| {
        line.push(' ');
        line.push_str(&word(&format!("~{}", String::from_utf8_lossy(pattern))));
    };
    families.iter().for_each(|family| add(family));
    if leases == Leases::Companion {
        let mut companion = Vec::new();
        for family in families {
            lease::write(&mut companion, family);
            add(&companion);
        }
    }
    format!("{line} {COMMANDS}")
}

/// The line that gives `user` what `publish` needs besides, on a server of this version: before 6.2 there are no rights to
/// channels.
pub fn grant_to_publish(user: &str, channel: &str, redis: Option<&str>) -> String {
    let line = format!("ACL SETUSER {} +publish", word(user));
    match redis.is_some_and(|version| version.starts_with("6.0.")) {
        true => line,
        false => format!("{line} {}", word(&format!("&{channel}"))),
    }
}

/// As redis-cli takes it: in quotation marks where it would be read as anything else than one word.
fn word(text: &str) -> String {
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\\' | '\'');
    if text.chars().all(plain) { text.to_owned() } else { format!("\"{}\"", text.escape_debug()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_publishes_needs_the_command_and_where_there_are_such_rights_the_channel() {
        for (channel, redis, expected) in [
            ("crieur:keys", Some("7.0.15"), "ACL SETUSER ann +publish &crieur:keys"),
            ("crieur:keys", Some("6.2.14"), "ACL SETUSER ann +publish &crieur:keys"),
            ("two words", None, "ACL SETUSER ann +publish \"&two words\""),
            ("crieur:keys", Some("6.0.16"), "ACL SETUSER ann +publish"),
        ] {
            assert_eq!(grant_to_publish("ann", channel, redis), expected);
        }
    }

    #[test]
    fn the_line_names_the_user_and_every_family() {
        let families = [b"a:*".to_vec(), br"b c\*:*".to_vec()];
        assert_eq!(
            grant("ann", &families, Leases::None),
            format!(r#"ACL SETUSER ann ~crieur:mark:* ~a:* "~b c\\*:*" {COMMANDS}"#)
        );
        assert_eq!(
            grant("default", &families[..1], Leases::Companion),
            format!("ACL SETUSER default ~crieur:mark:* ~a:* ~lease:{{a:*}} {COMMANDS}")
        );
    }
}
