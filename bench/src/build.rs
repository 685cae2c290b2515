//! Builds what is measured, for release.

use std::path::PathBuf;

use programs::command::build;

/// The product's programs; the folder they are in.
pub(crate) async fn product() -> anyhow::Result<PathBuf> {
    build("our programs", &["--bin", "api", "--bin", "worker"], true).await
}

/// One of our examples.
pub(crate) async fn example(name: &str) -> anyhow::Result<PathBuf> {
    Ok(build(name, &["--example", name], true).await?.join("examples").join(name))
}
