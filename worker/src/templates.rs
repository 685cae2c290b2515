//! The mails. Each is three files in `worker/templates/<area>/`: its text with the subject (`.txt`),
//! its HTML (`.html`), and samples of its values (`.json`). `build.rs` makes a constant of each.

use common::mail::Template;

include!(concat!(env!("OUT_DIR"), "/templates.rs"));
