//! Builds the measured programs in release mode.

use std::path::PathBuf;

use programs::command::build;

/// Builds the programs of the product. Returns their folder.
pub(crate) async fn product() -> anyhow::Result<PathBuf> {
    build("our programs", &["--bin", "api", "--bin", "worker"], true).await
}

/// Builds one of the examples.
pub(crate) async fn example(name: &str) -> anyhow::Result<PathBuf> {
    Ok(build(name, &["--example", name], true).await?.join("examples").join(name))
}
