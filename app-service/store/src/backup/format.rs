//! Blocks of a backup as bytes. Pure; the module above has the layout.

use bytes::{BufMut as _, Bytes};
use xxhash_rust::xxh3::Xxh3Default;

use crate::Epoch;
use crate::limits::{KEY_LEN_MAX, SCAN_BYTES_MAX, SCAN_LIMIT_MAX, VALUE_LEN_MAX};

/// The format that is written, and the newest that is read. One line per bump:
/// 1: the first.
pub(super) const FORMAT: u32 = 1;

/// First in every file. No text, and no newline that a transfer could turn into another.
pub(super) const MAGIC: [u8; 16] = *b"\x89whimbrel-backup";

pub(super) const KIND_LEN: usize = 1;
pub(super) const CHECK_LEN: usize = 16;
/// Before the payload of a block.
pub(super) const BLOCK_HEAD_LEN: usize = KIND_LEN + 4;
/// Before the key and value of an entry.
pub(super) const ENTRY_HEAD_LEN: usize = 2 + 4;

/// The longest payload: a page of a scan, which ends behind [`SCAN_BYTES_MAX`], with the head of each of its entries.
pub(super) const PAYLOAD_LEN_MAX: usize =
    SCAN_BYTES_MAX + KEY_LEN_MAX + VALUE_LEN_MAX + SCAN_LIMIT_MAX * ENTRY_HEAD_LEN;

/// Longest name of a cluster.
pub(super) const CLUSTER_LEN_MAX: usize = 1024;
const HEADER_FIXED_LEN: usize = 4 + 16 + 16 + 8 + 8;

/// What a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    Data,
    End,
    Failed,
}

impl Kind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Header => b'h',
            Self::Data => b'd',
            Self::End => b'e',
            Self::Failed => b'f',
        }
    }

    pub(super) const fn of(byte: u8) -> Option<Self> {
        match byte {
            b'h' => Some(Self::Header),
            b'd' => Some(Self::Data),
            b'e' => Some(Self::End),
            b'f' => Some(Self::Failed),
            _ => None,
        }
    }
}

/// What a backup says of itself before anything else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The schema of keys and values, counted by whoever writes them.
    pub schema: u32,
    /// Sixteen random bytes that tell one backup from another.
    pub id: [u8; 16],
    /// The epoch of the store it was taken of. For people: a restored store has another.
    pub epoch: Epoch,
    /// The version of the snapshot, in the order of that store.
    pub version: u64,
    /// When it was taken, by the clock of whoever took it: milliseconds since 1970.
    pub taken_ms: u64,
    /// The name of the cluster whose store it was. Cut to 1,024 bytes.
    pub cluster: String,
}

impl Header {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_FIXED_LEN + self.cluster.len());
        bytes.put_u32(self.schema);
        bytes.put_slice(&self.id);
        bytes.put_slice(&self.epoch.0);
        bytes.put_u64(self.version);
        bytes.put_u64(self.taken_ms);
        let end = self.cluster.floor_char_boundary(CLUSTER_LEN_MAX);
        bytes.put_slice(self.cluster.get(..end).unwrap_or_default().as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (schema, rest) = bytes.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (version, rest) = rest.split_first_chunk()?;
        let (taken_ms, rest) = rest.split_first_chunk()?;
        Some(Self {
            schema: u32::from_be_bytes(*schema),
            id: *id,
            epoch: Epoch(*epoch),
            version: u64::from_be_bytes(*version),
            taken_ms: u64::from_be_bytes(*taken_ms),
            cluster: std::str::from_utf8(rest).ok()?.to_owned(),
        })
    }
}

/// How much a backup, or a store, holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Keys with their values.
    pub entries: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// XXH3-128 of all entries in order, however they are divided into blocks.
    pub digest: u128,
}

impl Totals {
    const LEN: usize = 8 + 8 + 16;

    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.put_u64(self.entries);
        bytes.put_u64(self.bytes);
        bytes.put_u128(self.digest);
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (entries, rest) = bytes.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        Some(Self {
            entries: u64::from_be_bytes(*entries),
            bytes: u64::from_be_bytes(*length),
            digest: u128::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

/// Counts entries as they pass.
#[derive(Default)]
pub(super) struct Count {
    entries: u64,
    bytes: u64,
    digest: Xxh3Default,
}

impl std::fmt::Debug for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.totals().fmt(f)
    }
}

impl Count {
    pub(super) fn take(&mut self, key: &[u8], value: &[u8]) {
        self.entries += 1;
        self.bytes += (key.len() + value.len()) as u64;
        self.digest.update(&entry_head(key, value));
        self.digest.update(key);
        self.digest.update(value);
    }

