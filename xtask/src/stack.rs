//! All processes of a running product, started and stopped in order.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use programs::{
    Child, Process, ProcessSpec, Wiring,
    command::{self, run_once},
    free_port,
    install::{Program, Tool},
    progress::step,
    server::mongodb_uri,
};

use crate::{database::Database, installation, up::Keeper};

/// Builds the programs of the stack. Returns their folder.
pub(crate) async fn build(release: bool) -> anyhow::Result<PathBuf> {
    let targets = ["--bin", "api", "--bin", "worker", "--bin", "testkit"];
    command::build("our programs", &targets, release).await
}

/// The port of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) mongod: u16,
    pub(crate) redis: u16,
    pub(crate) smtp: u16,
    pub(crate) inbox: u16,
    pub(crate) api: u16,
    pub(crate) api_internal: u16,
    pub(crate) worker_internal: u16,
    pub(crate) prometheus: u16,
    pub(crate) alertmanager: u16,
}

impl Ports {
    /// The documented ports, all moved by `offset`.
    pub(crate) fn documented(offset: u16) -> anyhow::Result<Self> {
        let at = |port: u16| {
            port.checked_add(offset)
                .with_context(|| format!("port {port} + {offset} is above 65535"))
        };
        Ok(Self {
            mongod: at(27017)?,
            redis: at(6379)?,
            smtp: at(1025)?,
            inbox: at(1080)?,
            api: at(4000)?,
            api_internal: at(4001)?,
            worker_internal: at(4002)?,
            prometheus: at(9090)?,
            alertmanager: at(9093)?,
        })
    }

    /// Free ports.
    pub(crate) fn free() -> anyhow::Result<Self> {
        Ok(Self {
            mongod: free_port()?,
            redis: free_port()?,
            smtp: free_port()?,
            inbox: free_port()?,
            api: free_port()?,
            api_internal: free_port()?,
            worker_internal: free_port()?,
            prometheus: free_port()?,
            alertmanager: free_port()?,
        })
    }
}

/// What to run, and the folders of data and logs.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) state: PathBuf,
    pub(crate) ports: Ports,
    /// Folder of our programs.
    pub(crate) programs: PathBuf,
    /// Prometheus with its configuration file, if it should run.
    pub(crate) prometheus: Option<(Program, PathBuf)>,
    /// Alertmanager with its configuration file, if it should run.
    pub(crate) alertmanager: Option<(Program, PathBuf)>,
    /// File for the spans of our programs, if they should be kept, and the port of their collector.
    pub(crate) trace: Option<(PathBuf, u16)>,
    /// Further environment variables of our programs.
    pub(crate) settings: Vec<(String, String)>,
}

impl Plan {
    /// The log of a process.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.state.join("logs").join(format!("{name}.log"))
    }

    fn data(&self, name: &str) -> PathBuf {
        self.state.join("data").join(name)
    }

    /// A file with variables for `docs/runbooks/commands.sh`.
    fn shell_env(&self) -> PathBuf {
        self.state.join("env")
    }

    /// Writes the file: the environment variables of our programs, and where to find programs and
    /// servers.
    fn write_shell_env(&self, redis: &Program) -> anyhow::Result<()> {
        let path = self.shell_env();
        let redis_cli = redis.beside("redis-cli");
        let mut variables = self.env();
        variables.extend(
            [
                ("TENANTRY_PROGRAMS", self.programs.display().to_string()),
                ("TENANTRY_REDIS_CLI", redis_cli.path.display().to_string()),
                ("TENANTRY_REDIS_LIBRARIES", redis_cli.library_path().unwrap_or_default()),
                ("TENANTRY_PROMETHEUS_URL", self.prometheus_url().unwrap_or_default()),
                ("TENANTRY_ALERTMANAGER_URL", self.alertmanager_url().unwrap_or_default()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        // Quoted: URLs contain characters that a shell would interpret, but none that ends the
        // quotes.
        let lines: Vec<String> =
            variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        std::fs::write(&path, lines.concat()).with_context(|| format!("writing {}", path.display()))
    }

    /// The base URL of Prometheus, if it runs.
    fn prometheus_url(&self) -> Option<String> {
        let port = self.ports.prometheus;
        self.prometheus.is_some().then(|| format!("http://127.0.0.1:{port}"))
    }

    /// The base URL of Alertmanager, if it runs.
    fn alertmanager_url(&self) -> Option<String> {
        let port = self.ports.alertmanager;
        self.alertmanager.is_some().then(|| format!("http://127.0.0.1:{port}"))
    }

    /// The environment variables of our programs.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let Ports { mongod, redis, smtp, api, api_internal, worker_internal, .. } = self.ports;
        let wiring = Wiring {
            // By name: passkeys are bound to a domain.
            public_url: format!("http://localhost:{api}"),
            api_port: api,
            api_internal_port: api_internal,
            worker_internal_port: worker_internal,
            mongodb_uri: mongodb_uri(mongod),
            database: "tenantry".to_owned(),
            redis_url: format!("redis://127.0.0.1:{redis}"),
            key_prefix: "tenantry".to_owned(),
            smtp_port: smtp,
        };
        let mut env = wiring.env();
        // Log files contain JSON, for `jq`; on a terminal the lines are shown in readable form.
        env.push(("TENANTRY__TELEMETRY__FORMAT".to_owned(), "json".to_owned()));
        if let Some((_, port)) = &self.trace {
            let endpoint = format!("http://127.0.0.1:{port}");
            env.push(("TENANTRY__TELEMETRY__OTLP_ENDPOINT".to_owned(), endpoint));
        }
        env.extend(self.settings.iter().cloned());
        env
    }
}

/// A process of the stack, of any kind.
#[derive(Debug)]
pub(crate) enum Server {
    Database(Database),
    Process(Process),
}

impl Server {
    /// Waits until it is ready.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        match self {
            Self::Database(database) => database.ready().await,
            Self::Process(process) => process.ready().await,
        }
    }
}

