//! The companion key of a key: where readers keep the lease that lets them store a value. Pure.
//!
//! The lease of K is the key `lease:{` K `}`. The braces are a hash tag: in a cluster both keys live in one slot, as
//! long as K itself holds no brace. It goes whenever K goes, in the same command, so a reader that took it before the
//! change finds it gone and stores nothing.

/// What stands before the key.
pub const BEFORE: &[u8] = b"lease:{";
/// What stands behind it.
pub const AFTER: &[u8] = b"}";

/// The bytes that a lease has more than its key.
pub const BYTES: usize = BEFORE.len() + AFTER.len();

/// Makes `lease` the lease of `key`.
#[inline]
pub fn write(lease: &mut Vec<u8>, key: &[u8]) {
    lease.clear();
    lease.extend_from_slice(BEFORE);
    lease.extend_from_slice(key);
    lease.extend_from_slice(AFTER);
}

/// The key whose lease this is, if it is one.
#[inline]
pub fn key_of(lease: &[u8]) -> Option<&[u8]> {
    lease.strip_prefix(BEFORE)?.strip_suffix(AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_names_its_key_and_nothing_else_does() {
        for key in [&b""[..], b"user:1", b"a{b}c}", b"}", b"lease:{x}", b"\xff\r\n"] {
            let mut lease = b"old".to_vec();
            write(&mut lease, key);
            assert_eq!(lease.len(), key.len() + BYTES);
            assert_eq!(key_of(&lease), Some(key));
        }
        for other in [&b""[..], b"lease:{", b"lease:{x", b"lease:x}", b"Lease:{x}", b"x:lease:{x}", b"lease:{x} "] {
            assert_eq!(key_of(other), None, "{}", String::from_utf8_lossy(other));
        }
    }
}
