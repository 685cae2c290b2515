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
    for name in before.keys() {
        assert!(
            now.contains_key(name),
            "no mail has the snapshot worker/tests/snapshots/{name}; delete it"
        );
    }
    for (name, content) in now {
        let snapshot = before.get(&name).map(String::as_str).unwrap_or_default();
        let line = snapshot.lines().zip(content.lines()).find(|(before, now)| before != now);
        assert!(
            snapshot == content,
            "{name} differs from its snapshot; run `cargo xtask renew`. The first difference: {line:?}"
        );
    }
}
