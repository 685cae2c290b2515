//! Previews of every mail with sample values, for review and for snapshot tests.

use std::path::Path;

use anyhow::Context;
use common::mail::Template;
use domain::identity::mfa::MfaChange;
use serde_json::{Value, json};

use crate::{
    handlers::identity::mfa::told,
    templates::{
        ACCOUNT_EXISTS, ALREADY_MEMBER, EMAIL_CHANGE_NEW, EMAIL_CHANGE_OLD, EMAIL_CHANGED,
        EMAIL_TAKEN, INVITATION, INVITATION_REMINDER, MEMBER_REMOVED, MFA_CHANGED, NEW_SIGN_IN,
        OWNERSHIP_OFFER, OWNERSHIP_TRANSFERRED, PASSWORD_CHANGED, PASSWORD_RESET, REUSE_ALARM,
        ROLE_CHANGED, SIGN_IN_THROTTLED, VERIFICATION,
    },
};

/// A sample mail: the name of its files, its template and its values.
struct Sample {
    name: &'static str,
    template: Template,
    values: Value,
}

/// A sample of every template, and of each variant of its text. The person's name contains characters
/// that HTML must escape.
fn samples() -> Vec<Sample> {
    let name = "Ada <b>Lovelace</b> & Co";
    let (origin, device) = ("https://app.example.com", "Firefox on Linux");
    let since = "2026-01-31T18:00:00Z";
    let verification = |contested: bool| {
        let link = format!("{origin}/verify-email?token=c2FtcGxl");
        json!({ "name": name, "tenant": "Analytical Engines", "link": link, "hours": 24, "contested": contested })
    };
    let changed = |by_link: bool| json!({ "name": name, "by_link": by_link, "link": format!("{origin}/forgot-password") });
    let forgot = format!("{origin}/forgot-password");
    let factors = |change| json!({ "name": name, "change": told(change), "by_operator": change == MfaChange::Reset, "link": forgot });
    let new_sign_in = json!({ "name": name, "device": device, "address": "2001:db8::7", "since": since, "link": forgot });
    let reset = json!({ "name": name, "link": format!("{origin}/reset-password?token=c2FtcGxl"), "minutes": 60 });
    let throttled = json!({ "name": name, "minutes": 15, "days": 30, "link": forgot });
    let link = format!("{origin}/invitations/accept?token=c2FtcGxl");
    let invitation = json!({ "inviter": name, "tenant": "Analytical Engines", "role": "Member", "link": link, "hours": 72 });
    let offer = json!({ "name": name, "inviter": "Charles", "tenant": "Analytical Engines", "until": since, "link": origin });
    let transferred = |is_giver: bool| json!({ "name": name, "other": "Charles", "tenant": "Analytical Engines", "is_giver": is_giver, "link": forgot });
    let role_changed =
        json!({ "name": name, "tenant": "Analytical Engines", "role": "Member", "link": origin });
    let change = json!({ "name": name, "email": "ada@example.org", "link": format!("{origin}/change-email?token=c2FtcGxl"), "hours": 24 });
    let moved = |is_old: bool| json!({ "name": name, "is_old": is_old, "link": origin });
    let sample = |name, template, values| Sample { name, template, values };
    vec![
        sample("account_exists", ACCOUNT_EXISTS, json!({ "name": name })),
        sample(
            "already_member",
            ALREADY_MEMBER,
            json!({ "name": name, "tenant": "Analytical Engines" }),
        ),
        sample("email_change_new", EMAIL_CHANGE_NEW, change.clone()),
        sample("email_change_old", EMAIL_CHANGE_OLD, change),
        sample("email_changed.new", EMAIL_CHANGED, moved(false)),
        sample("email_changed.old", EMAIL_CHANGED, moved(true)),
        sample("email_taken", EMAIL_TAKEN, json!({ "name": name })),
        sample("invitation", INVITATION, invitation.clone()),
        sample("invitation_reminder", INVITATION_REMINDER, invitation),
        sample(
            "member_removed",
            MEMBER_REMOVED,
            json!({ "name": name, "tenant": "Analytical Engines" }),
        ),
        sample("mfa_changed.added", MFA_CHANGED, factors(MfaChange::TotpAdded)),
        sample("mfa_changed.recovery_code_used", MFA_CHANGED, factors(MfaChange::RecoveryCodeUsed)),
        sample("mfa_changed.reset", MFA_CHANGED, factors(MfaChange::Reset)),
        sample("new_sign_in", NEW_SIGN_IN, new_sign_in),
        sample("ownership_offer", OWNERSHIP_OFFER, offer),
        sample("ownership_transferred.giver", OWNERSHIP_TRANSFERRED, transferred(true)),
        sample("ownership_transferred.taker", OWNERSHIP_TRANSFERRED, transferred(false)),
        sample("password_changed.by_link", PASSWORD_CHANGED, changed(true)),
        sample("password_changed.by_owner", PASSWORD_CHANGED, changed(false)),
        sample("password_reset", PASSWORD_RESET, reset),
        sample("role_changed", ROLE_CHANGED, role_changed),
        sample(
            "session_reuse_alarm",
            REUSE_ALARM,
            json!({ "name": name, "device": device, "since": since, "link": forgot }),
        ),
        sample("sign_in_throttled", SIGN_IN_THROTTLED, throttled),
        sample("verification", VERIFICATION, verification(false)),
        sample("verification.contested", VERIFICATION, verification(true)),
    ]
}

/// Writes every mail into a folder, creating it if necessary: the text with the subject, and the
/// HTML.
pub(crate) fn write(to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for sample in samples() {
        let mail = sample.template.render(&sample.values)?;
        let text = format!("Subject: {}\n\n{}", mail.subject.trim_end(), mail.text);
        for (kind, content) in [("txt", text), ("html", mail.html)] {
            let path = to.join(format!("{}.{kind}", sample.name));
            std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_template_has_a_sample_which_renders_and_escapes() {
        let sampled: BTreeSet<&str> = samples().iter().map(|sample| sample.template.name).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        let areas = ["identity", "tenancy"].map(|area| std::fs::read_dir(folder.join(area)));
        let files = areas
            .into_iter()
            .flat_map(Result::unwrap)
            .map(|file| file.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> =
            files.filter_map(|file| file.strip_suffix(".subject.txt").map(str::to_owned)).collect();
        assert_eq!(sampled, there.iter().map(String::as_str).collect());
        for sample in samples() {
            let mail = sample.template.render(&sample.values).unwrap();
            assert!(!mail.subject.trim().is_empty(), "{}", sample.name);
            assert!(
                mail.html.contains("&lt;b&gt;Lovelace") && !mail.html.contains("<b>Lovelace"),
                "{}",
                mail.html
            );
            assert!(mail.text.contains("Ada <b>Lovelace</b> & Co"), "{}", mail.text);
            let link = sample.values["link"].as_str().unwrap_or_default();
            assert!(mail.text.contains(link), "{}", mail.text);
        }
    }
}
