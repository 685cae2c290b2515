//! Areas use only areas below them, so that none can be part of a circle.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Every area, each above the ones that it may use.
const AREAS: [&str; 6] = ["access", "activity", "people", "tenancy", "identity", "platform"];

#[test]
fn an_area_uses_only_those_below_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (level, area) in AREAS.iter().enumerate() {
        let files = files(&source.join(area)).unwrap();
        assert!(!files.is_empty(), "domain/src/{area} has no files");
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            for above in &AREAS[level + 1..] {
                let import = imports(&text).find(|import| import.contains(&format!("{above}::")));
                assert_eq!(import, None, "{} uses the area {above}", file.display());
            }
        }
    }
}

#[test]
fn every_folder_is_an_area() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let entries = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<String> = entries
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    let mut areas = AREAS.to_vec();
    areas.sort_unstable();
    folders.sort_unstable();
    assert_eq!(folders, areas);
}

/// The paths in the crate that a source file names, in `use` items and elsewhere.
fn imports(text: &str) -> impl Iterator<Item = &str> {
    text.split("crate::").skip(1).map(|rest| {
        let is_list = rest.starts_with('{');
        let end = rest.find(if is_list { ";" } else { "\n" }).unwrap_or(rest.len());
        &rest[..end]
    })
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(self::files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
