//! Compares accepted jobs with completed ones, read from MongoDB only.

use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt;
use mongodb::{
    Database,
    bson::{DateTime, Document, doc},
};
use serde::Deserialize;

/// Maximum number of ids shown for each kind of violation.
const SHOWN_MAX: usize = 10;

#[derive(Debug, Deserialize)]
struct Accepted {
    #[serde(rename = "_id")]
    job: String,
    staged: bool,
    doomed: bool,
    at: DateTime,
}

#[derive(Debug, Deserialize)]
struct Effect {
    #[serde(rename = "_id")]
    job: String,
    runs: i64,
    at: DateTime,
}

/// The outbox row of a staged job, if it exists.
#[derive(Debug, Deserialize)]
struct Row {
    #[serde(rename = "_id")]
    job: String,
    dead_at: Option<DateTime>,
}

/// Everything known about one job.
#[derive(Debug, Default)]
struct Page {
    accepted: Option<Accepted>,
    effect: Option<Effect>,
    row: Option<Row>,
}

/// Everything known about all jobs.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pages: BTreeMap<String, Page>,
}

/// The result.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) accepted: usize,
    pub(super) staged: usize,
    pub(super) done: usize,
    /// Dead letters, as expected.
    pub(super) dead: usize,
    /// Completed more than once.
    pub(super) repeated: usize,
    /// Enqueued without a row, and lost: allowed if Redis crashed or was wiped.
    pub(super) direct_lost: usize,
    /// Dead letters because another job crashed the worker; they can be retried.
    pub(super) blamed: Vec<String>,
    /// Accepted, but neither completed nor dead.
    pub(super) lost: Vec<String>,
    /// Completed, but still queued: nothing will remove the row.
    pub(super) stuck: Vec<String>,
    /// Completed, although the job should have become a dead letter.
    pub(super) wrong: Vec<String>,
}

impl Verdict {
    /// Whether all guarantees hold.
    pub(super) fn is_clean(&self) -> bool {
        self.lost.is_empty() && self.stuck.is_empty() && self.wrong.is_empty()
    }
}

impl Ledger {
    pub(super) async fn read(database: &Database) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        for accepted in rows::<Accepted>(database, "chaos_accepted").await? {
            let page = ledger.page(accepted.job.clone());
            page.accepted = Some(accepted);
        }
        for effect in rows::<Effect>(database, "chaos_effects").await? {
            let page = ledger.page(effect.job.clone());
            page.effect = Some(effect);
        }
        for row in rows::<Row>(database, "outbox").await? {
            let page = ledger.page(row.job.clone());
            page.row = Some(row);
        }
        Ok(ledger)
    }

    fn page(&mut self, job: String) -> &mut Page {
        self.pages.entry(job).or_default()
    }

    pub(super) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for (job, page) in &self.pages {
            verdict.judge(job, page);
        }
        verdict
    }

    /// Time from `ended` until a job that was accepted later was completed.
    pub(super) fn recovered_after(&self, ended: DateTime) -> Option<Duration> {
        let later = self
            .pages
            .values()
            .filter_map(|page| Some((page.accepted.as_ref()?, page.effect.as_ref()?)));
        let done =
            later.filter(|(accepted, _)| accepted.at > ended).map(|(_, effect)| effect.at).min()?;
        let millis = done.timestamp_millis().saturating_sub(ended.timestamp_millis());
        u64::try_from(millis).ok().map(Duration::from_millis)
    }
}

impl Verdict {
    fn judge(&mut self, job: &str, page: &Page) {
        let Some(accepted) = &page.accepted else {
            // The producer was killed before it could record the job; or this is a defect.
            return;
        };
        self.accepted += 1;
        self.staged += usize::from(accepted.staged);
        let dead = page.row.as_ref().is_some_and(|row| row.dead_at.is_some());
        match (&page.effect, accepted.doomed) {
            (Some(_), true) => self.wrong.push(job.to_owned()),
            (Some(effect), false) => {
                self.done += 1;
                self.repeated += usize::from(effect.runs > 1);
                if page.row.is_some() && !dead {
                    self.stuck.push(job.to_owned());
                }
            }
            (None, true) if dead => self.dead += 1,
            (None, false) if dead => self.blamed.push(job.to_owned()),
            (None, _) if !accepted.staged => self.direct_lost += 1,
            (None, _) => self.lost.push(job.to_owned()),
        }
    }
}

/// The first of many ids.
pub(super) fn some(ids: &[String]) -> String {
    let shown: Vec<&str> = ids.iter().take(SHOWN_MAX).map(String::as_str).collect();
    let more = ids.len().saturating_sub(SHOWN_MAX);
    if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
}

async fn rows<T: serde::de::DeserializeOwned + Send + Sync + Unpin>(
    database: &Database,
    name: &str,
) -> anyhow::Result<Vec<T>> {
    let rows: Vec<Document> =
        database.collection::<Document>(name).find(doc! {}).await?.try_collect().await?;
    rows.into_iter().map(|row| Ok(mongodb::bson::deserialize_from_document(row)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(accepted: (bool, bool), runs: i64, row: Option<bool>) -> Page {
        let (job, at) = (String::from("j"), DateTime::from_millis(1_000));
        Page {
            accepted: Some(Accepted {
                job: job.clone(),
                staged: accepted.0,
                doomed: accepted.1,
                at,
            }),
            effect: (runs > 0).then(|| Effect {
                job: job.clone(),
                runs,
                at: DateTime::from_millis(1_250),
            }),
            row: row.map(|dead| Row { job, dead_at: dead.then_some(at) }),
        }
    }

    fn verdict(page: &Page) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.judge("j", page);
        verdict
    }

    #[test]
    fn violated_guarantees_are_detected() {
        let (staged, direct, doomed) = ((true, false), (false, false), (true, true));
        assert!(verdict(&page(staged, 1, None)).is_clean());
        assert!(verdict(&page(doomed, 0, Some(true))).is_clean());
        assert_eq!(verdict(&page(staged, 2, None)).repeated, 1);
        assert_eq!(verdict(&page(direct, 0, None)).direct_lost, 1);
        assert_eq!(verdict(&page(staged, 0, Some(true))).blamed, ["j"]);
        for broken in [
            page(staged, 0, None),
            page(staged, 0, Some(false)),
            page(staged, 1, Some(false)),
            page(doomed, 1, None),
        ] {
            assert!(!verdict(&broken).is_clean(), "{broken:?}");
        }
    }

    #[test]
    fn recovery_ends_when_a_later_job_is_done() {
        let mut ledger = Ledger::default();
        *ledger.page("j".to_owned()) = page((true, false), 1, None);
        assert_eq!(
            ledger.recovered_after(DateTime::from_millis(900)),
            Some(Duration::from_millis(350))
        );
        assert_eq!(ledger.recovered_after(DateTime::from_millis(1_000)), None);
    }
}
