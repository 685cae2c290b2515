//! The installation's secret and the keys derived from it.

use std::{fmt, str::FromStr, sync::Arc};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    constant_time::verify_slices_are_equal,
    hkdf::{HKDF_SHA256, Salt},
    hmac,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};

/// 32 random bytes. Rotating it ends every session and invalidates every link; see the runbook.
#[derive(Clone)]
pub struct MasterKey([u8; 32]);

/// The text is not 32 bytes in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 32 bytes in base64; create one with `openssl rand -base64 32`")]
pub struct InvalidMasterKey;

/// The bytes were sealed with another master key or for another purpose, or altered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the value was sealed with another master key or has been altered")]
pub struct SealError;

impl MasterKey {
    /// Parses the key as given in the configuration.
    pub fn parse(base64: &str) -> Result<Self, InvalidMasterKey> {
        let bytes = STANDARD.decode(base64).map_err(|_| InvalidMasterKey)?;
        bytes.try_into().map(Self).map_err(|_| InvalidMasterKey)
    }

    /// Whether all its bytes are the same, such as zero: it was not created at random.
    pub fn is_uniform(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0] == pair[1])
    }

    /// Derives a key for one purpose (HKDF-SHA256, RFC 5869), so that no two uses share key
    /// material.
    fn derive(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        Salt::new(HKDF_SHA256, b"tenantry")
            .extract(&self.0)
            .expand(&[purpose.as_bytes()], HKDF_SHA256)
            .and_then(|derived| derived.fill(&mut key))
            .expect("HKDF-SHA256 can produce 32 bytes");
        key
    }

    /// HMAC-SHA256 of `message` under the key of `purpose`.
    pub(super) fn mac(&self, purpose: &str, message: &[u8]) -> [u8; 32] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose));
        let tag = hmac::sign(&key, message);
        tag.as_ref().try_into().expect("HMAC-SHA256 produces 32 bytes")
    }

    /// The key that signs messages of one purpose.
    pub fn mac_key(&self, purpose: &str) -> MacKey {
        MacKey(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &self.derive(purpose))))
    }

    /// A stable pseudonym of `text`: equal texts have equal digests, which reveal nothing without
    /// the key.
    pub fn digest(&self, purpose: &str, text: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(purpose, text.as_bytes()))
    }

    /// Encrypts and authenticates `plain` (AES-256-GCM, with a random nonce in front).
    pub fn seal(&self, purpose: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut body = plain.to_vec();
        let nonce = self
            .cipher(purpose)?
            .seal_in_place_append_tag(Aad::from(purpose), &mut body)
            .map_err(|_| SealError)?;
        let mut sealed = nonce.as_ref().to_vec();
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Decrypts the output of [`MasterKey::seal`].
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(SealError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let mut body = body.to_vec();
        let plain = self
            .cipher(purpose)?
            .open_in_place(nonce, Aad::from(purpose), &mut body)
            .map_err(|_| SealError)?;
        Ok(plain.to_vec())
    }

    fn cipher(&self, purpose: &str) -> Result<RandomizedNonceKey, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.derive(purpose)).map_err(|_| SealError)
    }
}

/// Bytes of a signature: half of HMAC-SHA256's output, as RFC 2104 §5 recommends at least.
const MAC_BYTES: usize = 16;

/// A key that signs messages with HMAC-SHA256, truncated to 128 bits. Cheap to clone.
#[derive(Clone)]
pub struct MacKey(Arc<hmac::Key>);

impl MacKey {
    /// The signature of a message of these parts, in base64. Each part is signed with its length,
    /// so that text cannot be moved from one part to another.
    pub fn sign(&self, parts: &[&[u8]]) -> String {
        URL_SAFE_NO_PAD.encode(self.tag(parts))
    }

    /// Whether `mac` is the signature of these parts, compared in constant time.
    pub fn verifies(&self, parts: &[&[u8]], mac: &str) -> bool {
        let mut given = [0; MAC_BYTES];
        let is_whole = URL_SAFE_NO_PAD.decode_slice(mac, &mut given) == Ok(MAC_BYTES);
        is_whole && verify_slices_are_equal(&given, &self.tag(parts)).is_ok()
    }

    fn tag(&self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let tag = context.sign();
        tag.as_ref().first_chunk().copied().expect("HMAC-SHA256 produces 32 bytes")
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey([redacted])")
    }
}

impl FromStr for MasterKey {
    type Err = InvalidMasterKey;
    fn from_str(base64: &str) -> Result<Self, InvalidMasterKey> {
        Self::parse(base64)
    }
}

impl PartialEq for MasterKey {
    /// In constant time.
    fn eq(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey([byte; 32])
    }

    #[test]
    fn a_sealed_value_opens_only_with_the_same_key_and_purpose() {
        let sealed = key(1).seal("a", b"secret").unwrap();
        assert_eq!(key(1).open("a", &sealed).unwrap(), b"secret");
        assert_eq!(key(2).open("a", &sealed), Err(SealError));
        assert_eq!(key(1).open("b", &sealed), Err(SealError));
        assert_eq!(key(1).open("a", &sealed[..5]), Err(SealError));
    }

    #[test]
    fn altered_bytes_do_not_open() {
        let mut sealed = key(1).seal("a", b"secret").unwrap();
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        assert_eq!(key(1).open("a", &sealed), Err(SealError));
    }

    #[test]
    fn a_signature_belongs_to_one_key_purpose_and_division_into_parts() {
        let signer = key(1).mac_key("a");
        let mac = signer.sign(&[b"one", b"two"]);
        assert_eq!(mac.len(), 22);
        assert!(signer.verifies(&[b"one", b"two"], &mac));
        for other in [key(2).mac_key("a"), key(1).mac_key("b")] {
            assert!(!other.verifies(&[b"one", b"two"], &mac));
        }
        for parts in [&[b"onet".as_slice(), b"wo"][..], &[b"onetwo"], &[b"one", b"two", b""]] {
            assert!(!signer.verifies(parts, &mac));
        }
        for wrong in ["", "?", &mac[..21], &format!("{mac}A"), &signer.sign(&[b"x"])] {
            assert!(!signer.verifies(&[b"one", b"two"], wrong), "{wrong}");
        }
    }

    #[test]
    fn digests_differ_by_purpose() {
        assert_eq!(key(1).digest("a", "x"), key(1).digest("a", "x"));
        assert_ne!(key(1).digest("a", "x"), key(1).digest("b", "x"));
    }
}
