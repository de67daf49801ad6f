//! Tests against real servers; `tests/setup.sh` installs them.

mod daemon;
mod delivery;
mod harness;
mod position;
mod scene;
mod servers;
