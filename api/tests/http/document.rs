//! The OpenAPI document in the repository, as the tests' client holds every answer against it.
//!
//! `api/openapi.json` is generated from the routes and checked in, so a change of what clients may
//! rely on is seen in review. Tests take from it which operations there are, what each demands of
//! its caller and what it may be sent.

use std::{collections::BTreeSet, fmt::Write, sync::LazyLock};

use reqwest::Method;
use serde_json::{Map, Value, json};

/// The document.
pub(crate) static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../openapi.json")).unwrap());

/// An operation of the document.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) says: &'static Value,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// What an operation demands of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    SignedIn,
    Permission(&'static str),
}

impl Operation {
    pub(crate) fn all() -> Vec<Self> {
        let paths = DOCUMENT["paths"].as_object().unwrap();
        let operations = paths.iter().flat_map(|(path, item)| {
            let operations = item.as_object().unwrap().iter();
            operations.map(move |(method, says)| Self {
                method: method.to_uppercase().parse().unwrap(),
                path,
                says,
            })
        });
        operations.collect()
    }

    pub(crate) fn need(&self) -> Need {
        match self.says.get("x-permission").and_then(Value::as_str) {
            Some(permission) => Need::Permission(permission),
            None if self.says["security"] == json!([{}]) => Need::Nothing,
            None => Need::SignedIn,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.need() == Need::Nothing
    }

    pub(crate) fn wants_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// The example of its `{id}`: of the kind that its path wants, and naming nothing.
    pub(crate) fn absent_id(&self) -> &'static str {
        let parameters = self.says["parameters"].as_array().into_iter().flatten();
        let mut ids = parameters.filter(|says| says["in"] == "path" && says["name"] == "id");
        let example = ids.next().and_then(|says| told_example(&says["schema"])?.as_str());
        example.unwrap_or_else(|| {
            panic!(
                "{self} has no example of an id: take it with `PathId` (api/src/extract/path.rs)"
            )
        })
    }

    /// The schema of its body, if it takes one.
    pub(crate) fn body_schema(&self) -> Option<&'static Value> {
        self.says.get("requestBody").map(|body| {
            let schema = &body["content"]["application/json"]["schema"];
            // One that may be left out is this or null.
            let either = schema["oneOf"].as_array().into_iter().flatten();
            resolved(either.chain([schema]).find(|schema| schema["$ref"].is_string()).unwrap())
        })
    }

    /// A body made of the document's examples: one that is acceptable, and changes nothing that
    /// was there before.
    pub(crate) fn example(&self) -> Option<Value> {
        self.body_schema().map(example)
    }
}

/// What `schema` stands for, if it is a reference.
pub(crate) fn resolved(schema: &'static Value) -> &'static Value {
    let Some(reference) = schema["$ref"].as_str() else { return schema };
    DOCUMENT
        .pointer(reference.trim_start_matches('#'))
        .unwrap_or_else(|| panic!("{reference} is not in api/openapi.json"))
}

fn told_example(schema: &'static Value) -> Option<&'static Value> {
    schema.get("example").or_else(|| schema["examples"].get(0))
}

/// A value that `schema` allows: its example, or the least there is.
fn example(schema: &'static Value) -> Value {
    let schema = resolved(schema);
    if schema["format"] == "email" {
        // Nobody of this address is in any test.
        return json!("somebody@example.com");
    }
    if let Some(example) = told_example(schema) {
        return example.clone();
    }
    if let Some(either) = schema["oneOf"].as_array() {
        return example(either.last().unwrap());
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    match types.first() {
        Some(&"object") => {
            let required = schema["required"].as_array().into_iter().flatten();
            let fields = required.map(|name| {
                let name = name.as_str().unwrap();
                (name.to_owned(), example(&schema["properties"][name]))
            });
            Value::Object(fields.collect::<Map<_, _>>())
        }
        Some(&"array") => json!([]),
        Some(&"boolean") => json!(false),
        Some(&"integer" | &"number") => schema.get("minimum").cloned().unwrap_or(json!(1)),
        Some(&"null") => Value::Null,
        _ => json!("x"),
    }
}

/// Where two documents differ, one line each: what only the first (`-`) or the second (`+`) has.
pub(crate) fn differences(before: &Value, after: &Value) -> String {
    let mut lines = String::new();
    differ("", Some(before), Some(after), &mut lines);
    lines
}

fn differ(at: &str, before: Option<&Value>, after: Option<&Value>, lines: &mut String) {
    if before == after {
        return;
    }
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for name in names {
                differ(&format!("{at} › {name}"), old.get(name), new.get(name), lines);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                differ(&format!("{at} › {index}"), Some(old), Some(new), lines);
            }
        }
        _ => {
            for (sign, value) in [('-', before), ('+', after)] {
                if let Some(value) = value {
                    let text: String = value.to_string().chars().take(160).collect();
                    writeln!(lines, "{sign}{at}: {text}").unwrap();
                }
            }
        }
    }
}

#[test]
fn differences_are_told_and_nothing_else() {
    let before = json!({ "same": 1, "gone": [1], "deep": { "a": [1, 2] } });
    let after = json!({ "same": 1, "new": "x", "deep": { "a": [1, 3] } });
    let told = "- › deep › a › 1: 2\n+ › deep › a › 1: 3\n- › gone: [1]\n+ › new: \"x\"\n";
    assert_eq!(differences(&before, &after), told);
}
