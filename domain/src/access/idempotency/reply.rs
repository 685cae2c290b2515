//! Responses that can be stored and sent again.

use std::{
    fmt,
    io::{self, Read, Write},
};

use common::crypto::{MasterKey, SealError};
use flate2::{Compression, read::DeflateDecoder, write::DeflateEncoder};
use mongodb::bson::{self, Binary, spec::BinarySubtype};
use serde::{Deserialize, Serialize};

/// Maximum length of a stored response, after compression. The only responses that come near it are
/// those to lists of a thousand lines.
const STORED_BYTES_MAX: usize = 64 * 1024;
/// Shorter responses are not worth compressing.
const PLAIN_BYTES_MAX: usize = 4 * 1024;
/// First byte of a stored response: how the rest is written.
const PLAIN: u8 = 0;
const DEFLATED: u8 = 1;

/// The status of a success; nothing else is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Success {
    Ok,
    Created,
    Accepted,
    NoContent,
}

impl Success {
    /// The HTTP status code.
    pub const fn code(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::Created => 201,
            Self::Accepted => 202,
            Self::NoContent => 204,
        }
    }
}

/// A response. Its `Debug` output does not contain the body, which may be secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    status: Success,
    headers: Vec<(String, String)>,
    body: Binary,
}

/// Why a response was not stored or read.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// The body cannot be serialized.
    #[error("the response cannot be serialized as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The response cannot be serialized or deserialized.
    #[error("the stored response does not have the expected shape: {0}")]
    Bson(#[from] bson::error::Error),
    /// The response cannot be compressed or decompressed.
    #[error("the response could not be compressed or decompressed: {0}")]
    Compression(#[from] io::Error),
    /// The response cannot be encrypted or decrypted.
    #[error(transparent)]
    Seal(#[from] SealError),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Reply {
    /// A response without headers and body.
    pub const fn new(status: Success) -> Self {
        let body = Binary { subtype: BinarySubtype::Generic, bytes: Vec::new() };
        Self { status, headers: Vec::new(), body }
    }

    /// With another header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body.
    #[must_use]
    pub fn with_body(self, bytes: Vec<u8>) -> Self {
        Self { body: Binary { subtype: BinarySubtype::Generic, bytes }, ..self }
    }

    pub const fn status(&self) -> Success {
        self.status
    }

    /// Names and values of its headers.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub fn into_body(self) -> Vec<u8> {
        self.body.bytes
    }

    /// Encrypts it for storage; none if it is too large.
    pub(super) fn seal(
        &self,
        key: &MasterKey,
        purpose: &str,
    ) -> Result<Option<Vec<u8>>, ReplyError> {
        let plain = bson::serialize_to_vec(self)?;
        let packed = if plain.len() <= PLAIN_BYTES_MAX {
            [&[PLAIN], plain.as_slice()].concat()
        } else {
            let mut deflating = DeflateEncoder::new(vec![DEFLATED], Compression::fast());
            deflating.write_all(&plain)?;
            deflating.finish()?
        };
        let sealed = key.seal(purpose, &packed)?;
        Ok((sealed.len() <= STORED_BYTES_MAX).then_some(sealed))
    }

    /// Decrypts the output of [`Reply::seal`].
    pub(super) fn open(key: &MasterKey, purpose: &str, sealed: &[u8]) -> Result<Self, ReplyError> {
        let packed = key.open(purpose, sealed)?;
        let (format, rest) = packed.split_first().ok_or(SealError)?;
        let plain = if *format == DEFLATED {
            let mut plain = Vec::new();
            DeflateDecoder::new(rest).read_to_end(&mut plain)?;
            plain
        } else {
            rest.to_vec()
        };
        Ok(bson::deserialize_from_slice(&plain)?)
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    fn key() -> MasterKey {
        MasterKey::parse("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap()
    }

    #[test]
    fn a_response_is_read_as_it_was_stored() {
        for body in [Vec::new(), b"{}".to_vec(), vec![b'x'; PLAIN_BYTES_MAX], vec![b'x'; 300_000]] {
            let reply = Reply::new(Success::Created).with_header("etag", "\"a\"").with_body(body);
            let sealed = reply.seal(&key(), "p").unwrap().unwrap();
            assert_eq!(Reply::open(&key(), "p", &sealed).unwrap(), reply);
            assert!(Reply::open(&key(), "q", &sealed).is_err());
            assert!(sealed.len() <= STORED_BYTES_MAX);
        }
    }

    #[test]
    fn a_response_that_stays_too_large_is_not_stored() {
        let clock = Clock::system();
        let noise: Vec<u8> = (0..STORED_BYTES_MAX).flat_map(|_| clock.random::<1>()).collect();
        let reply = Reply::new(Success::Ok).with_body(noise);
        assert_eq!(reply.seal(&key(), "p").unwrap(), None);
    }
}
