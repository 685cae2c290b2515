//! The environment of this tool: the folder of the workspace, and a few variables.

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The folder of the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        // Cargo sets this variable for the program that it runs. The value at build time may be
        // wrong, because checkouts can share a target folder.
        let member =
            variable("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").to_owned());
        Path::new(&member).parent().map(PathBuf::from).unwrap_or_default()
    });
    &ROOT
}

/// The folder of downloaded servers: `TENANTRY_CACHE`, or `.dev/cache` in the workspace.
pub fn cache_dir() -> PathBuf {
    variable("TENANTRY_CACHE").map_or_else(|| workspace_root().join(".dev/cache"), PathBuf::from)
}

/// An environment variable; an empty one counts as not set.
#[expect(
    clippy::disallowed_methods,
    reason = "the product's configuration lives in `common`, which this crate must not know"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
