//! What mails look like, compared byte by byte with what they looked like.
//!
//! The files in `tests/snapshots` are what `worker mail preview` writes. Where a mail was changed
//! on purpose, renew them and look at the difference:
//!
//! ```sh
//! cargo run -p worker -- mail preview --to worker/tests/snapshots
//! ```
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

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
fn every_mail_is_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("made if missing");
    // Without any configuration: looking needs none.
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
            "{name} is another one now; see this file's head for how to renew it:\n{content}"
        );
    }
}
