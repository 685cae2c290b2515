//! The programs of the product, started by a test.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use programs::{Process, ProcessSpec, http::Request};

use super::{Ports, TestEnv, program};

const READY_WITHIN: Duration = Duration::from_mins(1);

/// A running `api` or `worker`. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    process: Process,
    port: Option<u16>,
    internal_port: u16,
}

impl Service {
    /// URL for clients, without a trailing slash.
    ///
    /// # Panics
    /// If it is a worker, which has no clients.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port.expect("a worker has no public address"))
    }

    /// URL of metrics and health, without a trailing slash.
    pub fn internal_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.internal_port)
    }
}

/// Configuration of a further API or worker of a test.
#[derive(Debug)]
pub struct Instance {
    number: u32,
    ports: Ports,
    env: Vec<(String, String)>,
}

impl Instance {
    /// Its environment variables.
    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// URL for clients of an API, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.api)
    }

    /// Port of the health checks of an API.
    pub fn api_health_port(&self) -> u16 {
        self.ports.api_internal
    }

    /// Port of the health checks of a worker.
    pub fn worker_health_port(&self) -> u16 {
        self.ports.worker_internal
    }
}

/// Waits until a service in the process of the test is ready.
///
/// # Panics
/// If `running` ends, or it takes longer than a minute.
pub async fn ready<E: std::fmt::Debug>(
    health_port: u16,
    running: impl Future<Output = Result<(), E>>,
) {
    let ready = async {
        while !is_ready(health_port).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = running => panic!("it ended before it was ready: {ended:?}"),
        ready = tokio::time::timeout(READY_WITHIN, ready) => ready.expect("it is ready in time"),
    }
}

/// Whether the service with health checks on this port is ready.
pub async fn is_ready(health_port: u16) -> bool {
    let answer = Request::new("GET", health_port, "/health/ready").send().await;
    answer.is_ok_and(|answer| answer.status == 200)
}

impl std::ops::Deref for Service {
    type Target = Process;

    /// A service is a process with URLs.
    fn deref(&self) -> &Process {
        &self.process
    }
}

impl TestEnv {
    /// Starts `api serve` and waits until it is ready.
    ///
    /// # Panics
    /// If the program has not been built or does not become ready; the message includes the end of
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
        until_ready(self.launch_api_with(env)).await
    }

    /// As [`TestEnv::spawn_api_with`], without waiting until it is ready.
    ///
    /// # Panics
    /// If the program has not been built.
    pub fn launch_api_with(&self, env: &[(&str, &str)]) -> Service {
        self.launch("api", "serve", env)
    }

    /// Starts `worker run` and waits until it is ready.
    ///
    /// # Panics
    /// If the program has not been built or does not become ready; the message includes the end of
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
        until_ready(self.launch_worker_with(env)).await
    }

    /// As [`TestEnv::spawn_worker_with`], without waiting until it is ready.
    ///
    /// # Panics
    /// If the program has not been built.
    pub fn launch_worker_with(&self, env: &[(&str, &str)]) -> Service {
        self.launch("worker", "run", env)
    }

    /// Reserves ports for another API, which may run in the process of the test.
    ///
    /// # Panics
    /// If no port is free.
    pub fn another_api(&self) -> Instance {
        self.instance(&self.apis)
    }

    /// As [`TestEnv::another_api`], for a worker.
    ///
    /// # Panics
    /// If no port is free.
    pub fn another_worker(&self) -> Instance {
        self.instance(&self.workers)
    }

    /// The first service of a kind uses the ports in [`TestEnv::config_env`]; further ones use
    /// other ports.
    fn instance(&self, count: &AtomicU32) -> Instance {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let ports = if number == 0 { self.ports } else { Ports::fresh().expect("ports are free") };
        Instance { number, ports, env: self.config_env_on(ports) }
    }

    fn launch(&self, name: &str, subcommand: &str, env: &[(&str, &str)]) -> Service {
        let count = if name == "api" { &self.apis } else { &self.workers };
        let Instance { number, ports, env: usual } = self.instance(count);
        let program = program(name);
        let (port, internal_port) = if name == "api" {
            (Some(ports.api), ports.api_internal)
        } else {
            (None, ports.worker_internal)
        };
        let log = self.folder.path().join(format!("{name}-{number}.log"));
        let mut spec = ProcessSpec::new(name, program, &[subcommand], log, internal_port)
            .envs(usual)
            .envs(env.to_vec());
        // Variables in the developer's shell must not affect the test.
        spec.spec.env_hidden = Some("TENANTRY_".to_owned());
        let process = Process::spawn(spec).unwrap_or_else(|error| panic!("{error:#}"));
        Service { process, port, internal_port }
    }
}

async fn until_ready(service: Service) -> Service {
    service.ready().await.unwrap_or_else(|error| panic!("{error:#}"));
    service
}
