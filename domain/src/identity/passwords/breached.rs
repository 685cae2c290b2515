//! An offline list of breached passwords, as a Bloom filter.
//!
//! A file of a few bytes per password answers whether a password is on the list, quickly and
//! without telling anyone; about one in a thousand others is also reported. It is built from SHA-1
//! hashes, the form in which "Have I Been Pwned" publishes its list.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    path::Path,
};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use common::crypto::Password;
use fastbloom::BloomFilter;

/// First bytes of the file.
const MAGIC: &[u8; 8] = b"TNTRYBL1";
/// Share of other passwords that are reported as breached.
const FALSE_POSITIVES: f64 = 0.001;
/// Hexadecimal digits of a SHA-1.
const SHA1_DIGITS: usize = 40;
/// Artificial entries: a filter in which they are missing places its entries differently than this
/// release.
const CANARIES: u64 = 64;
/// Maximum size of a filter: 16 GiB, ten times what the whole known list needs.
const WORDS_MAX: u64 = 1 << 31;

/// A list of breached passwords.
pub struct BreachList(BloomFilter);

/// The result of building a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltList {
    /// Number of passwords on it.
    pub passwords: usize,
    /// Size of its file in bytes.
    pub bytes: u64,
}

/// Why a list cannot be read or built.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line of the source is not a hash.
    #[error("line {0} does not start with a hexadecimal SHA-1 hash")]
    Line(usize),
    /// The source has no hashes.
    #[error("the source contains no hashes")]
    Empty,
    /// The file was not built by this release.
    #[error(
        "is not a list of breached passwords that this release can use; build one with `api breached-passwords build`"
    )]
    Unknown,
}

impl BreachList {
    /// Whether `password` is on the list, or one of a thousand others.
    pub fn contains(&self, password: &Password) -> bool {
        let hash = digest(&SHA1_FOR_LEGACY_USE_ONLY, password.expose().as_bytes());
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        self.0.contains_hash(u64::from_be_bytes(first))
    }

    /// Builds a list from a file of SHA-1 hashes, one per line; anything after a hash (`:` and a
    /// count) is ignored.
    pub fn build(from: &Path, to: &Path) -> Result<BuiltList, ListError> {
        let mut passwords = 0;
        for_each_hash(from, |_| passwords += 1)?;
        if passwords == 0 {
            return Err(ListError::Empty);
        }
        let expected = passwords + usize::try_from(CANARIES).unwrap_or_default();
        let mut filter =
            BloomFilter::with_false_pos(FALSE_POSITIVES).seed(&0).expected_items(expected);
        for_each_hash(from, |hash| {
            filter.insert_hash(hash);
        })?;
        for canary in canaries() {
            filter.insert_hash(canary);
        }
        Self(filter).write(to)?;
        Ok(BuiltList { passwords, bytes: std::fs::metadata(to)?.len() })
    }

    fn write(&self, to: &Path) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(to)?);
        file.write_all(MAGIC)?;
        file.write_all(&self.0.num_hashes().to_le_bytes())?;
        file.write_all(&(self.0.as_slice().len() as u64).to_le_bytes())?;
        for word in self.0.iter() {
            file.write_all(&word.to_le_bytes())?;
        }
        file.into_inner()?.sync_all()
    }

    /// Reads a list that [`BreachList::build`] wrote.
    pub fn read(from: &Path) -> Result<Self, ListError> {
        let mut file = BufReader::new(File::open(from)?);
        let (mut magic, mut hashes, mut words) = ([0; 8], [0; 4], [0; 8]);
        let head = file
            .read_exact(&mut magic)
            .and_then(|()| file.read_exact(&mut hashes))
            .and_then(|()| file.read_exact(&mut words));
        let words = u64::from_le_bytes(words);
        if head.is_err() || magic != *MAGIC || words == 0 || words > WORDS_MAX {
            return Err(ListError::Unknown);
        }
        let mut bits = Vec::new();
        let mut word = [0; 8];
        for _ in 0..words {
            file.read_exact(&mut word).map_err(|_| ListError::Unknown)?;
            bits.push(u64::from_le_bytes(word));
        }
        let filter = BloomFilter::from_vec(bits).seed(&0).hashes(u32::from_le_bytes(hashes));
        if canaries().all(|canary| filter.contains_hash(canary)) {
            Ok(Self(filter))
        } else {
            Err(ListError::Unknown)
        }
    }
}

