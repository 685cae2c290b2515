//! Checks that `cargo nextest run -p api` can use what `--workspace` has compiled.
//!
//! Cargo compiles a crate once per set of features, and unites the features that the packages of a
//! build require. So each member that is tested alone must require the same features as the
//! workspace.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use programs::command::{cargo, output};
use serde_json::Value;

/// Fails with a list of all differences.
pub(super) async fn check() -> anyhow::Result<()> {
    let workspace = resolved(&["--workspace"]).await?;
    let mut differences = Vec::new();
    for member in tested_members().await? {
        let alone = resolved(&["--package", &member]).await?;
        differences
            .extend(alone.difference(&workspace).map(|package| format!("{member}: {package}")));
    }
    ensure!(
        differences.is_empty(),
        "the tests of a single member would compile these packages again, with only these features; \
         add the missing features in the workspace's Cargo.toml or in testkit's:\n{}",
        differences.join("\n")
    );
    Ok(())
}

/// The members whose tests use `testkit`.
async fn tested_members() -> anyhow::Result<Vec<String>> {
    let args = ["metadata", "--no-deps", "--format-version", "1", "--locked"];
    let metadata: Value = serde_json::from_str(&output(&mut cargo(&args)).await?)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists packages")?;
    let uses_testkit = |package: &&Value| {
        package["dependencies"].as_array().is_some_and(|dependencies| {
            dependencies
                .iter()
                .any(|dependency| dependency["name"] == "testkit" && dependency["kind"] == "dev")
        })
    };
    let names = packages.iter().filter(uses_testkit).filter_map(|package| package["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

/// Each package in the tests of these members, with its features.
async fn resolved(members: &[&str]) -> anyhow::Result<BTreeSet<String>> {
    let mut command = cargo(&["tree", "--locked", "--prefix", "none"]);
    let tree = output(command.args(["--format", "{p}: {f}"]).args(members)).await?;
    // Marks a package that was listed before.
    Ok(tree.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect())
}
