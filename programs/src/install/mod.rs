//! Finds the servers, and installs those that are missing.
//!
//! A program on PATH is preferred. Missing programs are unpacked into the cache folder, without
//! root and without changing the system: MongoDB and Valkey from Python wheels, the others from
//! packages of the distribution. A lock file prevents test processes that start at the same moment
//! from installing twice.

mod debian;
mod wheel;

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context, bail};

use wheel::Wheel;

use crate::{Spec, cache_dir, child::tail, progress::step};

/// A program that the tests, `up` or the checks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// The MongoDB server.
    Mongod,
    /// The Redis server.
    Redis,
    /// The Valkey server, which is compatible with Redis.
    Valkey,
    /// The Prometheus server.
    Prometheus,
    /// Checks Prometheus rules and configuration.
    Promtool,
    /// The Alertmanager server.
    Alertmanager,
    /// Checks Alertmanager configuration.
    Amtool,
}

/// An executable that works on this system.
#[derive(Debug, Clone)]
pub struct Program {
    /// The executable.
    pub path: PathBuf,
    /// Folders of shared libraries that were installed with it, for `LD_LIBRARY_PATH`.
    pub libraries: Vec<PathBuf>,
    /// Folder with the files of its package that it reads from `/usr/share`, if it does.
    pub shared: Option<PathBuf>,
}

/// Shows a folder (`$0`) as part of `/usr/share` to a program, and to no other. Nothing is changed.
const WITH_SHARED: &str =
    r#"mount -t overlay overlay -o lowerdir="$0":/usr/share /usr/share && exec "$@""#;

/// The source of a program.
enum Source {
    /// The Python package index.
    Wheel(&'static Wheel),
    /// The distribution's package of this name.
    Debian(&'static str),
}

impl Tool {
    /// The possible names of its executable.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Mongod => &["mongod"],
            Self::Redis => &["redis-server"],
            Self::Valkey => &["valkey-server"],
            Self::Prometheus => &["prometheus"],
            Self::Promtool => &["promtool"],
            Self::Alertmanager => &["alertmanager", "prometheus-alertmanager"],
            Self::Amtool => &["amtool"],
        }
    }

    /// Its source if it is not on PATH.
    fn source(self) -> Source {
        match self {
            Self::Mongod => Source::Wheel(&wheel::MONGOD),
            Self::Valkey => Source::Wheel(&wheel::VALKEY),
            Self::Redis => Source::Debian("redis-server"),
            Self::Prometheus | Self::Promtool => Source::Debian("prometheus"),
            Self::Alertmanager | Self::Amtool => Source::Debian("prometheus-alertmanager"),
        }
    }

