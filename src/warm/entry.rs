//! A key and the address of its page as one entry of a set of keys: they are coalesced, split and bounded as keys are.
//!
//! The length of the key (UInt32), the key, the address. Only this file and whoever writes behind [`head`] know that.

/// What stands before the key.
pub fn head(key: &[u8]) -> [u8; 4] {
    (key.len() as u32).to_be_bytes()
}

/// The key and the address; `None` only for bytes that are no entry.
pub fn parts(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = entry.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

/// The key of an entry.
pub fn key_of(entry: &[u8]) -> &[u8] {
    parts(entry).map_or(&[], |(key, _)| key)
}
