//! One of our programs as a child process that is ready when its health check succeeds.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::TcpStream;

use crate::{Child, Spec, http::Request, is_free};

/// How to start one of our programs.
#[derive(Debug, Clone)]
pub struct ProcessSpec {
    /// The program with its arguments.
    pub spec: Spec,
    /// Port of its health checks on 127.0.0.1.
    pub health_port: u16,
    /// Path that returns status 200 when the program is ready.
    pub health_path: &'static str,
    /// Maximum time until it is ready.
    pub ready_within: Duration,
}

impl ProcessSpec {
    /// A program with arguments that logs to `log`.
    pub fn new(
        name: &str,
        program: impl Into<PathBuf>,
        args: &[&str],
        log: impl AsRef<Path>,
        health_port: u16,
    ) -> Self {
        let spec = Spec::new(name, program, log.as_ref()).args(args);
        Self {
            spec,
            health_port,
            health_path: "/health/ready",
            ready_within: Duration::from_mins(1),
        }
    }

    /// Adds environment variables; later ones override earlier ones.
    #[must_use]
    pub fn envs<K: Into<String>, V: Into<String>>(
        mut self,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.spec = self.spec.envs(env);
        self
    }
}

/// One of our programs. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    health_port: u16,
    health_path: &'static str,
    ready_within: Duration,
}

impl Process {
    /// Starts it and waits until it is ready. Fails if it cannot be run or does not become ready;
    /// the message includes the end of its log. Fails too if another program listens at its port,
    /// which would be taken for it.
    pub async fn start(spec: ProcessSpec) -> anyhow::Result<Self> {
        let (name, port) = (&spec.spec.name, spec.health_port);
        anyhow::ensure!(is_free(port), "port {port} of {name} is taken by another program");
        let process = Self::spawn(spec)?;
        process.ready().await?;
        Ok(process)
    }

    /// Starts it without waiting. Fails if it cannot be run.
    pub fn spawn(spec: ProcessSpec) -> anyhow::Result<Self> {
        let ProcessSpec { spec, health_port, health_path, ready_within } = spec;
        Ok(Self { child: Child::spawn(spec)?, health_port, health_path, ready_within })
    }

    /// Waits until it is ready. Fails if it ends first or takes too long; the message includes the
    /// end of its log.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let healthy = async {
            while !self.is_ready().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        self.child.ready_when(healthy, self.ready_within).await
    }

    /// Whether it is ready now.
    pub async fn is_ready(&self) -> bool {
        let asking = Request::new("GET", self.health_port, self.health_path).send();
        let answer = tokio::time::timeout(Duration::from_secs(2), asking).await;
        matches!(answer, Ok(Ok(answer)) if answer.status == 200)
    }

    /// Starts it again with the same arguments and environment, and waits until it is ready; kills
    /// it first if it is still running.
    pub async fn start_again(&self) -> anyhow::Result<()> {
        self.child.respawn().await?;
        self.ready().await
    }
}

impl std::ops::Deref for Process {
    type Target = Child;

    /// A program of ours is a child process with a health check.
    fn deref(&self) -> &Child {
        &self.child
    }
}

/// Waits until a process accepts connections on this port.
pub async fn listening(port: u16) {
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::free_port;

    #[tokio::test]
    async fn another_program_at_the_port_is_not_taken_for_a_process() {
        let port = free_port().unwrap();
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = other.accept() {
                let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 200 OK\r\n\r\n");
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("sleep.log");
        let started = Process::start(ProcessSpec::new("sleep", "sleep", &["60"], log, port)).await;
        let error = started.unwrap_err().to_string();
        assert_eq!(error, format!("port {port} of sleep is taken by another program"));
    }
}
