//! Rules that are read from the source: crates and areas use only those below them, so that none
//! can be part of a circle; and a tenant's scope comes only from a row that the store returned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Every area, each above the ones that it may use.
const AREAS: [&str; 6] = ["access", "activity", "people", "tenancy", "identity", "platform"];

/// Every member of the workspace, with the members that it may depend on.
const CRATES: [(&str, &[&str]); 10] = [
    ("common", &["testkit"]),
    ("jobs", &["common", "testkit"]),
    ("domain", &["common", "jobs", "testkit"]),
    ("api", &["common", "jobs", "domain", "testkit"]),
    ("worker", &["common", "jobs", "domain", "testkit"]),
    ("e2e", &["common", "jobs", "domain", "api", "worker", "testkit"]),
    ("programs", &[]),
    ("testkit", &["programs"]),
    ("bench", &["programs", "testkit"]),
    ("xtask", &["programs"]),
];

#[test]
fn a_crate_depends_only_on_those_below_it() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, below) in CRATES {
        let manifest = fs::read_to_string(workspace.join(name).join("Cargo.toml")).unwrap();
        for (member, _) in CRATES.iter().filter(|(member, _)| !below.contains(member)) {
            let dependency = manifest.lines().find(|line| {
                let rest = line.trim_start().strip_prefix(member);
                rest.is_some_and(|rest| rest.starts_with(['.', ' ', '=']))
            });
            assert_eq!(dependency, None, "{name} must not depend on {member}");
        }
    }
    let manifest = fs::read_to_string(workspace.join("Cargo.toml")).unwrap();
    let members = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    for member in members.split('"').skip(1).step_by(2) {
        assert!(CRATES.iter().any(|(name, _)| *name == member), "{member} is not in CRATES");
    }
}

#[test]
fn testkit_is_for_tests_only() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    for (name, _) in &CRATES[..5] {
        let manifest = fs::read_to_string(workspace.join(name).join("Cargo.toml")).unwrap();
        let (before, _) = manifest.split_once("[dev-dependencies]").unwrap();
        assert!(!before.contains("testkit"), "{name} uses testkit outside its tests");
    }
}

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

/// `TenantScope::of_row` trusts a row, so other crates must not be able to create one. Within this
/// crate, rows are made by the changes that store them.
#[test]
fn only_a_stored_row_makes_a_scope() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for crate_name in ["api", "bench", "e2e", "jobs", "testkit", "worker", "xtask"] {
        for file in files(&root.join(crate_name)).unwrap() {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("OfTenant for"), "{}: declare rows in domain", file.display());
        }
    }
    let mut rows = 0;
    for file in files(&root.join("domain/src")).unwrap() {
        let text = fs::read_to_string(&file).unwrap();
        for implemented in text.split("OfTenant for ").skip(1) {
            let row = implemented.split_whitespace().next().unwrap();
            let declared = format!("#[non_exhaustive]\npub struct {row} {{");
            assert!(text.contains(&declared), "{}: {row} is not non_exhaustive", file.display());
            rows += 1;
        }
    }
    assert!(rows > 10, "{rows}");
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
