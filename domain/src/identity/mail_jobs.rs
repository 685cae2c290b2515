//! Finds the jobs that send mails to a person. Operators need them when a mail did not arrive.
//!
//! A job has the id of its recipient or a pseudonym of their email address, so it is found in the
//! outbox until it finishes. A finished job is found only if another row has its id.

use std::collections::{BTreeSet, HashMap};

use common::{
    crypto::MasterKey,
    db::{DbError, PlatformScope, Store},
    id::{JobId, UserId},
    sealed_email::AddressDigest,
};
use jobs::outbox::{self, OutboxRow};
use mongodb::bson::doc;

use crate::{
    identity::{password_resets::PasswordReset, registrations::Registration},
    people::users::User,
};

/// Maximum number of unfinished jobs that are looked at.
const JOBS_MAX: i64 = 1_000;

/// A person or a registration, as jobs name it.
struct Subject {
    /// Ids and pseudonyms in payloads.
    names: [String; 2],
    /// The jobs that its rows name.
    known: BTreeSet<JobId>,
}

impl Subject {
    fn jobs(self, unfinished: &[OutboxRow]) -> Vec<JobId> {
        let mut jobs = self.known;
        let is_about = |row: &&OutboxRow| self.names.iter().any(|name| row.payload.contains(name));
        jobs.extend(unfinished.iter().filter(is_about).map(|row| row.id));
        jobs.into_iter().collect()
    }
}

/// The jobs of each registration, oldest first: the one that was staged with it, the ones that
/// mailed it or tried to, and those that have not finished.
pub async fn of_registrations(
    store: &Store,
    registrations: &[Registration],
) -> Result<Vec<Vec<JobId>>, DbError> {
    let subjects = registrations.iter().map(|registration| Subject {
        names: [registration.id.to_string(), registration.email_digest.as_str().to_owned()],
        known: [registration.job_id, registration.claimed_by, registration.mailed_by]
            .into_iter()
            .flatten()
            .collect(),
    });
    of_all(store, subjects.collect()).await
}

/// The jobs of each user, oldest first: those that have not finished, and the one that last mailed a
/// password reset link.
pub async fn of_users(
    store: &Store,
    key: &MasterKey,
    users: &[User],
) -> Result<Vec<Vec<JobId>>, DbError> {
    let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();
    let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX).max(1);
    let resets: Vec<PasswordReset> = store
        .records(PlatformScope)
        .list(doc! { "user_id": { "$in": ids } }, doc! {}, limit)
        .await?;
    let resets: HashMap<UserId, JobId> =
        resets.into_iter().map(|reset| (reset.user_id, reset.job_id)).collect();
    let subjects = users.iter().map(|user| Subject {
        names: [user.id.to_string(), AddressDigest::of(key, &user.email).as_str().to_owned()],
        known: resets.get(&user.id).copied().into_iter().collect(),
    });
    of_all(store, subjects.collect()).await
}

async fn of_all(store: &Store, subjects: Vec<Subject>) -> Result<Vec<Vec<JobId>>, DbError> {
    let names: Vec<String> =
        subjects.iter().flat_map(|subject| subject.names.iter().cloned()).collect();
    let unfinished = outbox::mentioning(store, &names, JOBS_MAX).await?;
    Ok(subjects.into_iter().map(|subject| subject.jobs(&unfinished)).collect())
}
