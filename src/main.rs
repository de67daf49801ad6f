//! argv -> config -> runtime -> run -> exit code.

fn main() {}
