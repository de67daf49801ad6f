//! The commands: argv in, exit code out. Edges only; what a command decides lives in pure modules.

pub mod explain;