impl Deref for Server {
    type Target = Child;

    fn deref(&self) -> &Child {
        match self {
            Self::Database(database) => database,
            Self::Process(process) => process,
        }
    }
}

/// A process with its name and port.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    pub(crate) server: Arc<Server>,
}

/// Stopped in this order: processes before those that they use.
const STOP_ORDER: [&str; 8] =
    ["api", "worker", "traces", "prometheus", "alertmanager", "mail", "redis", "mongod"];

/// The running product. Dropping it kills what [`Stack::stop`] has not stopped.
#[derive(Debug)]
pub(crate) struct Stack {
    plan: Plan,
    members: Vec<Member>,
    /// Restarts members that end, if they should be kept alive.
    keeper: Option<Keeper>,
}

impl Stack {
    pub(crate) fn new(plan: Plan, keeper: Option<Keeper>) -> Self {
        Self { plan, members: Vec::new(), keeper }
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Starts everything in order; each process starts once the previous one is ready.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let plan = self.plan.clone();
        let (ports, env) = (plan.ports, plan.env());
        for folder in ["logs", "data"] {
            let folder = plan.state.join(folder);
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("creating {}", folder.display()))?;
        }
        plan.write_shell_env(&Tool::Redis.find().await?)?;
        let testkit = plan.programs.join("testkit");
        let (data, log) = (plan.data("mongod"), plan.log("mongod"));
        let mongod = Database::mongod(&testkit, &data, ports.mongod, &log);
        self.add("mongod", ports.mongod, async { mongod.await.map(Server::Database) }).await?;
        let (data, log) = (plan.data("redis"), plan.log("redis"));
        let redis = Database::redis(&testkit, &data, ports.redis, &log);
        self.add("redis", ports.redis, async { redis.await.map(Server::Database) }).await?;
        if let Some((file, port)) = &plan.trace {
            self.add("traces", *port, process(traces(&plan, &testkit, file, *port))).await?;
        }
        self.add("mail", ports.inbox, process(mail(&plan, testkit))).await?;

        let api = plan.programs.join("api");
        step(
            "bringing the database's schema up to date",
            run_once(&api, &["migrate", "up"], &env, &plan.log("api")),
        )
        .await?;
        step("creating the demo account", run_once(&api, &["seed-demo"], &env, &plan.log("api")))
            .await?;
        let spec = ProcessSpec::new("api", api, &["serve"], plan.log("api"), ports.api_internal);
        self.add("api", ports.api, process(spec.envs(env.clone()))).await?;
        step(
            "checking that this API answers at its port",
            installation::check(&plan.programs.join("api"), &env, ports.api),
        )
        .await?;
        let worker = plan.programs.join("worker");
        let spec =
            ProcessSpec::new("worker", worker, &["run"], plan.log("worker"), ports.worker_internal);
        self.add("worker", ports.worker_internal, process(spec.envs(env))).await?;
        if let Some((program, config)) = &plan.alertmanager {
            let spec = alertmanager(&plan, program, config);
            self.add("alertmanager", ports.alertmanager, process(spec)).await?;
        }
        if let Some((program, config)) = &plan.prometheus {
            self.add("prometheus", ports.prometheus, process(prometheus(&plan, program, config)))
                .await?;
        }
        Ok(())
    }

    /// Stops everything in order and waits for it.
    pub(crate) async fn stop(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            keeper.rest().await;
        }
        for name in STOP_ORDER {
            if let Some(at) = self.members.iter().position(|member| member.name == name) {
                let member = self.members.swap_remove(at);
                let stopping = async {
                    member.server.stop().await;
                    Ok(())
                };
                // Stopping cannot fail: what ignores SIGTERM is killed.
                let _ = step(format!("stopping {name}"), stopping).await;
            }
        }
    }

    async fn add(
        &mut self,
        name: &'static str,
        port: u16,
        start: impl Future<Output = anyhow::Result<Server>>,
    ) -> anyhow::Result<()> {
        if let Some(keeper) = &mut self.keeper {
            keeper.follow(name, &self.plan.log(name));
        }
        let server = step(format!("starting {name} on port {port}"), start).await?;
        let member = Member { name, port, server: Arc::new(server) };
        self.members.push(member.clone());
        match &mut self.keeper {
            Some(keeper) => keeper.keep(member),
            None => Ok(()),
        }
    }
}

