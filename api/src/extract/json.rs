//! Request bodies: JSON objects read field by field into domain types.
//!
//! Reading goes on after a mistake, so that a client is told every field that is wrong at once,
//! and what is not asked for is refused by name.

use std::{fmt::Display, str::FromStr};

use axum::{
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use common::{
    crypto::InvalidPassword, email::InvalidEmail, id::InvalidId, name::InvalidName,
    networks::InvalidRange,
};
use domain::tenancy::{
    roles::{InvalidRole, UnknownPermission},
    tenant_security::{InvalidDomain, OutOfRange},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Argument, body};
use crate::problem::{Code, FieldError, Problem};

/// Mistakes told at most; a body with more is not an honest one.
const ERRORS_MAX: usize = 20;
/// The most of an unknown field's name that is repeated, in characters.
const NAME_CHARS_MAX: usize = 60;
/// The code of what is not asked for.
const UNKNOWN: &str = "unknown_field";
/// The most items of a list.
const LIST_ITEMS_MAX: usize = 1_000;

/// A body of type `T`.
pub(crate) struct Json<T>(pub(crate) T);

/// A body of type `T` that may be left out altogether, which is as good as `{}`.
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T> Argument for Json<T> {}

impl<T> Argument for OptionalJson<T> {}

/// A type that bodies are read into.
pub(crate) trait FromFields: Sized {
    /// Takes its fields; none when one was missing or not acceptable.
    fn read(fields: &mut Fields) -> Option<Self>;
}

/// An error that says what is wrong with a field, for people by its text and for machines by a
/// code.
pub(crate) trait Refusal: Display {
    /// For machines.
    fn code(&self) -> &'static str;
}

/// A text that is not one of the words a field may have.
pub(crate) struct NotAmong(pub(crate) &'static [&'static str]);

impl Display for NotAmong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "must be one of {}", self.0.join(", "))
    }
}

impl Refusal for NotAmong {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for InvalidEmail {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for InvalidName {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for InvalidId {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for InvalidRole {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for UnknownPermission {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for InvalidDomain {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for InvalidRange {
    fn code(&self) -> &'static str {
        "invalid_format"
    }
}

impl Refusal for OutOfRange {
    fn code(&self) -> &'static str {
        "out_of_range"
    }
}

impl Refusal for InvalidPassword {
    fn code(&self) -> &'static str {
        match self {
            Self::TooShort(_) => "too_short",
            Self::TooLong => "too_long",
        }
    }
}

/// A value that was given: null, or something.
pub(crate) struct Nullable<T>(pub(crate) Option<T>);

/// Where fields are given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Body,
    Query,
}

impl Place {
    /// As people call it, and what is in it.
    const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Body => ("body", "field"),
            Self::Query => ("query", "parameter"),
        }
    }
}

/// The fields of a body, or the parameters of a query, and what was found wrong with them so far.
pub(crate) struct Fields {
    place: Place,
    given: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    fn new(place: Place, given: Map<String, Value>) -> Self {
        Self { place, given, errors: Vec::new() }
    }

    /// A text that must be there and parse.
    pub(crate) fn required<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: Refusal,
    {
        self.required_as(name, |text| text.parse())
    }

    /// A text that must be there and be accepted by `parse`.
    pub(crate) fn required_as<T, E: Refusal>(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.required_text(name)?;
        self.parsed(name, text, parse)
    }

    /// A text that must be there, whatever it says.
    pub(crate) fn required_text(&mut self, name: &str) -> Option<String> {
        match self.given.remove(name) {
            None | Some(Value::Null) => self.refuse(name, "required", "is required"),
            Some(Value::String(text)) => Some(text),
            Some(_) => self.refuse(name, "invalid_type", "must be a text"),
        }
    }

    /// A text that parses, if it is there.
    pub(crate) fn optional<T: FromStr>(&mut self, name: &str) -> Option<T>
    where
        T::Err: Refusal,
    {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => self.parsed(name, text, |text| text.parse()),
            Some(_) => self.refuse(name, "invalid_type", "must be a text"),
        }
    }

