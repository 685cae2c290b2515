//! Mail templates: a subject, a text part and an HTML part.

use std::fmt::Write;

use minijinja::{
    AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, Value, value::Serde,
};
use serde::Serialize;

/// Name by which HTML parts extend the layout.
pub const LAYOUT: &str = "layout.html";
/// Name of the part whose values are escaped.
const HTML_PART: &str = "body.html";

/// The sources of one mail, embedded in the binary with `include_str!`.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    /// Name of the template, also its label in metrics.
    pub name: &'static str,
    /// Plain-text part: a line `Subject: …`, an empty line, and the text.
    pub text: &'static str,
    /// HTML part, in which values are escaped. May extend [`LAYOUT`].
    pub html: &'static str,
    /// Layout for HTML parts.
    pub layout: &'static str,
}

/// A rendered mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Name of the template.
    pub template: &'static str,
    /// Subject, on one line.
    pub subject: String,
    /// Plain-text part.
    pub text: String,
    /// HTML part.
    pub html: String,
}

/// The template is invalid or uses a value that was not given.
#[derive(Debug, thiserror::Error)]
#[error("mail template {name}: {source}")]
pub struct TemplateError {
    name: &'static str,
    source: minijinja::Error,
}

impl Template {
    /// Renders the mail with `values`. A missing value is an error and never renders as empty text.
    pub fn render(&self, values: &impl Serialize) -> Result<Rendered, TemplateError> {
        let (subject, text) = self.subject_and_text()?;
        Ok(Rendered {
            template: self.name,
            subject: self.part("subject.txt", subject, values)?,
            text: self.part("body.txt", text, values)?,
            html: self.part(HTML_PART, self.html, values)?,
        })
    }

    /// Split before they are rendered, so that no value can end the subject.
    fn subject_and_text(&self) -> Result<(&str, &str), TemplateError> {
        let head = self.text.strip_prefix("Subject: ");
        head.and_then(|head| head.split_once("\n\n")).ok_or_else(|| {
            let problem = "the text must start with a line `Subject: …` and an empty line";
            let source = minijinja::Error::new(ErrorKind::SyntaxError, problem);
            TemplateError { name: self.name, source }
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
        environment.set_formatter(write_value);
        let part_error = |source| TemplateError { name: self.name, source };
        environment.add_template(LAYOUT, self.layout).map_err(part_error)?;
        let rendered = environment.render_named_str(part, source, Value::from(Serde(values)));
        rendered.map_err(part_error)
    }
}

/// Writes a value, with what HTML needs escaped in HTML parts. The default also escapes `/`, and
/// programs that rewrite the links of a mail do not find their hosts then.
fn write_value(
    out: &mut Output<'_>,
    state: &mut State<'_, '_>,
    value: &Value,
) -> Result<(), minijinja::Error> {
    if *state.auto_escape() != AutoEscape::Html || value.is_safe() {
        write!(out, "{value}")?;
        return Ok(());
    }
    for character in value.to_string().chars() {
        match character {
            '&' => out.write_str("&amp;")?,
            '<' => out.write_str("&lt;")?,
            '>' => out.write_str("&gt;")?,
            '"' => out.write_str("&quot;")?,
            '\'' => out.write_str("&#39;")?,
            other => out.write_char(other)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: Template = Template {
        name: "test",
        text: "Subject: Hi {{ name }}\n\nHello {{ name }}\n",
        html: "{% extends 'layout.html' %}{% block body %}<p>Hello {{ name }}</p>{% endblock %}",
        layout: "<main>{% block body %}{% endblock %}</main>",
    };

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let rendered = TEMPLATE.render(&serde_json::json!({ "name": "<b>&Co" })).unwrap();
        assert_eq!(rendered.subject, "Hi <b>&Co");
        assert_eq!(rendered.text, "Hello <b>&Co");
        assert_eq!(rendered.html, "<main><p>Hello &lt;b&gt;&amp;Co</p></main>");
    }

    #[test]
    fn links_in_html_are_written_as_they_are() {
        let template = Template {
            html: "{% extends 'layout.html' %}{% block body %}<a href=\"{{ name }}\">{% endblock %}",
            ..TEMPLATE
        };
        let link = "https://app.example.com:8443/verify-email?token=a-b_0";
        let rendered = template.render(&serde_json::json!({ "name": link })).unwrap();
        assert_eq!(rendered.html, format!("<main><a href=\"{link}\"></main>"));
        let attack = "\"><script>alert('&')</script>";
        let rendered = template.render(&serde_json::json!({ "name": attack })).unwrap();
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;";
        assert_eq!(rendered.html, format!("<main><a href=\"{escaped}\"></main>"));
    }

    #[test]
    fn a_text_without_a_subject_is_an_error() {
        let template = Template { text: "Hello {{ name }}", ..TEMPLATE };
        let error = template.render(&serde_json::json!({ "name": "Ada" })).unwrap_err();
        assert!(error.to_string().contains("Subject: "), "{error}");
    }

    #[test]
    fn a_missing_value_is_an_error() {
        assert!(TEMPLATE.render(&serde_json::json!({})).is_err());
    }
}
