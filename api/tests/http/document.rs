//! The OpenAPI document in the repository, against which the tests' client checks every response.
//!
//! `api/openapi.json` is generated from the routes and checked in, so that changes of the contract
//! are visible in reviews. Tests take the operations, their requirements and valid bodies from it.

use std::{collections::BTreeSet, fmt::Write, sync::LazyLock};

use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::support::Answer;

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

/// What an operation requires of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    SignedIn,
    /// As [`Need::SignedIn`], by an access token or by the refresh token alone.
    Session,
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

    /// Its name in generated clients.
    pub(crate) fn id(&self) -> &'static str {
        self.says["operationId"].as_str().unwrap()
    }

    /// The operation of a request: of several that match, the one with the most literal parts.
    fn at(method: &Method, path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.split('/').collect();
        let matches = |template: &str| {
            let template: Vec<&str> = template.split('/').collect();
            let mut both = template.iter().zip(&parts);
            template.len() == parts.len()
                && both.all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
        };
        Self::all()
            .into_iter()
            .filter(|operation| operation.method == *method && matches(operation.path))
            .min_by_key(|operation| operation.path.matches('{').count())
    }

    pub(crate) fn need(&self) -> Need {
        match self.says.get("x-permission").and_then(Value::as_str) {
            Some(permission) => Need::Permission(permission),
            None if self.says["security"] == json!([{}]) => Need::Nothing,
            None if self.says["security"][1]["refresh_token"].is_array() => Need::Session,
            None => Need::SignedIn,
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.need() == Need::Nothing
    }

    pub(crate) fn wants_id(&self) -> bool {
        self.path.contains("{id}")
    }

    /// An example of its `{id}`: of the right kind, but of nothing that exists.
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
            // An optional schema: null, or this one.
            let either = schema["oneOf"].as_array().into_iter().flatten();
            resolved(either.chain([schema]).find(|schema| schema["$ref"].is_string()).unwrap())
        })
    }

    /// As [`Operation::example`], with this role and these permissions in every field for one; none
    /// if the body has no such field.
    pub(crate) fn example_giving(&self, role: &str, permissions: &[&str]) -> Option<Value> {
        let (schema, mut body) = (self.body_schema()?, self.example()?);
        let given = [("RoleId", json!(role)), ("Permissions", json!(permissions))];
        give(schema, &given, &mut body).then_some(body)
    }

    /// Whether it requires recent authentication: `always`, or `conditional` on what it changes.
    pub(crate) fn recent_authentication(&self) -> Option<&'static str> {
        self.says.get("x-recent-authentication").map(|says| says.as_str().unwrap())
    }

    /// A body made of the document's examples: valid, and without effect on existing data.
    pub(crate) fn example(&self) -> Option<Value> {
        self.body_schema().map(example)
    }
}

/// Resolves `schema` if it is a reference.
pub(crate) fn resolved(schema: &'static Value) -> &'static Value {
    let Some(reference) = schema["$ref"].as_str() else { return schema };
    DOCUMENT
        .pointer(reference.trim_start_matches('#'))
        .unwrap_or_else(|| panic!("{reference} is not in api/openapi.json"))
}

/// Replaces values in `body` whose schema has one of these names; returns whether there are any.
fn give(schema: &'static Value, given: &[(&str, Value)], body: &mut Value) -> bool {
    let name = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next());
    if let Some((_, value)) = given.iter().find(|(given, _)| Some(*given) == name) {
        *body = value.clone();
        return true;
    }
    let schema = resolved(schema);
    let mut has_given = false;
    for either in schema["oneOf"].as_array().into_iter().flatten() {
        has_given |= give(either, given, body);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(value) = body.get_mut(name) {
            has_given |= give(field, given, value);
        }
    }
    if let (Some(items), Some(values)) = (schema.get("items"), body.as_array_mut()) {
        let mut item = example(items);
        if give(items, given, &mut item) {
            *values = vec![item];
            has_given = true;
        }
    }
    has_given
}

