//! `cargo xtask renew`: rewrites the files in the repository that the programs generate.
//!
//! Each program first prints into memory, so that a failing one changes no file.

use std::{fs, path::Path};

use anyhow::Context;
use programs::{
    command::{build, cargo, output, succeed},
    progress::say,
    workspace_root,
};
use tokio::process::Command;

/// The markers around the table of keys in `docs/configuration.md`.
const BEGIN: &str = "<!-- config:begin -->\n";
const END: &str = "<!-- config:end -->";

/// Rewrites the OpenAPI document, the table of configuration keys, and the snapshots of mails and
/// responses.
pub(crate) async fn run() -> anyhow::Result<()> {
    let programs = build("the programs", &["--bin", "api", "--bin", "worker"], false).await?;
    let root = workspace_root();
    let (api, worker) = (programs.join("api"), programs.join("worker"));

    let document = output(Command::new(&api).arg("openapi")).await?;
    write(&root.join("api/openapi.json"), &document)?;

    let page = root.join("docs/configuration.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let table = output(Command::new(&api).arg("config-table")).await?;
    write(&page, &with_table(&text, &table).context("docs/configuration.md has no markers")?)?;

    let mails = root.join("worker/tests/snapshots");
    output(Command::new(worker).args(["mail", "preview", "--to"]).arg(&mails)).await?;
    say("wrote worker/tests/snapshots");

    let mut answers = cargo(&["test", "--package", "api", "--test", "http", "snapshots::"]);
    succeed(answers.env("INSTA_UPDATE", "always")).await?;
    say("wrote api/tests/http/snapshots; review all differences with `git diff`");
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    let shown = path.strip_prefix(workspace_root()).unwrap_or(path);
    say(&format!("wrote {}", shown.display()));
    Ok(())
}

/// `page` with `table` between the markers.
fn with_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_the_lines_between_the_markers() {
        let page = format!("before\n{BEGIN}old\n{END}\nafter\n");
        assert_eq!(
            with_table(&page, "| new |\n").unwrap(),
            format!("before\n{BEGIN}| new |\n{END}\nafter\n")
        );
        assert_eq!(with_table("no markers", "| new |\n"), None);
    }
}
