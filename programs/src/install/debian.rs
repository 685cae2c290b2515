//! Servers from the packages of Debian or Ubuntu, without root: `apt-get` uses package lists and
//! archives inside the cache folder, reports which packages are missing on this system and
//! downloads them, and `dpkg -x` unpacks them into one folder. Nothing is configured and no service
//! is started.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::{on_path, run};

/// The folder into which a package and its dependencies are unpacked.
pub(super) fn root(package: &str, cache: &Path) -> PathBuf {
    cache.join(package)
}

/// Folders below `root` with shared libraries.
pub(super) fn library_folders(root: &Path) -> Vec<PathBuf> {
    let parents = ["usr/lib", "lib"].map(|folder| root.join(folder));
    let nested = parents.iter().filter_map(|parent| std::fs::read_dir(parent).ok()).flatten();
    let nested =
        nested.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir());
    // Packages install libraries into `usr/lib/<machine>-linux-gnu`; the linker needs no other
    // folder.
    nested.filter(|path| path.to_string_lossy().contains("-linux-gnu")).collect()
}

pub(super) async fn install(package: &str, cache: &Path) -> anyhow::Result<()> {
    if on_path("apt-get").is_none() || on_path("dpkg").is_none() {
        bail!("this system has no apt-get and dpkg to install it with");
    }
    let apt = Apt::new(cache)?;
    run(&mut apt.get(&["update"])).await.context("fetching the lists of packages")?;
    let simulated =
        run(&mut apt.get(&["install", "--simulate", "--no-install-recommends", package])).await?;
    let simulated = String::from_utf8_lossy(&simulated.stdout);
    let packages = to_download(package, &simulated);
    let work = tempfile::tempdir_in(cache)?;
    let mut download = apt.get(&["download"]);
    run(download.args(&packages).current_dir(work.path()))
        .await
        .context("downloading the packages")?;
    let unpacked = work.path().join("root");
    for archive in std::fs::read_dir(work.path())?.filter_map(Result::ok).map(|entry| entry.path())
    {
        if archive.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked).kill_on_drop(true))
                .await?;
        }
    }
    let root = root(package, cache);
    if root.exists() {
        std::fs::remove_dir_all(&root)?;
    }
    std::fs::rename(&unpacked, &root).with_context(|| format!("moving {package} into place"))
}

/// `apt-get` with its own lists and archives.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(cache: &Path) -> anyhow::Result<Self> {
        let lists = cache.join("apt/lists");
        let archives = cache.join("apt/cache");
        for folder in [lists.join("partial"), archives.join("archives/partial")] {
            std::fs::create_dir_all(folder)?;
        }
        let options = [
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache={}", archives.display()),
            // As root, apt-get would download as another user, who cannot write here.
            "APT::Sandbox::User=".to_owned(),
            "Debug::NoLocking=1".to_owned(),
        ];
        Ok(Self {
            options: options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect(),
        })
    }

    fn get(&self, args: &[&str]) -> Command {
        let mut command = Command::new("apt-get");
        command
            .args(["--quiet", "--yes"])
            .args(&self.options)
            .args(args)
            .env("LC_ALL", "C")
            .kill_on_drop(true);
        command
    }
}

/// The packages to unpack together: the package, those that its files link to, and those that
/// `apt-get install --simulate` reports as missing, in its lines `Inst name (…)`.
fn to_download<'a>(package: &'a str, simulated: &'a str) -> BTreeSet<&'a str> {
    let missing =
        simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    missing.chain([package]).chain(linked(package).iter().copied()).collect()
}

/// Packages with the targets of a package's links. Libraries are found wherever they are installed,
/// but a relative link in the cache folder works only if its target is unpacked beside it.
fn linked(package: &str) -> &'static [&'static str] {
    match package {
        // `redis-server` is a link to `redis-check-rdb`.
        "redis-server" => &["redis-tools"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages_are_parsed_from_the_simulation() {
        let simulated = "Reading package lists...\nInst libx1 (3.6-3 Debian:12 [amd64])\nInst prometheus [2.1] (2.42 Debian)\nConf libx1 (3.6-3)\n";
        assert_eq!(to_download("prometheus", simulated), ["libx1", "prometheus"].into());
    }

    #[test]
    fn packages_that_links_point_to_are_included_even_if_installed() {
        let without_tools = "Inst redis-server (7.0.15 Debian)\n";
        for simulated in [without_tools, ""] {
            assert_eq!(
                to_download("redis-server", simulated),
                ["redis-server", "redis-tools"].into()
            );
        }
    }
}