    /// A text that is accepted by `parse`, if it is there.
    pub(crate) fn optional_as<T, E: Refusal>(
        &mut self,
        name: &str,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.optional_text(name)?;
        self.parsed(name, text, parse)
    }

    /// A text, whatever it says, if it is there.
    pub(crate) fn optional_text(&mut self, name: &str) -> Option<String> {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => self.refuse(name, "invalid_type", "must be a text"),
        }
    }

    /// A list of texts that must be there and parse, each of them.
    pub(crate) fn required_list<T: FromStr>(&mut self, name: &str) -> Option<Vec<T>>
    where
        T::Err: Refusal,
    {
        self.required_list_up_to(name, LIST_ITEMS_MAX)
    }

    /// As [`Fields::required_list`], of at most `max` items.
    pub(crate) fn required_list_up_to<T: FromStr>(
        &mut self,
        name: &str,
        max: usize,
    ) -> Option<Vec<T>>
    where
        T::Err: Refusal,
    {
        let items = self.required_items(name, max)?;
        items.into_iter().map(|item| self.item(name, item)).collect()
    }

    /// As [`Fields::required_list_up_to`], of at least one item.
    pub(crate) fn required_some<T: FromStr>(&mut self, name: &str, max: usize) -> Option<Vec<T>>
    where
        T::Err: Refusal,
    {
        match self.required_list_up_to::<T>(name, max) {
            Some(items) if items.is_empty() => {
                self.refuse(name, "too_short", "must have at least one item")
            }
            items => items,
        }
    }

    /// A list of objects that must be there, each of them read by `read`; at most `max`.
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
        T::Err: Refusal,
    {
        match item {
            Value::String(text) => self.parsed(name, text, |text| text.parse()),
            _ => self.refuse(name, "invalid_type", "must be a list of texts"),
        }
    }

    /// Yes or no, which must be there.
    pub(crate) fn required_bool(&mut self, name: &str) -> Option<bool> {
        match self.given.remove(name) {
            None | Some(Value::Null) => self.refuse(name, "required", "is required"),
            Some(Value::Bool(answer)) => Some(answer),
            Some(_) => self.refuse(name, "invalid_type", "must be true or false"),
        }
    }

    /// A whole number, or null for none: one of them must be there.
    pub(crate) fn nullable_number<T: TryFrom<i64>>(&mut self, name: &str) -> Option<Nullable<T>>
    where
        T::Error: Refusal,
    {
        match self.given.remove(name) {
            None => self.refuse(name, "required", "is required; null for none"),
            Some(Value::Null) => Some(Nullable(None)),
            Some(Value::Number(number)) => match number.as_i64() {
                Some(number) => {
                    self.accepted(name, T::try_from(number)).map(|number| Nullable(Some(number)))
                }
                None => self.refuse(name, "invalid_type", "must be a whole number"),
            },
            Some(_) => self.refuse(name, "invalid_type", "must be a number or null"),
        }
    }

    /// A text that parses, or null for none: one of them must be there.
    pub(crate) fn nullable<T: FromStr>(&mut self, name: &str) -> Option<Nullable<T>>
    where
        T::Err: Refusal,
    {
        match self.given.remove(name) {
            None => self.refuse(name, "required", "is required; null for none"),
            Some(Value::Null) => Some(Nullable(None)),
            Some(Value::String(text)) => {
                self.parsed(name, text, |text| text.parse()).map(|value| Nullable(Some(value)))
            }
            Some(_) => self.refuse(name, "invalid_type", "must be a text or null"),
        }
    }

    /// Yes or no, if it is there.
    pub(crate) fn optional_bool(&mut self, name: &str) -> Option<bool> {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::Bool(answer)) => Some(answer),
            Some(_) => self.refuse(name, "invalid_type", "must be true or false"),
        }
    }

    /// An object as `T` describes it, if it is there: what another specification says, not ours.
    pub(crate) fn optional_object<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        match self.given.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::Object(object)) => match serde_json::from_value(Value::Object(object)) {
                Ok(read) => Some(read),
                Err(error) => self.refuse(
                    name,
                    "invalid_format",
                    &format!("is not what the specification says: {error}"),
                ),
            },
            Some(_) => self.refuse(name, "invalid_type", "must be an object"),
        }
    }

    /// As [`Self::optional_object`], and must be there.
    pub(crate) fn required_object<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if self.given.get(name).is_none_or(Value::is_null) {
            return self.refuse(name, "required", "is required");
        }
        self.optional_object(name)
    }

    fn parsed<T, E: Refusal>(
        &mut self,
        name: &str,
        text: String,
        parse: impl FnOnce(String) -> Result<T, E>,
    ) -> Option<T> {
        self.accepted(name, parse(text))
    }

    fn accepted<T, E: Refusal>(&mut self, name: &str, read: Result<T, E>) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(refusal) => self.refuse(name, refusal.code(), &refusal.to_string()),
        }
    }

    fn refuse<T>(&mut self, name: &str, code: &'static str, message: &str) -> Option<T> {
        self.errors.push(FieldError { field: name.to_owned(), code, message: message.to_owned() });
        None
    }

    fn refuse_unknown(&mut self) {
        let (_, field) = self.place.names();
        let message = format!("is not a {field} of this request");
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

    /// What was read, unless anything was wrong.
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
            format!("The {place} has {field}s that mean nothing here: {}.", unknown.join(", "));
        Problem::unknown_fields(detail, self.errors)
    }
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            body::discard(request);
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "Send `Content-Type: application/json`.",
            ));
        }
        let bytes = body::read(request.into_body()).await?;
        parse(&bytes).map(Self)
    }
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let is_json = is_json(request.headers());
        let bytes = body::read(request.into_body()).await?;
        if bytes.is_empty() || (is_json && bytes.trim_ascii() == b"null") {
            return parse(b"{}").map(Self);
        }
        if is_json {
            return parse(&bytes).map(Self);
        }
        Err(Problem::new(Code::UnsupportedMediaType, "Send `Content-Type: application/json`."))
    }
}

