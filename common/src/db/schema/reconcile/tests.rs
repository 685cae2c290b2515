use std::time::Duration;

use super::*;
use crate::db::schema::{DATE, DATE_OR_NULL, Keys, STRING};

const BY_NAME: Index = Index::unique("things_name", &[("tenant_id", 1), ("name", 1)]);
const BY_AGE: Index = Index::on("things_age", &[("age", -1), ("_id", 1)]);
const EXPIRY: Index = Index::expiring("things_ttl", &[("expires_at", 1)], Duration::from_hours(1));

const fn things(indexes: &'static [Index], required: &'static [Field]) -> Collection {
    Collection { name: "things", indexes, required }
}

const DECLARED: Collection =
    things(&[BY_NAME, BY_AGE, EXPIRY], &[("_id", STRING), ("left_at", DATE_OR_NULL)]);

/// A collection as MongoDB shows it after it was created from `declared`.
fn found(declared: &Collection) -> Found {
    let mut options = Document::new();
    if !declared.required.is_empty() {
        let validator = declared.validator();
        options = doc! { "validator": validator, "validationLevel": "moderate", "validationAction": "error" };
    }
    let shown = |index: &Index| {
        let mut shown = index.specification();
        shown.insert("v", 2);
        // It leaves out what is false, and keeps the number's type.
        if !index.unique {
            shown.remove("unique");
        }
        if let Some(seconds) = index.expire_after {
            shown.insert("expireAfterSeconds", seconds.as_secs_f64());
        }
        shown
    };
    let mut indexes = vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }];
    indexes.extend(declared.indexes.iter().map(shown));
    Found { options, indexes }
}

/// What is done to `before` until it is `after`, and whether that contracts.
fn described(before: &Collection, after: &Collection) -> Vec<(String, bool)> {
    steps(after, Some(&found(before)))
        .iter()
        .map(|step| (step.to_string(), step.contracts()))
        .collect()
}

fn one(step: &str, contracts: bool) -> Vec<(String, bool)> {
    vec![(step.to_owned(), contracts)]
}

#[test]
fn equal_collections_are_not_changed() {
    assert_eq!(described(&DECLARED, &DECLARED), []);
    let bare = things(&[], &[]);
    assert_eq!(described(&bare, &bare), []);
}

#[test]
fn a_missing_collection_is_created_in_two_commands() {
    let steps = steps(&DECLARED, None);
    let described: Vec<String> = steps.iter().map(Step::to_string).collect();
    assert_eq!(
        described,
        ["create collection things with index things_name, things_age, things_ttl"]
    );
    assert!(!steps[0].contracts());
    assert_eq!(steps[0].commands().len(), 2);
}

#[test]
fn a_new_index_expands_unless_it_removes_or_rejects_rows() {
    let before = things(&[], &[]);
    assert_eq!(
        described(&before, &things(&[BY_AGE], &[])),
        one("create index things_age of things", false)
    );
    assert_eq!(
        described(&before, &things(&[BY_NAME], &[])),
        one("create unique index things_name of things", true)
    );
    assert_eq!(
        described(&before, &things(&[EXPIRY], &[])),
        one("create index things_ttl of things", true)
    );
}

#[test]
fn a_dropped_index_contracts() {
    let (before, after) = (things(&[BY_AGE, EXPIRY], &[]), things(&[EXPIRY], &[]));
    assert_eq!(described(&before, &after), one("drop index things_age of things", true));
}

#[test]
fn an_index_of_an_operator_is_kept() {
    const OTHER: Index = Index::on("thingsome_age", &[("age", -1)]);
    assert_eq!(described(&things(&[OTHER], &[]), &things(&[], &[])), []);
}

#[test]
fn an_index_that_is_still_being_built_is_missing() {
    // As `listIndexes` with `includeBuildUUIDs` shows it.
    let built = doc! { "v": 2, "key": { "age": -1, "_id": 1 }, "name": "things_age" };
    let building = doc! { "spec": built.clone(), "buildUUID": "6a2e" };
    assert_eq!((is_built(&built), is_built(&building)), (true, false));
}

