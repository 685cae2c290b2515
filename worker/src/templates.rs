//! The mail templates; their texts are in `worker/templates`.

use common::mail::Template;

/// A template from its three files.
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

/// The email verification link.
pub(crate) const VERIFICATION: Template = template!("identity", "verification");
/// A registration with an email address that has an account.
pub(crate) const ACCOUNT_EXISTS: Template = template!("identity", "account_exists");
/// A refresh token was used twice.
pub(crate) const REUSE_ALARM: Template = template!("identity", "session_reuse_alarm");
/// An invitation to a tenant.
pub(crate) const INVITATION: Template = template!("tenancy", "invitation");
/// An invitation expires soon.
pub(crate) const INVITATION_REMINDER: Template = template!("tenancy", "invitation_reminder");
/// A member followed an invite link.
pub(crate) const ALREADY_MEMBER: Template = template!("tenancy", "already_member");
/// The role of a member was changed.
pub(crate) const ROLE_CHANGED: Template = template!("tenancy", "role_changed");
/// A member was removed from a tenant.
pub(crate) const MEMBER_REMOVED: Template = template!("tenancy", "member_removed");
/// An offer of ownership.
pub(crate) const OWNERSHIP_OFFER: Template = template!("tenancy", "ownership_offer");
/// Ownership was transferred.
pub(crate) const OWNERSHIP_TRANSFERRED: Template = template!("tenancy", "ownership_transferred");
/// The password reset link.
pub(crate) const PASSWORD_RESET: Template = template!("identity", "password_reset");
/// The password was changed.
pub(crate) const PASSWORD_CHANGED: Template = template!("identity", "password_changed");
/// The link with which the old email address confirms or rejects a new one.
pub(crate) const EMAIL_CHANGE_OLD: Template = template!("identity", "email_change_old");
/// The link with which the new email address is confirmed.
pub(crate) const EMAIL_CHANGE_NEW: Template = template!("identity", "email_change_new");
/// Someone tried to use the email address for another account.
pub(crate) const EMAIL_TAKEN: Template = template!("identity", "email_taken");
/// The email address of the account was changed.
pub(crate) const EMAIL_CHANGED: Template = template!("identity", "email_changed");
/// A sign-in from a new device or network.
pub(crate) const NEW_SIGN_IN: Template = template!("identity", "new_sign_in");
/// Someone tries to guess the password.
pub(crate) const SIGN_IN_THROTTLED: Template = template!("identity", "sign_in_throttled");
/// The second factors were changed.
pub(crate) const MFA_CHANGED: Template = template!("identity", "mfa_changed");
