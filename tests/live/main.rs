//! Tests against real servers; `tests/setup.sh` installs them.

mod decoder;
mod harness;
mod record;
mod servers;
