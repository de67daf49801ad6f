//! Rules as written: TOML to checked values.
