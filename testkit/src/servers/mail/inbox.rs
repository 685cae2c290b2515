//! The received mails, and a way to wait for the next one.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;

use super::{journal::Journal, message::Mail};
use crate::servers::locked;

/// Mails in memory and, if it was opened on a folder, in a file that survives restarts.
#[derive(Debug)]
pub struct Inbox {
    kept: Mutex<Kept>,
    kept_max: usize,
    /// Number of mails ever received; every new mail wakes the waiting tasks.
    arrived: watch::Sender<u64>,
    /// Called with each mail.
    announce: fn(&Mail),
}

#[derive(Debug)]
struct Kept {
    /// Oldest first.
    mails: VecDeque<Arc<Mail>>,
    journal: Option<Journal>,
}

impl Inbox {
    /// An empty inbox that keeps at most `kept_max` mails.
    pub fn new(kept_max: usize) -> Self {
        Self::with(Kept { mails: VecDeque::new(), journal: None }, kept_max)
    }

    /// An inbox that stores its mails in `folder` and loads those of earlier runs.
    pub fn open(folder: &Path, kept_max: usize) -> anyhow::Result<Self> {
        let (journal, mails) = Journal::open(folder, kept_max)?;
        Ok(Self::with(Kept { mails, journal: Some(journal) }, kept_max))
    }

    fn with(kept: Kept, kept_max: usize) -> Self {
        Self { kept: Mutex::new(kept), kept_max, arrived: watch::channel(0).0, announce: |_| {} }
    }

    /// Calls `announce` with each further mail.
    #[must_use]
    pub fn announcing(self, announce: fn(&Mail)) -> Self {
        Self { announce, ..self }
    }

    /// All mails, newest first.
    pub fn messages(&self) -> Vec<Arc<Mail>> {
        locked(&self.kept).mails.iter().rev().cloned().collect()
    }

    /// The mail with this id.
    pub fn find(&self, id: &str) -> Option<Arc<Mail>> {
        locked(&self.kept).mails.iter().find(|mail| mail.id == id).cloned()
    }

    /// Deletes all mails.
    pub fn clear(&self) -> std::io::Result<()> {
        let mut kept = locked(&self.kept);
        kept.mails.clear();
        kept.rewrite()
    }

    /// Stores a mail and wakes waiting tasks. Fails if the file cannot be written; then the mail is
    /// not stored.
    pub fn receive(&self, mail: Mail) -> std::io::Result<()> {
        let mut kept = locked(&self.kept);
        let full = kept.journal.as_mut().map(|journal| journal.append(&mail)).transpose()?;
        let mail = Arc::new(mail);
        kept.mails.push_back(Arc::clone(&mail));
        if kept.mails.len() > self.kept_max {
            kept.mails.pop_front();
        }
        if full == Some(true) {
            kept.rewrite()?;
        }
        // Inside the lock, so that the count matches the mails.
        self.arrived.send_modify(|arrived| *arrived += 1);
        drop(kept);
        (self.announce)(&mail);
        Ok(())
    }

    /// Waits for a mail that `wanted` accepts, and returns the newest one.
    pub async fn wait_for(&self, wanted: impl Fn(&Mail) -> bool) -> Arc<Mail> {
        let mut arrivals = self.arrived.subscribe();
        let mut seen = None;
        loop {
            let found = {
                let kept = locked(&self.kept);
                let arrived = *arrivals.borrow_and_update();
                // The first pass checks all mails, later ones only new mails; otherwise a burst
                // would take quadratic time.
                let look = seen.map_or(usize::MAX, |seen| {
                    usize::try_from(arrived - seen).unwrap_or(usize::MAX)
                });
                seen = Some(arrived);
                kept.mails.iter().rev().take(look).find(|mail| wanted(mail)).cloned()
            };
            if let Some(mail) = found {
                return mail;
            }
            if arrivals.changed().await.is_err() {
                // The sender is `self`, which lives longer than this future.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Kept {
    fn rewrite(&mut self) -> std::io::Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.rewrite(&self.mails))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn mail(subject: &str) -> Mail {
        Mail::read(format!("Subject: {subject}\r\n\r\n").as_bytes(), "s@example.com", Vec::new())
    }

    fn subjects(inbox: &Inbox) -> Vec<String> {
        inbox.messages().iter().map(|mail| mail.subject.clone()).collect()
    }

    #[test]
    fn the_newest_are_kept() {
        let inbox = Inbox::new(2);
        for subject in ["one", "two", "three"] {
            inbox.receive(mail(subject)).unwrap();
        }
        assert_eq!(subjects(&inbox), ["three", "two"]);
    }

    #[tokio::test]
    async fn waiting_finds_existing_and_new_mails() {
        let inbox = Arc::new(Inbox::new(10));
        inbox.receive(mail("there")).unwrap();
        assert_eq!(inbox.wait_for(|mail| mail.subject == "there").await.subject, "there");
        let waiting = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { inbox.wait_for(|mail| mail.subject == "late").await }
        });
        for subject in ["other", "late", "later"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
            inbox.receive(mail(subject)).unwrap();
        }
        assert_eq!(waiting.await.unwrap().subject, "late");
    }

    #[test]
    fn a_folder_keeps_mails_over_restarts_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(folder.path(), 3).unwrap();
        for number in 0..20 {
            inbox.receive(mail(&number.to_string())).unwrap();
        }
        drop(inbox);
        let inbox = Inbox::open(folder.path(), 3).unwrap();
        assert_eq!(subjects(&inbox), ["19", "18", "17"]);
        inbox.clear().unwrap();
        assert!(Inbox::open(folder.path(), 3).unwrap().messages().is_empty());
    }

    #[test]
    fn a_line_cut_short_by_a_crash_loses_only_that_mail() {
        let folder = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(folder.path(), 9).unwrap();
        inbox.receive(mail("whole")).unwrap();
        drop(inbox);
        let file = folder.path().join("messages.jsonl");
        let text = std::fs::read_to_string(&file).unwrap() + "{\"id\":\"mail_";
        std::fs::write(&file, text).unwrap();
        let inbox = Inbox::open(folder.path(), 9).unwrap();
        inbox.receive(mail("next")).unwrap();
        drop(inbox);
        assert_eq!(subjects(&Inbox::open(folder.path(), 9).unwrap()), ["next", "whole"]);
    }
}
