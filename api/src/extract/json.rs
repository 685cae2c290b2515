//! Request bodies: JSON objects read field by field into domain types.
//!
//! Reading continues after a mistake, so that a client learns every invalid field at once. Unknown
//! fields are refused by name.

use std::{fmt::Display, str::FromStr};

use axum::{
    body::{Bytes, to_bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderValue, header},
};
use common::crypto::{InvalidPassword, Password};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Argument, distinct::Distinct};
use crate::problem::{Code, FieldError, Problem};

/// The most mistakes that are reported.
const ERRORS_MAX: usize = 20;
/// The most characters of an unknown field's name that are repeated.
const NAME_CHARS_MAX: usize = 60;
/// Code of unknown fields.
const UNKNOWN: &str = "unknown_field";
/// The most items of a list, unless a field says otherwise.
const LIST_ITEMS_MAX: usize = 1_000;

/// A request body of type `T`.
pub(crate) struct Json<T>(pub(crate) T);

/// A request body of type `T`, which may be absent: that is the same as `{}`.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T> Argument for Json<T> {
    fn refusals() -> Vec<Code> {
        vec![
            Code::BadRequest,
            Code::MalformedJson,
            Code::RequestTimeout,
            Code::UnsupportedMediaType,
            Code::ValidationFailed,
            Code::UnknownField,
        ]
    }
}

impl<T> Argument for OptionalJson<T> {
    fn refusals() -> Vec<Code> {
        Json::<T>::refusals()
    }
}

/// A type that request bodies are read into.
pub(crate) trait FromFields: Sized {
    /// Takes its fields. None when a required one is missing or one is invalid.
    fn read(fields: &mut Fields) -> Option<Self>;
}

/// A text that is none of the values that a field can have.
pub(crate) struct NotAmong(pub(crate) &'static [&'static str]);

impl Display for NotAmong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "must be one of {}", self.0.join(", "))
    }
}

/// A field that must be present and may be null.
pub(crate) struct Nullable<T>(pub(crate) Option<T>);

/// Where fields come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Body,
    Query,
}

impl Place {
    /// The words for the place and for its fields.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Body => ("body", "field"),
            Self::Query => ("query", "parameter"),
        }
    }
}

/// Fields of a body or parameters of a query, and the mistakes found in them so far.
pub(crate) struct Fields {
    place: Place,
    given: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    fn new(place: Place, given: Map<String, Value>) -> Self {
        Self { place, given, errors: Vec::new() }
    }

