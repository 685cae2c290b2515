//! The mails we send. Their words lie in `worker/templates`.

use common::mail::Template;

/// A template made of the three files of its name.
macro_rules! template {
    ($name:literal) => {
        Template {
            name: $name,
            subject: include_str!(concat!("../templates/", $name, ".subject.txt")),
            text: include_str!(concat!("../templates/", $name, ".txt")),
            html: include_str!(concat!("../templates/", $name, ".html")),
            layout: include_str!("../templates/layout.html"),
        }
    };
}

/// The link that verifies an address.
pub(crate) const VERIFICATION: Template = template!("verification");
/// Somebody asked for an account where there is one.
pub(crate) const ACCOUNT_EXISTS: Template = template!("account_exists");
/// A refresh token was used twice.
pub(crate) const REUSE_ALARM: Template = template!("session_reuse_alarm");
/// Somebody is invited into a tenant.
pub(crate) const INVITATION: Template = template!("invitation");
/// An invitation expires soon.
pub(crate) const INVITATION_REMINDER: Template = template!("invitation_reminder");
/// A member is offered the ownership.
pub(crate) const OWNERSHIP_OFFER: Template = template!("ownership_offer");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_renders_and_escapes() {
        let values = serde_json::json!({
            "name": "<b>Ann</b>", "tenant": "A & B", "link": "https://x.test/?token=t", "hours": 24,
            "device": "<i>Mozilla</i>", "since": "2026-01-31T18:00:00Z",
            "inviter": "<b>Ann</b>", "role": "Member", "until": "2026-02-07T18:00:00Z",
        });
        for template in [VERIFICATION, ACCOUNT_EXISTS, REUSE_ALARM, INVITATION, INVITATION_REMINDER, OWNERSHIP_OFFER] {
            let mail = template.render(&values).unwrap();
            assert!(!mail.subject.trim().is_empty(), "{}", template.name);
            assert!(mail.html.contains("&lt;b&gt;Ann") && !mail.html.contains("<b>Ann"), "{}", mail.html);
        }
        assert!(VERIFICATION.render(&values).unwrap().text.contains("https://x.test/?token=t"));
    }
}
