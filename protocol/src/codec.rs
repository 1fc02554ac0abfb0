//! Bytes on the wire and on disk: one version byte, then CBOR (RFC 8949).
//!
//! Always true: decoding any bytes whatever returns, without panic, unbounded recursion or unbounded memory; the
//! encoding of a value is a function of the value alone, so it can be hashed and signed.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The version byte of everything written by this program.
pub const ENCODING_VERSION: u8 = 1;
/// Nesting deeper than any type of ours.
const RECURSION_MAX: usize = 32;

/// Why bytes are refused.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the caller accepts.
    #[error("{len} bytes are more than the {max} allowed")]
    TooLong {
        /// Bytes given.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Another version, or nothing at all.
    #[error("encoding version {0:?} is unknown; this program reads version {ENCODING_VERSION}")]
    Version(Option<u8>),
    /// Not the CBOR of this type.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Something follows the value.
    #[error("{0} bytes follow the value")]
    Trailing(usize),
}

/// The bytes of a value.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![ENCODING_VERSION];
    ciborium::into_writer(value, &mut bytes).expect("a Vec takes every write and our types have no failing serializer");
    bytes
}

/// The value of some bytes, of which there may be at most `max`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong { len: bytes.len(), max });
    }
    let Some((&ENCODING_VERSION, mut rest)) = bytes.split_first() else {
        return Err(DecodeError::Version(bytes.first().copied()));
    };
    let value = ciborium::de::from_reader_with_recursion_limit(&mut rest, RECURSION_MAX)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}
