//! Variable-length integers as in QUIC (RFC 9000, section 16), bounded to `u32` and minimal.
//!
//! The two top bits of the first byte give the length (1, 2, 4 or 8 bytes), the rest is the value in big-endian.
//! A value takes its shortest form and nothing else: one number has one spelling, so two parsers cannot disagree.
//! Values from 2^30 to 2^32 - 1 therefore take eight bytes.

/// The longest form, in bytes.
pub const VARINT_LEN_MAX: usize = 8;

const ONE_BYTE_MAX: u32 = 0x3f;
const TWO_BYTES_MAX: u32 = 0x3fff;
const FOUR_BYTES_MAX: u32 = 0x3fff_ffff;

/// Why bytes are not a varint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VarintError {
    /// The value does not fit 32 bits.
    #[error("varint {value} is over 4294967295: numbers on this wire are at most 32 bits")]
    TooLarge {
        /// What was sent.
        value: u64,
    },
    /// A longer form than needed.
    #[error("varint {value} was sent in {len} bytes where fewer do: send the shortest form")]
    NotMinimal {
        /// What was sent.
        value: u32,
        /// In how many bytes.
        len: usize,
    },
}

/// How many bytes `value` takes.
#[must_use]
pub const fn encoded_len(value: u32) -> usize {
    if value <= ONE_BYTE_MAX {
        1
    } else if value <= TWO_BYTES_MAX {
        2
    } else if value <= FOUR_BYTES_MAX {
        4
    } else {
        8
    }
}

/// Appends `value`.
pub fn encode(value: u32, out: &mut Vec<u8>) {
    let [_, _, high, low] = value.to_be_bytes();
    match encoded_len(value) {
        1 => out.push(low),
        2 => out.extend_from_slice(&[high | 0x40, low]),
        4 => out.extend_from_slice(&(value | 0x8000_0000).to_be_bytes()),
        _ => out.extend_from_slice(&(u64::from(value) | 0xc000_0000_0000_0000).to_be_bytes()),
    }
}

/// Reads the varint at the start of `bytes`: its value and length, or `None` when more bytes are needed.
///
/// # Errors
/// When the value is over 32 bits or not in its shortest form.
pub fn decode(bytes: &[u8]) -> Result<Option<(u32, usize)>, VarintError> {
    let Some(first) = bytes.first() else {
        return Ok(None);
    };
    let wide = match first >> 6 {
        0 => return Ok(Some((u32::from(*first), 1))),
        1 => bytes
            .first_chunk::<2>()
            .map(|b| (u64::from(u16::from_be_bytes(*b) & 0x3fff), 2)),
        2 => bytes
            .first_chunk::<4>()
            .map(|b| (u64::from(u32::from_be_bytes(*b) & FOUR_BYTES_MAX), 4)),
        _ => bytes
            .first_chunk::<8>()
            .map(|b| (u64::from_be_bytes(*b) & 0x3fff_ffff_ffff_ffff, 8)),
    };
    let Some((wide, len)) = wide else {
        return Ok(None);
    };
    let value = u32::try_from(wide).map_err(|_| VarintError::TooLarge { value: wide })?;
    if encoded_len(value) != len {
        return Err(VarintError::NotMinimal { value, len });
    }
    Ok(Some((value, len)))
}
