//! The pages that are fetched again (`warm`): of which keys each address is, and how much that may be. Pure.

use crate::cli::finding::Finding;
use crate::config::Config;

/// One finding for each address.
pub fn findings(config: &Config) -> Vec<Finding> {
    let rules = &config.rules;
    let of = |address| {
        let of_it = rules.families().filter(|(family, _)| rules.page_of(*family) == Some(address));
        let mut keys: Vec<&str> = of_it.filter_map(|(family, _)| rules.origin(family)).map(|(_, key)| key).collect();
        keys.dedup();
        let seen = format!(
            "{} is fetched again behind the deletes of {}: at most {} pages a minute, two at a time",
            address.shown(),
            keys.join(", "),
            config.limits.warm_rate
        );
        Finding::ready(format!("pages of {}", address.origin()), seen)
    };
    rules.page_addresses().into_iter().map(of).collect()
}
