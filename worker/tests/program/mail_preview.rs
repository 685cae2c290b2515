//! Snapshots of mails, compared byte by byte.
//!
//! The files in `tests/snapshots` are written by `worker mail preview`. After changing a mail on
//! purpose, update them and review the difference:
//!
//! ```sh
//! cargo xtask renew
//! ```

use std::{collections::BTreeMap, path::Path, process::Command};

fn files(folder: &Path) -> BTreeMap<String, String> {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read_to_string(entry.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn every_mail_matches_its_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("created if missing");
    // A preview needs no configuration.
    let ran = Command::new(env!("CARGO_BIN_EXE_worker"))
        .args(["mail", "preview", "--to"])
        .arg(&to)
        .env_clear()
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let (now, before) =
        (files(&to), files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")));
    assert_eq!(now.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (name, content) in now {
        assert!(
            before[&name] == content,
            "{name} differs from its snapshot; the comment at the top of this file says how to update it:\n{content}"
        );
    }
}