/// Reads what was given, or tells every mistake.
pub(super) fn read<T: FromFields>(place: Place, given: Map<String, Value>) -> Result<T, Problem> {
    let mut fields = Fields::new(place, given);
    let read = T::read(&mut fields);
    fields.finish(read)
}

fn parse<T: FromFields>(bytes: &[u8]) -> Result<T, Problem> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(given)) => read(Place::Body, given),
        Ok(_) => Err(Problem::new(Code::ValidationFailed, "The body must be a JSON object.")),
        // The parser's words quote nothing of the body, only where it stopped.
        Err(error) => Err(Problem::new(
            Code::MalformedJson,
            format!("Reading stopped at line {}, column {}.", error.line(), error.column()),
        )),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json"
        || (essence.starts_with("application/") && essence.ends_with("+json"))
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
        // Unknown ones come as they were sent, or sorted: how objects are kept is up to who else is
        // built with us.
        fields.sort();
        format!("{}{}", written["code"].as_str().unwrap(), fields.concat())
    }

    #[test]
    fn every_mistake_is_told_at_once() {
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
    fn what_is_not_json_is_told_so() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        for body in ["", "{", "{\"email\":\"\\ud800\"}", "nul", "{\"keep\":1e999}", deep.as_str()] {
            assert_eq!(refused(body), "malformed_json", "{}", &body[..body.len().min(40)]);
        }
        assert!(parse::<Sample>(b"{\"email\":\"\xff\"}").is_err());
    }

    #[test]
    fn an_acceptable_body_is_read() {
        let sample: Sample = parse(br#"{"email":"a@example.com","keep":true}"#).unwrap();
        assert_eq!((sample.email.as_str(), sample.keep), ("a@example.com", Some(true)));
    }
}