fn told_example(schema: &'static Value) -> Option<&'static Value> {
    schema.get("example").or_else(|| schema["examples"].get(0))
}

/// A value that `schema` allows: its example, or a minimal one.
fn example(schema: &'static Value) -> Value {
    let schema = resolved(schema);
    if schema["format"] == "email" {
        // No test has a user with this email address.
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

/// Checks a response against the document: its status and code must be declared, and its body must
/// have exactly the fields of its schema. Paths that are not in the document are not checked.
#[track_caller]
pub(crate) fn check(method: &Method, path: &str, answer: &Answer) {
    let Some(operation) = Operation::at(method, path) else { return };
    let status = answer.status.as_str();
    let declared = operation.says["responses"].get(status).unwrap_or_else(|| {
        panic!(
            "{operation} returns {status}, which it does not declare: add its error to \
             `responses(…)` of the handler (api/src/routes) as `Refusals<…>`, or to the codes of \
             the error (api/src/problem/mapping.rs). {answer:?}"
        )
    });
    let content = &resolved(declared)["content"];
    let content_type = answer.header("content-type");
    if content_type == "application/problem+json" {
        let problem = answer.json();
        let schema = &content[content_type]["schema"];
        let codes = schema["allOf"].as_array().into_iter().flatten();
        let mut codes = codes.filter_map(|part| part["properties"]["code"]["enum"].as_array());
        assert!(
            codes.any(|codes| codes.contains(&problem["code"])),
            "{operation} returns {status} {}, which it does not declare: add its error to \
             `responses(…)` of the handler (api/src/routes) as `Refusals<…>`, or the code to those \
             of the error (api/src/problem/mapping.rs). {answer:?}",
            problem["code"]
        );
        fits(&DOCUMENT["components"]["schemas"]["Problem"], &problem, &operation.to_string());
    } else if let Some(schema) = content.pointer("/application~1json/schema") {
        fits(schema, &answer.json(), &operation.to_string());
    } else {
        assert!(answer.body.is_empty(), "{operation} declares no body for {status}: {answer:?}");
    }
}

/// Checks recursively that `value` has every required field of `schema`, no unknown one, and the
/// right types.
fn fits(schema: &'static Value, value: &Value, at: &str) {
    let schema = resolved(schema);
    if let Some(either) = schema["oneOf"].as_array() {
        // Null, or the other schema.
        let mut others = either.iter().filter(|either| either["type"] != "null");
        return match others.next() {
            Some(other) if !value.is_null() => fits(other, value, at),
            _ => assert!(value.is_null(), "{at}: {value}"),
        };
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value} is not among {values:?}");
    }
    assert!(has_type(schema, value), "{at}: {value} is no {}", schema["type"]);
    let parts = parts_of(schema);
    let required = parts.iter().flat_map(|part| part["required"].as_array().into_iter().flatten());
    let mut required: Vec<&Value> = required.collect();
    // An object without properties is described by another specification.
    let is_described = parts.iter().any(|part| part["properties"].is_object());
    if let (Some(fields), true) = (value.as_object(), is_described) {
        required.retain(|name: &&Value| !fields.contains_key(name.as_str().unwrap()));
        assert!(required.is_empty(), "{at} lacks {required:?}: {value}");
        for (name, field) in fields {
            let says = parts.iter().find_map(|part| part["properties"].get(name));
            let says = says.unwrap_or_else(|| panic!("{at}.{name} is not described: {value}"));
            fits(says, field, &format!("{at}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        fits(&schema["items"], item, &format!("{at}[]"));
    }
}

/// A schema, and all those that it includes.
fn parts_of(schema: &'static Value) -> Vec<&'static Value> {
    let included = schema["allOf"].as_array().into_iter().flatten().map(resolved);
    included.flat_map(parts_of).chain([schema]).collect()
}

fn has_type(schema: &Value, value: &Value) -> bool {
    let is = |name: &Value| match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("null") => value.is_null(),
        _ => true,
    };
    match &schema["type"] {
        Value::Array(types) => types.iter().any(is),
        one => is(one),
    }
}

/// The differences between two documents, one per line: values only in the first (`-`) or the
/// second (`+`).
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
fn only_differences_from_the_document_are_reported() {
    let before = json!({ "same": 1, "gone": [1], "deep": { "a": [1, 2] } });
    let after = json!({ "same": 1, "new": "x", "deep": { "a": [1, 3] } });
    let told = "- › deep › a › 1: 2\n+ › deep › a › 1: 3\n- › gone: [1]\n+ › new: \"x\"\n";
    assert_eq!(differences(&before, &after), told);
}