#[test]
fn swapped_names_are_untangled_by_one_replacement() {
    const X: Keys = &[("x", 1)];
    const Y: Keys = &[("y", 1)];
    const FOUND: [Index; 2] = [Index::on("things_x", Y), Index::on("things_y", X)];
    const SWAPPED: [Index; 2] = [Index::on("things_x", X), Index::on("things_y", Y)];
    assert_eq!(
        described(&things(&FOUND, &[]), &things(&SWAPPED, &[])),
        [
            ("replace index things_x, things_y of things with things_x".to_owned(), true),
            // It must wait for the step before.
            ("create index things_y of things".to_owned(), true),
        ]
    );
}

#[test]
fn a_longer_expiry_expands_and_a_shorter_one_contracts() {
    const LONG: Index =
        Index::expiring("things_ttl", &[("expires_at", 1)], Duration::from_hours(2));
    let (short, long) = (things(&[EXPIRY], &[]), things(&[LONG], &[]));
    let step = "set the expiry of index things_ttl of things to";
    assert_eq!(described(&short, &long), one(&format!("{step} 7200s"), false));
    assert_eq!(described(&long, &short), one(&format!("{step} 3600s"), true));
}

#[test]
fn an_index_that_cannot_exist_beside_the_declared_one_is_replaced() {
    // Other keys, the same keys in another order, another name, another uniqueness.
    const OTHERS: [Index; 4] = [
        Index::unique("things_name", &[("name", 1)]),
        Index::unique("things_name", &[("name", 1), ("tenant_id", 1)]),
        Index::unique("things_by_name", &[("tenant_id", 1), ("name", 1)]),
        Index::on("things_name", &[("tenant_id", 1), ("name", 1)]),
    ];
    for before in [
        things(&[OTHERS[0]], &[]),
        things(&[OTHERS[1]], &[]),
        things(&[OTHERS[2]], &[]),
        things(&[OTHERS[3]], &[]),
    ] {
        let name = before.indexes[0].name;
        assert_eq!(
            described(&before, &things(&[BY_NAME], &[])),
            one(&format!("replace index {name} of things with things_name"), true)
        );
    }
    // An option that no declaration makes.
    let mut partial = found(&things(&[BY_AGE], &[]));
    partial.indexes[1].insert("partialFilterExpression", doc! { "age": { "$gt": 3 } });
    let steps = steps(&things(&[BY_AGE], &[]), Some(&partial));
    assert_eq!(steps[0].to_string(), "replace index things_age of things with things_age");
}

#[test]
fn a_looser_validator_expands_and_a_stricter_one_contracts() {
    let strict = things(&[], &[("_id", STRING), ("left_at", DATE)]);
    let nullable = things(&[], &[("_id", STRING), ("left_at", DATE_OR_NULL)]);
    let (fewer, none) = (things(&[], &[("_id", STRING)]), things(&[], &[]));
    let (loosen, tighten) = ("loosen the validator of things", "tighten the validator of things");
    for (before, after) in
        [(&strict, &nullable), (&strict, &fewer), (&nullable, &fewer), (&fewer, &none)]
    {
        assert_eq!(described(before, after), one(loosen, false), "{before:?} to {after:?}");
        assert_eq!(described(after, before), one(tighten, true), "{after:?} to {before:?}");
    }
    let other = things(&[], &[("_id", STRING), ("name", STRING)]);
    assert_eq!(described(&strict, &other), one(tighten, true));
}

#[test]
fn a_foreign_or_disabled_validator_is_tightened() {
    let declared = things(&[], &[("_id", STRING)]);
    let mut foreign = found(&declared);
    foreign.options.insert("validator", doc! { "name": { "$exists": true } });
    let mut off = found(&declared);
    off.options.insert("validationLevel", "off");
    let mut warning = found(&declared);
    warning.options.insert("validationAction", "warn");
    for found in [foreign, off, warning] {
        assert!(steps(&declared, Some(&found))[0].contracts(), "{found:?}");
    }
}
