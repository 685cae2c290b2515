//! Previews of every mail with sample values, for review and for snapshot tests.

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use common::mail::Template;
use serde_json::Value;

use crate::templates::MAILS;

/// Samples of a mail: values by name of the preview.
type Samples = BTreeMap<String, Value>;

/// Every mail with its samples.
fn mails() -> anyhow::Result<Vec<(Template, Samples)>> {
    let read = |(template, samples): &(Template, &str)| {
        let samples = serde_json::from_str(samples)
            .with_context(|| format!("the samples of {}", template.name))?;
        Ok((*template, samples))
    };
    MAILS.iter().map(read).collect()
}

/// Writes every mail into a folder, creating it if necessary: the text with the subject, and the
/// HTML.
pub(crate) fn write(to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for (template, samples) in mails()? {
        for (name, values) in samples {
            let mail = template.render(&values)?;
            let text = format!("Subject: {}\n\n{}", mail.subject, mail.text);
            for (kind, content) in [("txt", text), ("html", mail.html)] {
                let path = to.join(format!("{name}.{kind}"));
                std::fs::write(&path, content).with_context(|| path.display().to_string())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The person in every sample, whose name HTML must escape.
    const NAME: &str = "Ada <b>Lovelace</b> & Co";

    #[test]
    fn every_mail_has_samples_which_render_and_escape() {
        for (template, samples) in mails().unwrap() {
            assert!(!samples.is_empty(), "templates/*/{}.json has no sample", template.name);
            for (name, values) in samples {
                let is_named = name.split('.').next() == Some(template.name);
                assert!(is_named, "the sample {name} is not named after {}", template.name);
                let mail = template.render(&values).unwrap();
                assert!(!mail.subject.trim().is_empty(), "{name}");
                assert!(
                    mail.text.contains(NAME),
                    "the text of {name} must show a name, and its sample must use {NAME:?}"
                );
                assert!(
                    mail.html.contains("&lt;b&gt;Lovelace") && !mail.html.contains("<b>Lovelace"),
                    "the HTML of {name} must show and escape the name {NAME:?}"
                );
                let link = values["link"].as_str().unwrap_or_default();
                assert!(mail.text.contains(link), "the text of {name} does not show its link");
            }
        }
    }
}
