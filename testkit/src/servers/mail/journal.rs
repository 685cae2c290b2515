//! The file of the inbox: one mail per line, appended as they arrive, and rewritten once it
//! contains many deleted mails.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;

use super::message::Mail;

/// The file and its number of lines.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// With more lines than this, the file is rewritten.
    lines_max: usize,
}

impl Journal {
    /// Opens the file in `folder`. Also returns the newest `kept_max` mails in it, oldest first.
    pub(super) fn open(
        folder: &Path,
        kept_max: usize,
    ) -> anyhow::Result<(Self, VecDeque<Arc<Mail>>)> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let path = folder.join("messages.jsonl");
        let file = OpenOptions::new().create(true).append(true).read(true).open(&path);
        let file = file.with_context(|| format!("opening {}", path.display()))?;
        let mut mails = VecDeque::new();
        for line in BufReader::new(&file).split(b'\n') {
            // A line that a crash cut short belongs to a mail that was never acknowledged.
            let Ok(mail) = serde_json::from_slice::<Mail>(&line?) else { continue };
            mails.push_back(Arc::new(mail));
            if mails.len() > kept_max {
                mails.pop_front();
            }
        }
        let mut journal = Self { path, file, lines: 0, lines_max: kept_max.saturating_mul(2) };
        journal.rewrite(&mails)?;
        Ok((journal, mails))
    }

    /// Appends a mail. Returns whether the file should be rewritten.
    pub(super) fn append(&mut self, mail: &Mail) -> std::io::Result<bool> {
        let mut line = serde_json::to_vec(mail)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.lines += 1;
        Ok(self.lines > self.lines_max)
    }

    /// Replaces the file by one with only these mails.
    pub(super) fn rewrite(&mut self, mails: &VecDeque<Arc<Mail>>) -> std::io::Result<()> {
        let fresh = self.path.with_extension("jsonl.new");
        let mut writer = BufWriter::new(File::create(&fresh)?);
        for mail in mails {
            serde_json::to_writer(&mut writer, &**mail)?;
            writer.write_all(b"\n")?;
        }
        writer.into_inner()?.sync_data()?;
        std::fs::rename(&fresh, &self.path)?;
        self.file = OpenOptions::new().append(true).open(&self.path)?;
        self.lines = mails.len();
        Ok(())
    }
}