impl std::fmt::Debug for BreachList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BreachList").field("bits", &self.0.num_bits()).finish_non_exhaustive()
    }
}

fn canaries() -> impl Iterator<Item = u64> {
    // Distributed over all numbers by the golden ratio.
    (1..=CANARIES).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Calls `tell` with the first eight bytes of each hash, which are enough to distinguish them here.
fn for_each_hash(from: &Path, mut tell: impl FnMut(u64)) -> Result<(), ListError> {
    let mut file = BufReader::new(File::open(from)?);
    let (mut line, mut number) = (String::new(), 0);
    while file.read_line(&mut line)? > 0 {
        number += 1;
        let text = line.trim();
        if !text.is_empty() {
            tell(first_bytes(text).ok_or(ListError::Line(number))?);
        }
        line.clear();
    }
    Ok(())
}

fn first_bytes(line: &str) -> Option<u64> {
    let (hash, rest) = line.split_at_checked(SHA1_DIGITS)?;
    let is_hash =
        hash.bytes().all(|b| b.is_ascii_hexdigit()) && (rest.is_empty() || rest.starts_with(':'));
    if is_hash { u64::from_str_radix(&hash[..16], 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::presented(text.to_owned()).unwrap()
    }

    fn sha1(text: &str) -> String {
        let digits = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02X}"))
            .collect::<Vec<_>>();
        digits.concat()
    }

    fn built(source: &str) -> (tempfile::TempDir, Result<BuiltList, ListError>) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("hashes.txt"), source).unwrap();
        let built =
            BreachList::build(&folder.path().join("hashes.txt"), &folder.path().join("list"));
        (folder, built)
    }

    #[test]
    fn contains_every_password_of_its_source_and_few_others() {
        let source: Vec<String> =
            (0..2000).map(|n| format!("{}:{n}\r\n", sha1(&format!("breached {n}")))).collect();
        let (folder, built) = built(&source.concat());
        let built = built.unwrap();
        assert_eq!(built.passwords, 2000);
        assert!(built.bytes < 2 * 2000 + 500, "{built:?}");
        let list = BreachList::read(&folder.path().join("list")).unwrap();
        assert!((0..2000).all(|n| list.contains(&password(&format!("breached {n}")))));
        let wrongly =
            (0..20_000).filter(|n| list.contains(&password(&format!("another {n}")))).count();
        assert!(wrongly < 100, "{wrongly}");
    }

    #[test]
    fn an_invalid_source_is_rejected_with_its_line() {
        let good = sha1("a");
        for (source, line) in
            [(format!("{good}\nnothing\n"), 2), ("é".repeat(40), 1), (format!("{good}x"), 1)]
        {
            assert!(
                matches!(built(&source).1, Err(ListError::Line(told)) if told == line),
                "{source}"
            );
        }
        assert!(matches!(built("\n\n").1, Err(ListError::Empty)));
    }

    #[test]
    fn an_invalid_list_is_rejected() {
        let (folder, built) = built(&sha1("a"));
        built.unwrap();
        let path = folder.path().join("list");
        let good = std::fs::read(&path).unwrap();
        let flipped: Vec<u8> =
            good.iter().enumerate().map(|(at, byte)| if at < 20 { *byte } else { !byte }).collect();
        for bad in [Vec::new(), b"text".to_vec(), good[..good.len() - 1].to_vec(), flipped] {
            std::fs::write(&path, &bad).unwrap();
            assert!(
                matches!(BreachList::read(&path), Err(ListError::Unknown)),
                "{} bytes",
                bad.len()
            );
        }
    }
}
