//! The mails we send. Their words lie in `worker/templates`.

use common::mail::Template;

/// A template made of the three files of its name.
macro_rules! template {
    ($area:literal, $name:literal) => {
        Template {
            name: $name,
            subject: include_str!(concat!("../templates/", $area, "/", $name, ".subject.txt")),
            text: include_str!(concat!("../templates/", $area, "/", $name, ".txt")),
            html: include_str!(concat!("../templates/", $area, "/", $name, ".html")),
            layout: include_str!("../templates/layout.html"),
        }
    };
}

/// The link that verifies an address.
pub(crate) const VERIFICATION: Template = template!("identity", "verification");
/// Somebody asked for an account where there is one.
pub(crate) const ACCOUNT_EXISTS: Template = template!("identity", "account_exists");
/// A refresh token was used twice.
pub(crate) const REUSE_ALARM: Template = template!("identity", "session_reuse_alarm");
/// Somebody is invited into a tenant.
pub(crate) const INVITATION: Template = template!("tenancy", "invitation");
/// An invitation expires soon.
pub(crate) const INVITATION_REMINDER: Template = template!("tenancy", "invitation_reminder");
/// A member followed an invite link.
pub(crate) const ALREADY_MEMBER: Template = template!("tenancy", "already_member");
/// A member has another role now.
pub(crate) const ROLE_CHANGED: Template = template!("tenancy", "role_changed");
/// Somebody was removed from a tenant.
pub(crate) const MEMBER_REMOVED: Template = template!("tenancy", "member_removed");
/// A member is offered the ownership.
pub(crate) const OWNERSHIP_OFFER: Template = template!("tenancy", "ownership_offer");
/// Ownership was handed on.
pub(crate) const OWNERSHIP_TRANSFERRED: Template = template!("tenancy", "ownership_transferred");
/// The link that sets a new password.
pub(crate) const PASSWORD_RESET: Template = template!("identity", "password_reset");
/// The password is another one now.
pub(crate) const PASSWORD_CHANGED: Template = template!("identity", "password_changed");
/// The link by which the old address confirms or refuses a new one.
pub(crate) const EMAIL_CHANGE_OLD: Template = template!("identity", "email_change_old");
/// The link by which the new address confirms itself.
pub(crate) const EMAIL_CHANGE_NEW: Template = template!("identity", "email_change_new");
/// Somebody wants the address for another account.
pub(crate) const EMAIL_TAKEN: Template = template!("identity", "email_taken");
/// The account has another address now.
pub(crate) const EMAIL_CHANGED: Template = template!("identity", "email_changed");
/// A sign-in from somewhere new.
pub(crate) const NEW_SIGN_IN: Template = template!("identity", "new_sign_in");
/// Others try to guess the password.
pub(crate) const SIGN_IN_THROTTLED: Template = template!("identity", "sign_in_throttled");
/// The second factors are others now.
pub(crate) const MFA_CHANGED: Template = template!("identity", "mfa_changed");