async fn process(spec: ProcessSpec) -> anyhow::Result<Server> {
    Ok(Server::Process(Process::start(spec).await?))
}

fn mail(plan: &Plan, testkit: PathBuf) -> ProcessSpec {
    let (smtp, http) = (plan.ports.smtp.to_string(), plan.ports.inbox.to_string());
    let args = ["mail", "--smtp-port", &smtp, "--http-port", &http, "--state-dir"];
    let mut spec = ProcessSpec::new("mail", testkit, &args, plan.log("mail"), plan.ports.inbox);
    spec.spec = spec.spec.args([plan.data("mail")]);
    spec
}

fn traces(plan: &Plan, testkit: &Path, file: &Path, port: u16) -> ProcessSpec {
    let port_arg = port.to_string();
    let args = ["traces", "--port", &port_arg, "--file"];
    let mut spec = ProcessSpec::new("traces", testkit.to_owned(), &args, plan.log("traces"), port);
    spec.spec = spec.spec.args([file]);
    spec
}

fn prometheus(plan: &Plan, program: &Program, config: &Path) -> ProcessSpec {
    let port = plan.ports.prometheus;
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.tsdb.path={}", plan.data("prometheus").display()),
        "--storage.tsdb.retention.time=7d".to_owned(),
        format!("--web.listen-address=127.0.0.1:{port}"),
    ];
    let spec = program.spec("prometheus", plan.log("prometheus")).args(args);
    ProcessSpec {
        spec,
        health_port: port,
        health_path: "/-/ready",
        ready_within: Duration::from_mins(1),
    }
}

fn alertmanager(plan: &Plan, program: &Program, config: &Path) -> ProcessSpec {
    let port = plan.ports.alertmanager;
    let args = [
        format!("--config.file={}", config.display()),
        format!("--storage.path={}", plan.data("alertmanager").display()),
        format!("--web.listen-address=127.0.0.1:{port}"),
        // There is only one, so it needs no port for others.
        "--cluster.listen-address=".to_owned(),
    ];
    ProcessSpec {
        spec: program.spec("alertmanager", plan.log("alertmanager")).args(args),
        health_port: port,
        health_path: "/-/ready",
        ready_within: Duration::from_mins(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_can_read_the_environment_file() {
        let folder = tempfile::tempdir().unwrap();
        let ports = Ports::documented(1_000).unwrap();
        let plan = Plan {
            state: folder.path().to_owned(),
            ports,
            programs: PathBuf::new(),
            prometheus: None,
            alertmanager: None,
            trace: None,
            settings: Vec::new(),
        };
        let libraries = vec![PathBuf::from("/cache/lib"), PathBuf::from("/cache/usr/lib")];
        let redis =
            Program { path: PathBuf::from("/cache/bin/redis-server"), libraries, shared: None };
        plan.write_shell_env(&redis).unwrap();
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "set -a; . ./env; set +a; env"])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", "/usr/bin:/bin");
        let told = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        for (name, value) in plan.env() {
            assert!(told.lines().any(|line| line == format!("{name}={value}")), "{name}: {told}");
        }
        for line in [
            "TENANTRY_REDIS_CLI=/cache/bin/redis-cli",
            "TENANTRY_REDIS_LIBRARIES=/cache/lib:/cache/usr/lib",
            "TENANTRY_PROMETHEUS_URL=",
            "TENANTRY_ALERTMANAGER_URL=",
        ] {
            assert!(told.lines().any(|told| told == line), "{line}: {told}");
        }
    }
}
