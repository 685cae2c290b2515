//! The password policy.
//!
//! [`Password`] itself requires only a minimum length, and no mixture of characters (OWASP ASVS
//! 6.2.5, NIST SP 800-63B §3.1.1.2). This policy rejects what attackers try first: common
//! passwords, those made of the person's own data (ASVS 6.2.4, 6.2.11), and those in a list of
//! breached ones (6.2.12).

use std::{fmt::Display, path::Path, sync::Arc};

use common::{
    crypto::{HashError, Hasher, InvalidPassword, Password, PasswordHash},
    db::{Change, DbError, TenantScope, Txn},
    email::Email,
    id::{SessionId, UserId},
    revocations::{self, Revoked},
};
use jobs::{Job, Queue, stage};
use mongodb::bson::DateTime;
use serde::{Deserialize, Serialize};
use zxcvbn::zxcvbn;

use crate::{
    activity::{Action, Entry},
    identity::{email_changes::EmailChange, password_resets::PasswordReset},
    people::{sessions::Session, users::User},
    queues,
    tenancy::tenants::Tenant,
};

mod breached;

pub use breached::{BreachList, BuiltList, ListError};

/// Minimum length of words that are searched for in passwords; shorter ones occur in many.
const WORD_CHARS_MIN: usize = 3;
/// Length up to which a password's strength is estimated: a longer one is strong enough, and the
/// cost of the estimate grows with the square of the length.
const EXAMINED_CHARS_MAX: usize = 40;

/// The strictness of the checks.
#[derive(Debug)]
pub struct Policy {
    score_min: u8,
    breached: Option<BreachList>,
}

/// What is known about the person who sets a password, and thus to an attacker, and what their
/// tenants require.
#[derive(Debug, Default)]
pub struct Context {
    words: Vec<String>,
    chars_min: usize,
}

/// Why a password was not hashed.
#[derive(Debug, thiserror::Error)]
pub enum NotSet {
    /// It is too short for one of their tenants.
    #[error(transparent)]
    Invalid(#[from] InvalidPassword),
    /// The policy rejects it.
    #[error(transparent)]
    TooWeak(#[from] TooWeak),
    /// It could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Why the policy rejects a password, in words for the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooWeak {
    /// It can be found with few guesses.
    #[error("is easy to guess. {0}")]
    Guessable(String),
    /// It is on the list of breached passwords.
    #[error(
        "appears in a list of passwords stolen from other services, which attackers try first. Choose one that you use nowhere else."
    )]
    Breached,
}

impl Context {
    /// Adds the parts of an email address.
    #[must_use]
    pub fn with_email(mut self, email: &Email) -> Self {
        self.add(email.as_str());
        self.add(email.as_str().split('@').next().unwrap_or_default());
        self
    }

    /// Adds the parts of a name of a person or a tenant.
    #[must_use]
    pub fn with_name(mut self, name: &impl Display) -> Self {
        self.add(&name.to_string());
        self
    }

    /// Adds a tenant of theirs: the parts of its name, and the length that it requires.
    #[must_use]
    pub fn with_tenant(mut self, tenant: &Tenant) -> Self {
        let asked = tenant
            .security
            .password_min_length
            .and_then(|length| usize::try_from(length.get()).ok());
        self.chars_min = self.chars_min.max(asked.unwrap_or_default());
        self.with_name(&tenant.name)
    }

    /// Adds the whole text, its words, and all its words joined.
    fn add(&mut self, text: &str) {
        let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).collect();
        let joined = words.concat();
        let known = words.into_iter().chain([text, joined.as_str()]).map(str::to_lowercase);
        let known: Vec<String> =
            known.filter(|word| word.chars().count() >= WORD_CHARS_MIN).collect();
        self.words.extend(known);
    }
}

impl Policy {
    /// A policy with a minimum zxcvbn score (0 to 4), and the list of breached passwords in a file,
    /// if any. Fails if the list cannot be read.
    pub fn new(score_min: u8, breached: Option<&Path>) -> Result<Self, ListError> {
        Ok(Self { score_min, breached: breached.map(BreachList::read).transpose()? })
    }

    /// Checks a password for the person of `context`, and hashes it.
    pub async fn hash(
        self: &Arc<Self>,
        hasher: &Hasher,
        password: Password,
        context: Context,
    ) -> Result<PasswordHash, NotSet> {
        password.at_least(context.chars_min)?;
        let policy = Arc::clone(self);
        // Checking takes time too, so it runs where concurrency is bounded.
        let checked =
            hasher.hash_if(password, move |password| policy.check(password, &context)).await?;
        Ok(checked?)
    }

    /// Whether the person of `context` may set `password`.
    fn check(&self, password: &Password, context: &Context) -> Result<(), TooWeak> {
        let known: Vec<&str> = context.words.iter().map(String::as_str).collect();
        let examined: String = password.expose().chars().take(EXAMINED_CHARS_MAX).collect();
        let estimate = zxcvbn(&examined, &known);
        if u8::from(estimate.score()) < self.score_min {
            return Err(TooWeak::Guessable(advice(estimate.feedback())));
        }
        match &self.breached {
            Some(list) if list.contains(password) => Err(TooWeak::Breached),
            _ => Ok(()),
        }
    }
}

