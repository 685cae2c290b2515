//! Which passwords may be set.
//!
//! Length is all that a [`Password`] itself asks for, and no mixture of characters (OWASP ASVS
//! 6.2.5, NIST SP 800-63B §3.1.1.2). What it must not be is known to who guesses: common, made of
//! what everybody knows of the person (ASVS 6.2.4, 6.2.11), or in a list of breached ones (6.2.12).

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
    identity::{
        email_changes::EmailChange, password_resets::PasswordReset, sessions::Session, users::User,
    },
    tenancy::tenants::Tenant,
};

mod breached;

pub use breached::{BreachList, BuiltList, ListError};

/// The fewest characters of a word that is looked for in passwords; shorter ones are in many.
const WORD_CHARS_MIN: usize = 3;
/// As far as it is looked how hard a password is to guess: who gets there has words enough, and the
/// time that looking takes grows with the square of the length.
const EXAMINED_CHARS_MAX: usize = 40;

/// The strictness that a password is looked at with.
#[derive(Debug)]
pub struct Policy {
    score_min: u8,
    breached: Option<BreachList>,
}

/// Whoever sets a password: what is known of them, and so to who guesses it, and what their tenants
/// ask for.
#[derive(Debug, Default)]
pub struct Context {
    words: Vec<String>,
    chars_min: usize,
}

/// Why a password was not hashed to be set.
#[derive(Debug, thiserror::Error)]
pub enum NotSet {
    /// It is too short for one of their tenants.
    #[error(transparent)]
    Invalid(#[from] InvalidPassword),
    /// It may not be set.
    #[error(transparent)]
    TooWeak(#[from] TooWeak),
    /// It could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Why a password may not be set, in words for the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooWeak {
    /// Few guesses find it.
    #[error("is easy to guess. {0}")]
    Guessable(String),
    /// It is known to many.
    #[error(
        "was stolen from another service and is on the lists that guessing begins with. Choose one that you use nowhere else."
    )]
    Breached,
}

impl Context {
    /// What an address tells.
    #[must_use]
    pub fn with_email(mut self, email: &Email) -> Self {
        self.add(email.as_str());
        self.add(email.as_str().split('@').next().unwrap_or_default());
        self
    }

    /// What a name of a person or of a tenant tells.
    #[must_use]
    pub fn with_name(mut self, name: &impl Display) -> Self {
        self.add(&name.to_string());
        self
    }

    /// A tenant of theirs: what its name tells, and how long it wants passwords to be.
    #[must_use]
    pub fn with_tenant(mut self, tenant: &Tenant) -> Self {
        let asked = tenant
            .security
            .password_min_length
            .and_then(|length| usize::try_from(length.get()).ok());
        self.chars_min = self.chars_min.max(asked.unwrap_or_default());
        self.with_name(&tenant.name)
    }

    /// The whole, its words one by one, and all of them in a row.
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
    /// With `score_min` of zxcvbn's scores 0 to 4, and the list in the file of breached passwords,
    /// if there is one.
    ///
    /// # Errors
    /// When the list cannot be read.
    pub fn new(score_min: u8, breached: Option<&Path>) -> Result<Self, ListError> {
        Ok(Self { score_min, breached: breached.map(BreachList::read).transpose()? })
    }

    /// The hash of a password that whom `context` tells of may set.
    ///
    /// # Errors
    /// When they may not, or the turn to hash does not come in time.
    pub async fn hash(
        self: &Arc<Self>,
        hasher: &Hasher,
        password: Password,
        context: Context,
    ) -> Result<PasswordHash, NotSet> {
        password.at_least(context.chars_min)?;
        let policy = Arc::clone(self);
        // Looking takes its time too, so it happens where hashing is bounded.
        let checked =
            hasher.hash_if(password, move |password| policy.check(password, &context)).await?;
        Ok(checked?)
    }

    /// Whether `password` may be set by whom `context` tells of.
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

/// What to do about it; nothing of the password itself.
fn advice(feedback: Option<&zxcvbn::feedback::Feedback>) -> String {
    let told = feedback.map(|feedback| {
        let warning = feedback.warning().map(|warning| warning.to_string());
        let suggestions = feedback.suggestions().iter().map(ToString::to_string);
        warning.into_iter().chain(suggestions).collect::<Vec<_>>().join(" ")
    });
    told.filter(|told| !told.is_empty())
        .unwrap_or_else(|| "Use a few words that do not belong together.".to_owned())
}

/// Tells a person that their password is another one now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendPasswordChanged {
    /// Whose.
    pub user: UserId,
    /// How it came about.
    pub by: ChangedBy,
}

/// How a password came to be another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangedBy {
    /// By a mailed link.
    Reset,
    /// By someone who was signed in and knew the one before it.
    Owner,
}

impl Job for SendPasswordChanged {
    const KIND: &'static str = "password.send_changed";
    const QUEUE: Queue = Queue::Email;
}

/// Changing the password while signed in: whoever does knows the one before it.
#[derive(Debug)]
pub struct ChangePassword {
    /// Whose.
    pub user: UserId,
    /// When the password was set that it was checked against.
    pub before: Option<DateTime>,
    /// The new password.
    pub after: PasswordHash,
    /// The session that goes on.
    pub kept: SessionId,
    /// The tenant they are signed in to.
    pub scope: TenantScope,
}

impl Change for ChangePassword {
    type Output = bool;
    type Error = DbError;

    /// False when another password was set since it was checked.
    async fn apply(&self, txn: &mut Txn) -> Result<bool, DbError> {
        let Some(user) = User::replace_password(txn, self.user, self.before, &self.after).await?
        else {
            return Ok(false);
        };
        // Also where no session ends: the one that goes on is of somebody with another password.
        revocations::note(txn, Revoked::User(user.id));
        // Links that are on their way were asked for under the old password.
        PasswordReset::forget_of(txn, user.id).await?;
        EmailChange::forget_of(txn, user.id).await?;
        Session::revoke_all(txn, user.id, Some(self.kept)).await?;
        Entry::new(Action::UserPasswordChanged, user.id)
            .by(user.id)
            .record(txn, self.scope)
            .await?;
        let job = SendPasswordChanged { user: user.id, by: ChangedBy::Owner };
        stage(txn, Some(self.scope.tenant_id()), &job).await?;
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
    fn what_guessing_begins_with_is_refused_with_what_to_do() {
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
    fn what_everybody_knows_of_the_person_is_refused() {
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
    fn long_passwords_of_any_characters_are_fine() {
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
    fn the_hardest_to_look_at_does_not_take_long() {
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
            // Of an unoptimised build on a busy machine; a hundredth of it is usual.
            assert!(
                begun.elapsed() < std::time::Duration::from_secs(2),
                "{unit}: {:?}",
                begun.elapsed()
            );
        }
    }
}