    /// What to do if it cannot be installed here.
    fn advice(self) -> &'static str {
        match self {
            Self::Mongod => {
                "install MongoDB 6 or later so that `mongod` is on PATH, or Python 3 with pip on 64-bit x86 Linux"
            }
            Self::Redis => "install Redis 7 or later so that `redis-server` is on PATH",
            Self::Valkey => {
                "install Valkey 7.2 or later so that `valkey-server` is on PATH, or Python 3 with pip on 64-bit x86 Linux"
            }
            Self::Prometheus | Self::Promtool => {
                "install Prometheus so that `prometheus` and `promtool` are on PATH"
            }
            Self::Alertmanager | Self::Amtool => {
                "install Alertmanager so that `alertmanager` and `amtool` are on PATH"
            }
        }
    }

    /// The program on PATH or in the cache folder; none if it would have to be installed.
    pub async fn installed(self) -> Option<Program> {
        if let Some(path) = self.names().iter().find_map(|name| on_path(name)) {
            return Some(Program { path, libraries: Vec::new(), shared: None });
        }
        self.cached(&cache_dir()).await
    }

    /// The program, installed into the cache folder if it is missing. Fails if it cannot be
    /// installed; the message says how to install it manually.
    pub async fn find(self) -> anyhow::Result<Program> {
        if let Some(program) = self.installed().await {
            return Ok(program);
        }
        // Rarely needed and large; boxed, it does not enlarge the future of every test.
        let installed = Box::pin(self.install(&cache_dir())).await;
        installed.with_context(|| format!("{} is missing: {}", self.names()[0], self.advice()))
    }

    async fn install(self, cache: &Path) -> anyhow::Result<Program> {
        std::fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
        let lock = File::create(cache.join("install.lock"))?;
        let _held = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await??;
        // Another process may have installed it while this one waited for the lock.
        if let Some(program) = self.cached(cache).await {
            return Ok(program);
        }
        match self.source() {
            Source::Wheel(wheel) => {
                step(format!("installing {}", wheel.shown), wheel.install(cache)).await?;
            }
            Source::Debian(package) => {
                step(
                    format!("installing {package} from the distribution (once)"),
                    debian::install(package, cache),
                )
                .await?;
            }
        }
        match self.cached(cache).await {
            Some(program) => Ok(program),
            None => bail!("it was unpacked into {} but does not run there", cache.display()),
        }
    }

    /// The program in `cache`, if it works.
    async fn cached(self, cache: &Path) -> Option<Program> {
        let (root, bin) = match self.source() {
            Source::Wheel(wheel) => (wheel.root(cache), "bin"),
            Source::Debian(package) => (debian::root(package, cache), "usr/bin"),
        };
        let folder = root.join(bin);
        let path = self.names().iter().map(|name| folder.join(name)).find(|path| path.exists())?;
        // Debian's build contains no templates.
        let shared = (self == Self::Alertmanager).then(|| root.join("usr/share"));
        let program = Program { path, libraries: debian::library_folders(&root), shared };
        let version = run(&mut program.command(&["--version"])).await;
        version.is_ok().then_some(program)
    }
}

impl Program {
    /// How to start it as a child process.
    pub fn spec(&self, name: &str, log: impl Into<PathBuf>) -> Spec {
        let (program, args) = self.invocation();
        Spec::new(name, program, log)
            .args(args)
            .envs(self.library_path().map(|value| ("LD_LIBRARY_PATH", value)))
    }

    /// A command that runs it to completion.
    pub fn command(&self, args: &[&str]) -> tokio::process::Command {
        let (program, own) = self.invocation();
        let mut command = tokio::process::Command::new(program);
        command
            .args(own)
            .args(args)
            .envs(self.library_path().map(|value| ("LD_LIBRARY_PATH", value)))
            .kill_on_drop(true);
        command
    }

    /// What to execute, and the arguments before its own.
    fn invocation(&self) -> (PathBuf, Vec<OsString>) {
        let Some(shared) = &self.shared else { return (self.path.clone(), Vec::new()) };
        let unshare = ["--user", "--map-root-user", "--mount", "sh", "-c", WITH_SHARED];
        let args = unshare.into_iter().map(OsString::from);
        ("unshare".into(), args.chain([shared.into(), self.path.clone().into()]).collect())
    }

    /// Another program in the folder of this one, which was installed with it; it may not exist.
    #[must_use]
    pub fn beside(&self, name: &str) -> Self {
        Self { path: self.path.with_file_name(name), ..self.clone() }
    }

    /// The value of `LD_LIBRARY_PATH` with which it runs, if it needs one.
    pub fn library_path(&self) -> Option<String> {
        let joined = std::env::join_paths(&self.libraries).ok()?.into_string().ok()?;
        Some(joined).filter(|value| !value.is_empty())
    }
}

/// The program with this name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian installs some servers outside of an ordinary user's PATH.
    let extra = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(extra);
    folders.map(|folder| folder.join(name)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Runs a command to completion. Shows its output only if it fails.
async fn run(command: &mut tokio::process::Command) -> anyhow::Result<Output> {
    let shown = command.as_std().get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().await.with_context(|| format!("running {shown}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = tail(&String::from_utf8_lossy(&said), 15);
        bail!("{shown} ended with {}:\n{said}", output.status);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_is_searched_for_programs_not_folders() {
        assert!(on_path("sh").is_some());
        assert_eq!(on_path("no-such-program-anywhere"), None);
        assert!(!is_executable(Path::new("/usr")));
    }
}
