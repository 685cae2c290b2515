//! Commands that run to completion: `cargo`, and our own programs.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, bail};
use tokio::process::Command;

use crate::{log_line::readable_text, progress::step, variable, workspace_root};

/// `cargo` with arguments, in the root of the workspace; its output goes to the terminal.
pub fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    command.args(args).current_dir(workspace_root()).kill_on_drop(true);
    command
}

/// Builds the targets that these arguments name (`--bin api`). Returns the folder of the programs.
pub async fn build(what: &str, targets: &[&str], release: bool) -> anyhow::Result<PathBuf> {
    // With `--workspace`, shared dependencies get the features of the whole workspace, so that no
    // other build has to compile them again.
    let mut args = vec!["build", "--workspace"];
    args.extend(targets);
    args.extend(release.then_some("--release"));
    let what = format!("building {what}{}", if release { " for release" } else { "" });
    step(what, async { succeed(&mut cargo(&args)).await }).await?;
    folder(release)
}

/// The folder of our programs: that of this program, or `release` beside it.
pub fn folder(release: bool) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program")?;
    let own = own.parent().context("this program is in a folder")?;
    Ok(if release { own.with_file_name("release") } else { own.to_owned() })
}

/// Runs a command to completion. Fails if it does not succeed.
pub async fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    let status = command
        .stdin(Stdio::null())
        .status()
        .await
        .with_context(|| format!("running `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` ended with {status}");
    }
    Ok(())
}

/// Runs a command to completion and returns its standard output. Fails if it does not succeed.
pub async fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .await
        .with_context(|| format!("running `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs one of our programs to completion with its output in `log`. If it fails, the error includes
/// the output.
pub async fn run_once(
    program: &Path,
    args: &[&str],
    env: &[(String, String)],
    log: &Path,
) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    command
        .args(args)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output =
        command.output().await.with_context(|| format!("running {}", program.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(log)?;
    std::io::Write::write_all(&mut file, &said)?;
    if !output.status.success() {
        let said = readable_text(&String::from_utf8_lossy(&said));
        bail!("`{} {}` ended with {}:\n{said}", program.display(), args.join(" "), output.status);
    }
    Ok(())
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<OsString> =
        [program].into_iter().chain(command.get_args()).map(OsString::from).collect();
    words.join(" ".as_ref()).to_string_lossy().into_owned()
}
