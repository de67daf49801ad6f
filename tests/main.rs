//! Tests that need nothing but the toolchain.

mod systemd;
