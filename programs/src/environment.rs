//! What the outside tells this tool: where the workspace lies and the few variables it heeds.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The folder that holds the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // Cargo tells whose program it runs. What was true when this was built may not be:
        // checkouts can share a target folder.
        let member =
            variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
        Path::new(&member).parent().map(PathBuf::from).unwrap_or_default()
    });
    &ROOT
}

/// Where downloaded servers are kept: `TENANTRY_CACHE`, or `.dev/cache` in the workspace.
pub fn cache_dir() -> PathBuf {
    variable("TENANTRY_CACHE").map_or_else(|| workspace_root().join(".dev/cache"), PathBuf::from)
}

/// An environment variable; an empty one counts as unset.
#[expect(
    clippy::disallowed_methods,
    reason = "the product's configuration lives in `common`, which this crate must not know"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
