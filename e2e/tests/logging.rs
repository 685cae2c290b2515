//! `docs/logging.md` lists every event that the programs log at `info` or above, and no other.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const CRATES: [&str; 5] = ["api", "common", "domain", "jobs", "worker"];
const LEVELS: [&str; 3] = ["info", "warn", "error"];
/// Files whose code runs only in tests.
const TEST_FILES: [&str; 2] = ["tests.rs", "testing.rs"];
/// Begins the tests of a file, which are its last item.
const TESTS: &str = "\nmod tests {";
/// Begins the tables of events.
const EVENTS: &str = "\n## Events\n";

#[test]
fn the_log_reference_lists_every_event_with_its_level() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let sources = CRATES.map(|name| sources_in(&root.join(name).join("src"))).concat();
    let logged: BTreeSet<String> =
        sources.iter().flat_map(|path| logged_by(&fs::read_to_string(path).unwrap())).collect();
    let listed = listed_in(&fs::read_to_string(root.join("docs/logging.md")).unwrap());

    assert!(logged.contains("request_answered info"), "found no events in the sources");
    let missing: Vec<_> = logged.difference(&listed).collect();
    let surplus: Vec<_> = listed.difference(&logged).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "docs/logging.md lacks {missing:#?} and lists without need {surplus:#?}"
    );
}

fn sources_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let is_source = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "rs")
            && !TEST_FILES.iter().any(|name| path.ends_with(name))
    };
    let below = folders.iter().flat_map(|folder| sources_in(folder));
    below.chain(files.into_iter().filter(is_source)).collect()
}

/// The events of a source file, each with its level.
fn logged_by(source: &str) -> BTreeSet<String> {
    let code = source.split(TESTS).next().unwrap();
    let events = LEVELS.iter().flat_map(|level| {
        let calls = code.split(&format!("tracing::{level}!(")).skip(1).collect::<Vec<_>>();
        calls.into_iter().flat_map(events_of).map(move |event| format!("{event} {level}"))
    });
    events.collect()
}

/// The names of events among the string literals of a macro call, whose arguments `rest` begins with.
/// Almost every call has one, as its last argument.
fn events_of(rest: &str) -> Vec<&str> {
    let mut depth = 1_usize;
    let mut names = Vec::new();
    for (index, part) in rest.split('"').enumerate() {
        if index % 2 == 1 {
            if is_event(part) {
                names.push(part);
            }
            continue;
        }
        for char in part.chars() {
            match char {
                '(' => depth += 1,
                ')' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return names;
            }
        }
    }
    panic!("a call without an end: {rest}");
}

fn is_event(text: &str) -> bool {
    text.contains('_') && text.chars().all(|char| char.is_ascii_lowercase() || char == '_')
}

/// The events of the tables, each with its level.
fn listed_in(page: &str) -> BTreeSet<String> {
    let (_, tables) = page.split_once(EVENTS).unwrap();
    let rows = tables.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let mut cells = row.split(" | ");
        let (event, level) = (cells.next().unwrap(), cells.next().unwrap());
        format!("{} {level}", event.trim_end_matches('`'))
    })
    .collect()
}
