//! Patterns: one SCAN pass for all of them.
