//! The cache over RESP: one pipeline of UNLINKs, every reply checked.