/// Advice for a better password, which reveals nothing of this one.
fn advice(feedback: Option<&zxcvbn::feedback::Feedback>) -> String {
    let told = feedback.map(|feedback| {
        let warning = feedback.warning().map(|warning| warning.to_string());
        let suggestions = feedback.suggestions().iter().map(ToString::to_string);
        warning.into_iter().chain(suggestions).collect::<Vec<_>>().join(" ")
    });
    told.filter(|told| !told.is_empty())
        .unwrap_or_else(|| "Use a few words that do not belong together.".to_owned())
}

/// Notifies a user that their password was changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendPasswordChanged {
    pub user: UserId,
    /// How it was changed.
    pub by: ChangedBy,
}

/// How a password was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedBy {
    /// With a password reset link.
    Reset,
    /// By the signed-in user, who knew the previous one.
    Owner,
}

impl Job for SendPasswordChanged {
    const KIND: &'static str = "password.send_changed";
    const QUEUE: Queue = queues::EMAIL;
}

/// Changes the password of a signed-in user, who knows the previous one.
#[derive(Debug)]
pub struct ChangePassword {
    pub user: UserId,
    /// When the password that the caller gave was set.
    pub before: Option<DateTime>,
    /// The new password.
    pub after: PasswordHash,
    /// The session that survives.
    pub kept: SessionId,
    /// The tenant they are working in, if any.
    pub scope: Option<TenantScope>,
}

impl Change for ChangePassword {
    type Output = bool;
    type Error = DbError;

    /// False if another password was set since the check.
    async fn apply(&self, txn: &mut Txn) -> Result<bool, DbError> {
        let Some(user) = User::replace_password(txn, self.user, self.before, &self.after).await?
        else {
            return Ok(false);
        };
        // Even if no session ends: the remaining one belongs to a user with another password.
        revocations::note(txn, Revoked::User(user.id));
        // Pending links were requested under the old password.
        PasswordReset::forget_of(txn, user.id).await?;
        EmailChange::forget_of(txn, user.id).await?;
        Session::revoke_all(txn, user.id, Some(self.kept)).await?;
        Entry::new(Action::UserPasswordChanged, user.id)
            .by(user.id)
            .record_in(txn, self.scope)
            .await?;
        let job = SendPasswordChanged { user: user.id, by: ChangedBy::Owner };
        stage(txn, self.scope.map(TenantScope::tenant_id), &job).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(password: &str) -> Result<(), TooWeak> {
        let context =
            Context::default().with_email(&"ada.lovelace@engines.example".parse().unwrap());
        let context = context.with_name(&"Augusta King").with_name(&"Difference & Analytical");
        Policy::new(3, None)
            .unwrap()
            .check(&Password::chosen(password.to_owned()).unwrap(), &context)
    }

    #[test]
    fn common_passwords_are_rejected_with_advice() {
        for common in [
            "password",
            "password123",
            "12345678",
            "qwertyuiop",
            "iloveyou1",
            "Passw0rd!",
            "aaaaaaaaaaaa",
            "19840317",
        ] {
            let refusal = verdict(common).unwrap_err().to_string();
            assert!(
                refusal.ends_with('.') && refusal.len() > 40 && !refusal.contains("Passw0rd"),
                "{common}: {refusal}"
            );
        }
    }

    #[test]
    fn passwords_made_of_personal_data_are_rejected() {
        for known in [
            "ada.lovelace@engines.example",
            "adalovelace1",
            "Lovelace2024",
            "augustaking",
            "ecalevol!",
            "analytical1",
            "4ugust4king",
        ] {
            assert!(matches!(verdict(known), Err(TooWeak::Guessable(_))), "{known}");
        }
    }

    #[test]
    fn long_passwords_of_any_characters_are_accepted() {
        for fine in [
            "correct horse battery staple",
            "correct horse battery",
            "пароль из нескольких слов",
            "k7!vq-Zr2#mX",
            "🔑 and a 🐎 and a 🔋",
        ] {
            assert_eq!(verdict(fine), Ok(()), "{fine}");
        }
    }

    #[test]
    fn the_slowest_passwords_are_checked_quickly() {
        let longest = |unit: &str| unit.chars().cycle().take(1000).collect::<String>();
        for unit in [
            "4@8({[<369!1|i0$5+7%2z",
            "a",
            "password",
            "1984-03-17",
            "qwertyuiopasdfghjkl",
            "4@8(3690$57+zZ",
        ] {
            let begun = std::time::Instant::now();
            let _ = verdict(&longest(unit));
            // Limit for an unoptimised build on a busy machine; usually it takes a hundredth of
            // that.
            assert!(
                begun.elapsed() < std::time::Duration::from_secs(2),
                "{unit}: {:?}",
                begun.elapsed()
            );
        }
    }
}
