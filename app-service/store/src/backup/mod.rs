//! A copy of a whole store in one file, and a store made from such a file again. Works over every backend, from any to any.
//!
//! ```text
//! Saving: Store::long_snapshot -> pages of the ranges, in order -> blocks of bytes -> wherever the caller writes them
//! Reader: bytes -> blocks whose checksums hold -> entries in order -> restore(): batches into an empty store, read back
//! ```
//!
//! A file is one moment of the store: everything that was committed before the snapshot was taken and nothing else. It carries
//! keys and values as they are, so it is as secret as the store. A restored store has the epoch it was made with, never that of
//! the file: whoever has synced with the old one is told to do so anew.
//!
//! # The file, format 1
//! Numbers are big-endian.
//!
//! ```text
//! file   = magic (16 bytes) | format u32 | block...
//! block  = kind u8 | length u32 | payload | check u128
//! kind   = 'h' header, the first | 'd' data | 'e' end, the last | 'f' the writer broke off, in the place of an end
//! header = schema u32 | id 16 | epoch 16 | version u64 | taken_ms u64 | UTF-8 name of the cluster
//! data   = (key length u16 | value length u32 | key | value)..., keys ascending over the whole file
//! end    = entries u64 | bytes u64 | digest of all entries u128
//! failed = UTF-8 text that says why
//! ```
//!
//! `check` is XXH3-128 of the check before it (zero at first), kind, length and payload: a block that is damaged, missing, out
//! of place or cut off is noticed. It guards against disks and cables, not against people: sign or encrypt a file that
//! leaves the house.
//!
//! What this is not for: copies of what changed since the last one; knowing what keys mean. Which ranges and which schema there
//! are, the caller says.

mod format;
mod reading;
mod restoring;
mod saving;
#[cfg(test)]
mod tests;

pub use format::{Header, Totals};
pub use reading::{ReadError, Reader};
pub use restoring::{Contents, RestoreError, restore};
pub use saving::{SaveError, Saving};