    pub(super) fn totals(&self) -> Totals {
        Totals {
            entries: self.entries,
            bytes: self.bytes,
            digest: self.digest.digest128(),
        }
    }
}

fn entry_head(key: &[u8], value: &[u8]) -> [u8; ENTRY_HEAD_LEN] {
    let key = u16::try_from(key.len()).expect("a stored key has at most 4 KiB");
    let value = u32::try_from(value.len()).expect("a stored value has at most 64 KiB");
    let ([k0, k1], [v0, v1, v2, v3]) = (key.to_be_bytes(), value.to_be_bytes());
    [k0, k1, v0, v1, v2, v3]
}

/// Entries as the payload of a data block.
pub(super) fn encode_entries(entries: &[(Bytes, Bytes)]) -> Vec<u8> {
    let len = |(key, value): &(Bytes, Bytes)| ENTRY_HEAD_LEN + key.len() + value.len();
    let mut payload = Vec::with_capacity(entries.iter().map(len).sum());
    for (key, value) in entries {
        payload.put_slice(&entry_head(key, value));
        payload.put_slice(key);
        payload.put_slice(value);
    }
    payload
}

/// The first entry of a payload, and the rest of it. `None` when it holds none.
pub(super) fn split_entry(payload: &mut Bytes) -> Option<(Bytes, Bytes)> {
    let (key_len, rest) = payload.split_first_chunk()?;
    let (value_len, rest) = rest.split_first_chunk()?;
    let key_len = usize::from(u16::from_be_bytes(*key_len));
    let value_len = usize::try_from(u32::from_be_bytes(*value_len)).ok()?;
    if rest.len() < key_len.checked_add(value_len)? {
        return None;
    }
    let _head = payload.split_to(ENTRY_HEAD_LEN);
    let key = payload.split_to(key_len);
    Some((key, payload.split_to(value_len)))
}

/// The checksum that stands behind each block, over it and all before it.
#[derive(Debug, Default)]
pub(super) struct Chain {
    last: u128,
}

impl Chain {
    /// The check of the next block.
    pub(super) fn next(&mut self, head: &[u8], payload: &[u8]) -> u128 {
        let mut hash = Xxh3Default::new();
        hash.update(&self.last.to_be_bytes());
        hash.update(head);
        hash.update(payload);
        self.last = hash.digest128();
        self.last
    }
}

/// Makes the bytes of a file, block by block.
#[derive(Debug, Default)]
pub(super) struct Writer {
    chain: Chain,
    count: Count,
}

impl Writer {
    /// What a file begins with.
    pub(super) fn begin(&mut self, header: &Header) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u32(FORMAT);
        bytes.extend(self.block(Kind::Header, &header.encode()));
        bytes
    }

    pub(super) fn entries(&mut self, entries: &[(Bytes, Bytes)]) -> Vec<u8> {
        for (key, value) in entries {
            self.count.take(key, value);
        }
        self.block(Kind::Data, &encode_entries(entries))
    }

    /// What a whole file ends with.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let totals = self.totals().encode();
        self.block(Kind::End, &totals)
    }

    /// What a file ends with that will never be whole.
    pub(super) fn failed(&mut self, why: &str) -> Vec<u8> {
        self.block(Kind::Failed, why.as_bytes())
    }

    pub(super) fn totals(&self) -> Totals {
        self.count.totals()
    }

    fn block(&mut self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let len = u32::try_from(payload.len()).expect("a payload is a page of a scan");
        let mut bytes = Vec::with_capacity(BLOCK_HEAD_LEN + payload.len() + CHECK_LEN);
        bytes.put_u8(kind.byte());
        bytes.put_u32(len);
        let check = self.chain.next(&bytes, payload);
        bytes.put_slice(payload);
        bytes.put_u128(check);
        bytes
    }
}
