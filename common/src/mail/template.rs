//! Templates of mails: a subject, a text part and an HTML part.

use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

/// The name that HTML parts extend their layout by.
pub const LAYOUT: &str = "layout.html";
/// The name of the part whose values are escaped.
const HTML_PART: &str = "body.html";

/// The sources of one mail, embedded in the binary with `include_str!`.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Short name, also the metric's label.
    pub name: &'static str,
    /// One line.
    pub subject: &'static str,
    /// The plain part.
    pub text: &'static str,
    /// The HTML part; values are escaped. It may extend [`LAYOUT`].
    pub html: &'static str,
    /// What HTML parts extend.
    pub layout: &'static str,
}

/// A mail ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The template's name.
    pub template: &'static str,
    /// One line.
    pub subject: String,
    /// The plain part.
    pub text: String,
    /// The HTML part.
    pub html: String,
}

/// A template that does not parse, or a value it names that was not given.
#[derive(Debug, thiserror::Error)]
#[error("mail template {name}: {source}")]
pub struct TemplateError {
    name: &'static str,
    source: minijinja::Error,
}

impl Template {
    /// Fills in `values`. A name without a value is an error, never an empty space in a mail.
    ///
    /// # Errors
    /// See [`TemplateError`].
    pub fn render(&self, values: &impl Serialize) -> Result<Rendered, TemplateError> {
        Ok(Rendered {
            template: self.name,
            subject: self.part("subject.txt", self.subject, values)?,
            text: self.part("body.txt", self.text, values)?,
            html: self.part(HTML_PART, self.html, values)?,
        })
    }

    fn part(
        &self,
        part: &str,
        source: &str,
        values: &impl Serialize,
    ) -> Result<String, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|part| {
            if part == HTML_PART || part == LAYOUT { AutoEscape::Html } else { AutoEscape::None }
        });
        let part_error = |source| TemplateError { name: self.name, source };
        environment.add_template(LAYOUT, self.layout).map_err(part_error)?;
        let rendered = environment.render_named_str(
            part,
            source,
            minijinja::value::Value::from(minijinja::value::Serde(values)),
        );
        rendered.map_err(part_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: Template = Template {
        name: "test",
        subject: "Hello {{ name }}",
        text: "Hello {{ name }}",
        html: "{% extends 'layout.html' %}{% block body %}<p>Hello {{ name }}</p>{% endblock %}",
        layout: "<main>{% block body %}{% endblock %}</main>",
    };

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let rendered = TEMPLATE.render(&serde_json::json!({ "name": "<b>&Co" })).unwrap();
        assert_eq!(rendered.text, "Hello <b>&Co");
        assert_eq!(rendered.html, "<main><p>Hello &lt;b&gt;&amp;Co</p></main>");
    }

    #[test]
    fn a_missing_value_is_an_error() {
        assert!(TEMPLATE.render(&serde_json::json!({})).is_err());
    }
}
