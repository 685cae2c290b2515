//! Dead letters for operators: found by filter, and retried or deleted one by one or all at once.

use common::{db::PlatformScope, id::JobId};
use mongodb::bson::doc;

use crate::{
    ControlError, Envelope, JobFilter, Jobs, Queue,
    envelope::Signature,
    outbox::{OutboxRow, revive_rows},
    queue::{DeadLetter, Spot},
};

/// Dead letters processed per round trip.
const PAGE: usize = 500;

impl Jobs {
    /// Up to `limit` dead letters of `queue`, newest first.
    pub async fn dead_letters(
        &self,
        queue: Queue,
        filter: &JobFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>, ControlError> {
        let mut letters = Vec::new();
        let mut after = None;
        while letters.len() < limit {
            let chunk = self.broker().list_dead(queue, after.as_ref(), PAGE).await?;
            let found = chunk.found.into_iter().filter_map(|found| match found.spot {
                Spot::Dead(died_at, member) => {
                    Some(DeadLetter::of_stored(member, &found.body, died_at))
                }
                _ => None,
            });
            letters.extend(found.filter(|letter| filter.admits(&letter.view(queue))));
            after = chunk.next;
            if after.is_none() {
                break;
            }
        }
        letters.truncate(limit);
        Ok(letters)
    }

    /// Retries dead letters of `queue`, beginning with their first attempt; returns how many were
    /// still dead. Letters whose bytes are unreadable stay, because retrying cannot help. A letter
    /// whose outbox row has been removed after `jobs.dead_retention` runs without one. On error,
    /// letters replayed so far stay replayed; the others are still dead.
    pub async fn replay(
        &self,
        queue: Queue,
        letters: &[DeadLetter],
    ) -> Result<usize, ControlError> {
        let mut replayed = 0;
        for letters in letters.chunks(PAGE) {
            let mut envelopes: Vec<Envelope> = letters
                .iter()
                .filter_map(|letter| letter.envelope.clone())
                .map(Envelope::for_replay)
                .collect();
            // The row first: if the process dies in between, the relay enqueues the job.
            let staged: Vec<JobId> = envelopes
                .iter()
                .filter(|envelope| envelope.staged)
                .map(|envelope| envelope.id)
                .collect();
            let revived = revive_rows(self.store(), &staged).await?;
            // A staged job without a row would be considered finished.
            let there = self.store().records::<OutboxRow>(PlatformScope).existing(&staged).await?;
            let key = &self.broker().config().envelope_key;
            for envelope in &mut envelopes {
                if envelope.staged && !there.contains(&envelope.id.to_string()) {
                    // The signature covers `staged`, so it is renewed, but not that of a forged
                    // letter.
                    let is_ours = envelope.signature(key) == Signature::Valid;
                    envelope.staged = false;
                    envelope.mac = is_ours.then(|| envelope.mac_by(key));
                }
            }
            let (staged, direct): (Vec<_>, Vec<_>) =
                envelopes.into_iter().partition(|envelope| envelope.staged);
            // The relay may have enqueued some of the revived rows by now, or the replay before was
            // cut short.
            let moved = self.broker().replay(queue, &staged).await?;
            replayed += revived.max(moved) + self.broker().replay(queue, &direct).await?;
        }
        if replayed > 0 {
            tracing::info!(%queue, jobs = replayed, "dead_letters_replayed");
        }
        Ok(replayed)
    }

    /// Deletes dead letters of `queue` permanently; returns how many were still dead. Each deletion
    /// is logged. On error, letters deleted so far stay deleted; the others are still dead.
    pub async fn delete_dead(
        &self,
        queue: Queue,
        letters: &[DeadLetter],
    ) -> Result<usize, ControlError> {
        let mut deleted = 0;
        for letters in letters.chunks(PAGE) {
            // The row first, or nothing would delete it if the process dies in between; and only
            // while it is dead, so that a concurrent retry wins.
            let staged = letters
                .iter()
                .filter_map(|letter| letter.envelope.as_ref())
                .filter(|envelope| envelope.staged);
            let rows = doc! { "_id": { "$in": staged.map(|envelope| envelope.id).collect::<Vec<JobId>>() }, "dead_at": { "$ne": null } };
            self.store().records::<OutboxRow>(PlatformScope).delete_all(rows).await?;
            let members: Vec<&[u8]> =
                letters.iter().map(|letter| letter.member.as_slice()).collect();
            deleted += self.broker().delete_dead(queue, &members).await?;
            for letter in letters {
                let (job, kind) = (letter.job().map(|id| id.to_string()), letter.kind.as_deref());
                tracing::info!(%queue, job, kind, died_at = letter.died_at, "dead_letter_deleted");
            }
        }
        Ok(deleted)
    }
}
