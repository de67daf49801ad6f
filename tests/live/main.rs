//! Tests against real servers; `tests/setup.sh` installs them.

mod harness;
mod record;
mod servers;