    /// A required string, parsed.
    pub(crate) fn required<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.required_text(name)?;
        self.parsed(name, &text)
    }

    /// A required string, as it is.
    pub(crate) fn required_text(&mut self, name: &str) -> Option<String> {
        match self.given.remove(name) {
            None | Some(Value::Null) => self.refuse(name, "required", "is required"),
            Some(Value::String(text)) => Some(text),
            Some(_) => self.refuse(name, "invalid_type", "must be a string"),
        }
    }

    /// An optional string, parsed.
    pub(crate) fn optional<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: Display,
    {
        let text = self.optional_text(name)?;
        self.parsed(name, &text)
    }

    /// An optional string, as it is.
    pub(crate) fn optional_text(&mut self, name: &str) -> Option<String> {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => self.refuse(name, "invalid_type", "must be a string"),
        }
    }

    /// A required password, read by `parse`: [`Password::chosen`] or [`Password::presented`].
    pub(crate) fn required_password(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<Password, InvalidPassword>,
    ) -> Option<Password> {
        let text = self.required_text(name)?;
        self.password(name, parse(text))
    }

    /// An optional password of an account that may exist.
    pub(crate) fn optional_password(&mut self, name: &str) -> Option<Password> {
        let text = self.optional_text(name)?;
        self.password(name, Password::presented(text))
    }

    fn password(
        &mut self,
        name: &str,
        read: Result<Password, InvalidPassword>,
    ) -> Option<Password> {
        read.map_err(|reason| self.errors.push(FieldError::password(name, &reason))).ok()
    }

    /// An optional number of items, from 1 to `max`, written as a string.
    pub(crate) fn limit(&mut self, name: &str, max: usize) -> Option<usize> {
        let limit = self.optional_text(name)?.parse().ok();
        limit.filter(|limit| (1..=max).contains(limit)).or_else(|| {
            self.refuse(name, "out_of_range", &format!("must be a number from 1 to {max}"))
        })
    }

    /// A required list of strings, each parsed.
    pub(crate) fn required_list<T: FromStr>(&mut self, name: &str) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        self.required_list_up_to(name, LIST_ITEMS_MAX)
    }

    /// Like [`Fields::required_list`], with at most `max` items.
    pub(crate) fn required_list_up_to<T: FromStr>(
        &mut self,
        name: &str,
        max: usize,
    ) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        let items = self.required_items(name, max)?;
        items.into_iter().map(|item| self.item(name, item)).collect()
    }

    /// Like [`Fields::required_list_up_to`], with at least one item.
    pub(crate) fn required_some<T: FromStr>(&mut self, name: &str, max: usize) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        match self.required_list_up_to::<T>(name, max) {
            Some(items) if items.is_empty() => {
                self.refuse(name, "too_short", "must have at least one item")
            }
            items => items,
        }
    }

    /// An optional list of at most `max` strings, each parsed.
    pub(crate) fn optional_list_up_to<T: FromStr>(
        &mut self,
        name: &str,
        max: usize,
    ) -> Option<Vec<T>>
    where
        T::Err: Display,
    {
        if self.given.get(name).is_none_or(Value::is_null) {
            self.given.remove(name);
            return None;
        }
        self.required_list_up_to(name, max)
    }

    /// A required list of at most `max` objects, each read by `read`.
    pub(crate) fn required_objects<T>(
        &mut self,
        name: &str,
        max: usize,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let items = self.required_items(name, max)?;
        let mut object = |(at, item)| match item {
            Value::Object(given) => {
                let mut fields = Self::new(self.place, given);
                let read = read(&mut fields);
                fields.refuse_unknown();
                let inner = fields.errors.into_iter();
                self.errors.extend(inner.map(|error| FieldError {
                    field: format!("{name}[{at}].{}", error.field),
                    ..error
                }));
                read
            }
            _ => self.refuse(name, "invalid_type", "must be a list of objects"),
        };
        items.into_iter().enumerate().map(&mut object).collect()
    }

    fn required_items(&mut self, name: &str, max: usize) -> Option<Vec<Value>> {
        match self.given.remove(name) {
            None | Some(Value::Null) => self.refuse(name, "required", "is required"),
            Some(Value::Array(items)) if items.len() > max => {
                self.refuse(name, "too_long", &format!("must have at most {max} items"))
            }
            Some(Value::Array(items)) => Some(items),
            Some(_) => self.refuse(name, "invalid_type", "must be a list"),
        }
    }

    fn item<T: FromStr>(&mut self, name: &str, item: Value) -> Option<T>
    where
        T::Err: Display,
    {
        match item {
            Value::String(text) => self.parsed(name, &text),
            _ => self.refuse(name, "invalid_type", "must be a list of strings"),
        }
    }

    /// A required boolean.
    pub(crate) fn required_bool(&mut self, name: &str) -> Option<bool> {
        match self.given.remove(name) {
            None | Some(Value::Null) => self.refuse(name, "required", "is required"),
            Some(Value::Bool(answer)) => Some(answer),
            Some(_) => self.refuse(name, "invalid_type", "must be true or false"),
        }
    }

    /// A whole number or null; the field is required.
    pub(crate) fn nullable_number<T: TryFrom<i64>>(&mut self, name: &str) -> Option<Nullable<T>>
    where
        T::Error: Display,
    {
        match self.given.remove(name) {
            None => self.refuse(name, "required", "is required; send null for none"),
            Some(Value::Null) => Some(Nullable(None)),
            Some(value) => self.number(name, &value).map(|number| Nullable(Some(number))),
        }
    }

    /// An optional whole number.
    pub(crate) fn optional_number<T: TryFrom<i64>>(&mut self, name: &str) -> Option<T>
    where
        T::Error: Display,
    {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(value) => self.number(name, &value),
        }
    }

    fn number<T: TryFrom<i64>>(&mut self, name: &str, value: &Value) -> Option<T>
    where
        T::Error: Display,
    {
        let Value::Number(number) = value else {
            return self.refuse(name, "invalid_type", "must be a number or null");
        };
        match number.as_i64().map(T::try_from) {
            Some(Ok(number)) => Some(number),
            Some(Err(reason)) => self.refuse(name, "out_of_range", &reason.to_string()),
            None => self.refuse(name, "invalid_type", "must be a whole number"),
        }
    }

    /// A parsed string or null; the field is required.
    pub(crate) fn nullable<T: FromStr>(&mut self, name: &str) -> Option<Nullable<T>>
    where
        T::Err: Display,
    {
        match self.given.remove(name) {
            None => self.refuse(name, "required", "is required; send null for none"),
            Some(Value::Null) => Some(Nullable(None)),
            Some(Value::String(text)) => {
                self.parsed(name, &text).map(|value| Nullable(Some(value)))
            }
            Some(_) => self.refuse(name, "invalid_type", "must be a string or null"),
        }
    }

    /// An optional boolean.
    pub(crate) fn optional_bool(&mut self, name: &str) -> Option<bool> {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(answer)) => Some(answer),
            Some(_) => self.refuse(name, "invalid_type", "must be true or false"),
        }
    }

    /// An optional object whose form another specification defines.
    pub(crate) fn optional_object<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::Object(object)) => match serde_json::from_value(Value::Object(object)) {
                Ok(read) => Some(read),
                Err(error) => self.refuse(
                    name,
                    "invalid_format",
                    &format!("does not have the specified form: {error}"),
                ),
            },
            Some(_) => self.refuse(name, "invalid_type", "must be an object"),
        }
    }

    /// Like [`Self::optional_object`], but required.
    pub(crate) fn required_object<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if self.given.get(name).is_none_or(Value::is_null) {
            return self.refuse(name, "required", "is required");
        }
        self.optional_object(name)
    }

    fn parsed<T: FromStr>(&mut self, name: &str, text: &str) -> Option<T>
    where
        T::Err: Display,
    {
        text.parse().map_err(|reason| self.errors.push(FieldError::invalid(name, &reason))).ok()
    }

    fn refuse<T>(&mut self, name: &str, code: &'static str, message: &str) -> Option<T> {
        self.errors.push(FieldError { field: name.to_owned(), code, message: message.to_owned() });
        None
    }

    fn refuse_unknown(&mut self) {
        let (_, field) = self.place.names();
        let message = format!("is not a known {field}");
        let unknown = self
            .given
            .keys()
            .take(ERRORS_MAX)
            .map(|name| name.chars().take(NAME_CHARS_MAX).collect());
        let unknown: Vec<String> = unknown.collect();
        for name in unknown {
            self.refuse::<()>(&name, UNKNOWN, &message);
        }
    }

    /// What was read, unless there are mistakes.
    fn finish<T>(mut self, read: Option<T>) -> Result<T, Problem> {
        self.refuse_unknown();
        self.errors.truncate(ERRORS_MAX);
        match read {
            Some(read) if self.errors.is_empty() => Ok(read),
            _ => Err(self.refusal()),
        }
    }

    fn refusal(self) -> Problem {
        let unknown: Vec<&str> = self
            .errors
            .iter()
            .filter(|error| error.code == UNKNOWN)
            .map(|error| error.field.as_str())
            .collect();
        if unknown.is_empty() {
            return Problem::fields(self.errors);
        }
        let (place, field) = self.place.names();
        let detail =
            format!("The {place} has unknown {field}s: {}. Remove them.", unknown.join(", "));
        Problem::unknown_fields(detail, self.errors)
    }
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(not_json());
        }
        parse(&whole(request).await?).map(Self)
    }
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = whole(request).await?;
        if bytes.is_empty() || (is_json && bytes.trim_ascii() == b"null") {
            return parse(b"{}").map(Self);
        }
        if is_json {
            return parse(&bytes).map(Self);
        }
        Err(not_json())
    }
}

