//! Key templates: literals, columns, lookups.
