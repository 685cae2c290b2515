//! Installs the peers, from the registries of their languages or from the distribution.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context, bail, ensure};
use programs::{
    cache_dir,
    command::{cargo, succeed},
    install::on_path,
    progress::step,
    workspace_root,
};
use tokio::process::Command;

/// Folder of the peers' programs.
fn folder(peer: &str) -> PathBuf {
    workspace_root().join("bench/peers").join(peer)
}

/// The program of `BullMQ`. Its dependencies are installed into the cache folder, exactly as pinned
/// in its lock file.
pub(super) async fn bullmq() -> anyhow::Result<Command> {
    let (Some(node), Some(npm)) = (on_path("node"), on_path("npm")) else {
        bail!("Node and npm are not installed")
    };
    let (source, cached) = (folder("bullmq"), cache_dir().join("bench-bullmq"));
    let lock = std::fs::read(source.join("package-lock.json"))?;
    let installed =
        std::fs::read(cached.join("installed-lock.json")).is_ok_and(|installed| installed == lock);
    if !installed {
        std::fs::create_dir_all(&cached)?;
        for file in ["package.json", "package-lock.json"] {
            std::fs::copy(source.join(file), cached.join(file))
                .with_context(|| format!("copying {file}"))?;
        }
        let mut install = Command::new(npm);
        // Install scripts would only download or build optional parts.
        install
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&cached);
        step("installing BullMQ from npm (once)", quietly(&mut install)).await?;
        std::fs::write(cached.join("installed-lock.json"), lock)?;
    }
    let mut command = Command::new(node);
    command
        .arg(source.join("contestant.mjs"))
        .env("BENCH_MODULES", cached)
        .env("NODE_ENV", "production");
    Ok(command)
}

/// The program of Sidekiq. Ruby libraries are installed system-wide, which requires root.
pub(super) async fn sidekiq() -> anyhow::Result<Command> {
    if !sidekiq_runs().await {
        ensure!(
            on_path("apt-get").is_some(),
            "Ruby with Sidekiq is not installed (gem `sidekiq`), and there is no apt-get"
        );
        let root = rustix::process::geteuid().is_root();
        ensure!(
            root,
            "Ruby with Sidekiq is not installed; as root: `apt-get install --no-install-recommends ruby-sidekiq`"
        );
        step("installing ruby-sidekiq from the distribution (once)", install_sidekiq()).await?;
        ensure!(sidekiq_runs().await, "ruby-sidekiq is installed but does not run");
    }
    let mut command = Command::new("ruby");
    command.arg(folder("sidekiq").join("contestant.rb"));
    Ok(command)
}

async fn sidekiq_runs() -> bool {
    let mut probe = Command::new("ruby");
    probe
        .args(["-e", "require 'sidekiq'"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    probe.status().await.is_ok_and(|status| status.success())
}

async fn install_sidekiq() -> anyhow::Result<()> {
    for args in [&["update"][..], &["install", "--yes", "--no-install-recommends", "ruby-sidekiq"]]
    {
        let mut apt = Command::new("apt-get");
        quietly(apt.args(["--quiet"]).args(args).env("DEBIAN_FRONTEND", "noninteractive")).await?;
    }
    Ok(())
}

/// The program of apalis-redis, a separate Cargo project.
pub(super) async fn apalis_redis() -> anyhow::Result<Command> {
    let target = workspace_root().join("target/peers");
    let mut build = cargo(&["build", "--release", "--locked", "--manifest-path"]);
    build.arg(folder("apalis_redis").join("Cargo.toml")).arg("--target-dir").arg(&target);
    step("building apalis-redis' program for release", succeed(&mut build)).await?;
    Ok(Command::new(target.join("release/bench-apalis-redis")))
}

/// Runs a command to its end. Shows its output only if it fails.
async fn quietly(command: &mut Command) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    ensure!(output.status.success(), "it ended with {}: {said}", output.status);
    Ok(())
}
