//! The product's own programs, started by a test.

use std::sync::atomic::Ordering;

use programs::{Process, ProcessSpec};

use super::{Ports, TestEnv, folder};

/// A running `api` or `worker`. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    process: Process,
    port: Option<u16>,
    internal_port: u16,
}

impl Service {
    /// Where clients connect, without a trailing slash.
    ///
    /// # Panics
    /// For a worker, which has no clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.expect("a worker has no public address"))
    }

    /// Where metrics and health are, without a trailing slash.
    pub fn internal_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.internal_port)
    }
}

impl std::ops::Deref for Service {
    type Target = Process;

    /// A service is a process with addresses.
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl TestEnv {
    /// Starts `api serve` and waits until it is ready.
    ///
    /// # Panics
    /// When the program has not been built or does not become ready; the message holds the end of
    /// its log.
    pub async fn spawn_api(&self) -> Service {
        self.spawn_api_with(&[]).await
    }

    /// As [`TestEnv::spawn_api`], with environment variables that add to or replace
    /// [`TestEnv::config_env`].
    ///
    /// # Panics
    /// As [`TestEnv::spawn_api`].
    pub async fn spawn_api_with(&self, env: &[(&str, &str)]) -> Service {
        ready(self.launch_api_with(env)).await
    }

    /// As [`TestEnv::spawn_api_with`], without waiting until it is ready.
    ///
    /// # Panics
    /// When the program has not been built.
    pub fn launch_api_with(&self, env: &[(&str, &str)]) -> Service {
        self.launch("api", "serve", env)
    }

    /// Starts `worker run` and waits until it is ready.
    ///
    /// # Panics
    /// When the program has not been built or does not become ready; the message holds the end of
    /// its log.
    pub async fn spawn_worker(&self) -> Service {
        self.spawn_worker_with(&[]).await
    }

    /// As [`TestEnv::spawn_worker`], with environment variables that add to or replace
    /// [`TestEnv::config_env`].
    ///
    /// # Panics
    /// As [`TestEnv::spawn_worker`].
    pub async fn spawn_worker_with(&self, env: &[(&str, &str)]) -> Service {
        ready(self.launch_worker_with(env)).await
    }

    /// As [`TestEnv::spawn_worker_with`], without waiting until it is ready.
    ///
    /// # Panics
    /// When the program has not been built.
    pub fn launch_worker_with(&self, env: &[(&str, &str)]) -> Service {
        self.launch("worker", "run", env)
    }

    /// The first program of a test listens where [`TestEnv::config_env`] says, further ones
    /// elsewhere.
    fn launch(&self, name: &str, subcommand: &str, env: &[(&str, &str)]) -> Service {
        let count = if name == "api" { &self.apis } else { &self.workers };
        let number = count.fetch_add(1, Ordering::Relaxed);
        let ports = if number == 0 { self.ports } else { Ports::fresh().expect("ports are free") };
        let program = folder().join(name);
        assert!(
            program.exists(),
            "{} is missing: run `cargo build --workspace --bins` first",
            program.display()
        );
        let (port, internal_port) = if name == "api" {
            (Some(ports.api), ports.api_internal)
        } else {
            (None, ports.worker_internal)
        };
        let log = self.folder.path().join(format!("{name}-{number}.log"));
        let mut spec = ProcessSpec::new(name, program, &[subcommand], log, internal_port)
            .envs(self.config_env_on(ports))
            .envs(env.to_vec());
        // What a developer has set in the shell is not what the test means.
        spec.spec.env_hidden = Some("TENANTRY_".to_owned());
        let process = Process::spawn(spec).unwrap_or_else(|error| panic!("{error:#}"));
        Service { process, port, internal_port }
    }
}

async fn ready(service: Service) -> Service {
    service.ready().await.unwrap_or_else(|error| panic!("{error:#}"));
    service
}