/// The body of a request, which has arrived completely ([`crate::middleware`]).
async fn whole(request: Request) -> Result<Bytes, Problem> {
    let whole = to_bytes(request.into_body(), usize::MAX).await;
    whole.map_err(|error| Problem::internal(&error))
}

fn not_json() -> Problem {
    Problem::new(
        Code::UnsupportedMediaType,
        "Send JSON with the header `Content-Type: application/json`.",
    )
}

/// Reads the given fields, or reports every mistake.
pub(super) fn read<T: FromFields>(place: Place, given: Map<String, Value>) -> Result<T, Problem> {
    let mut fields = Fields::new(place, given);
    let read = T::read(&mut fields);
    fields.finish(read)
}

fn parse<T: FromFields>(bytes: &[u8]) -> Result<T, Problem> {
    match serde_json::from_slice(bytes) {
        Ok(Distinct(Value::Object(given))) => read(Place::Body, given),
        Ok(_) => {
            Err(Problem::new(Code::ValidationFailed, "The request body must be a JSON object."))
        }
        // The position only: the parser's message may quote the body.
        Err(error) => {
            let mistake = if error.is_data() { "duplicate key" } else { "syntax error" };
            let (line, column) = (error.line(), error.column());
            let detail = format!("There is a {mistake} at line {line}, column {column}.");
            Err(Problem::new(Code::MalformedJson, detail))
        }
    }
}

/// Whether a request announces JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    // Parameters may have any bytes.
    let essence = given.split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = essence.trim_ascii().to_ascii_lowercase();
    essence == b"application/json"
        || (essence.starts_with(b"application/") && essence.ends_with(b"+json"))
}

#[cfg(test)]
mod tests {
    use common::email::Email;

    use super::*;

    #[derive(Debug)]
    struct Sample {
        email: Email,
        keep: Option<bool>,
    }

    impl FromFields for Sample {
        fn read(fields: &mut Fields) -> Option<Self> {
            let (email, keep) = (fields.required("email"), fields.optional_bool("keep"));
            Some(Self { email: email?, keep })
        }
    }

    fn refused(body: &str) -> String {
        let problem = parse::<Sample>(body.as_bytes()).unwrap_err();
        let written: Value = serde_json::from_slice(&problem.write("id")).unwrap();
        let fields = written["errors"].as_array().into_iter().flatten();
        let mut fields: Vec<String> = fields
            .map(|error| format!(" {}:{}", error["field"], error["code"]).replace('"', ""))
            .collect();
        // The order of unknown fields depends on the features that serde_json is built with.
        fields.sort();
        format!("{}{}", written["code"].as_str().unwrap(), fields.concat())
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        assert_eq!(refused("{}"), "validation_failed email:required");
        assert_eq!(
            refused(r#"{"email":null,"keep":1}"#),
            "validation_failed email:required keep:invalid_type"
        );
        assert_eq!(refused(r#"{"email":{"$ne":null}}"#), "validation_failed email:invalid_type");
        assert_eq!(
            refused(r#"{"email":"x","a":1,"b":2}"#),
            "unknown_field a:unknown_field b:unknown_field email:invalid_format"
        );
        assert_eq!(refused("[]"), "validation_failed");
    }

    #[test]
    fn a_body_that_is_not_json_is_rejected() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let twice = r#"{"email":"a@example.com","email":"b@example.com"}"#;
        for body in
            ["", "{", "{\"email\":\"\\ud800\"}", "nul", "{\"keep\":1e999}", deep.as_str(), twice]
        {
            assert_eq!(refused(body), "malformed_json", "{}", &body[..body.len().min(40)]);
        }
        assert!(parse::<Sample>(b"{\"email\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_valid_body_is_parsed() {
        let sample: Sample = parse(br#"{"email":"a@example.com","keep":true}"#).unwrap();
        assert_eq!((sample.email.as_str(), sample.keep), ("a@example.com", Some(true)));
    }
}
