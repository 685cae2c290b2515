//! Prometheus and Alertmanager with the shipped rules and configuration, and what they report.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use programs::{
    Process, ProcessSpec, command, free_port,
    install::{Program, Tool},
    workspace_root,
};
use serde::Deserialize;
use serde_json::Value;
use testkit::servers::{Mail, MailCatcher};
use tokio::process::Command;

use super::shorten::shortened;

/// The recipient of the alerts.
const OPERATORS: &str = "operators@example.com";
/// Maximum time until something can be queried that has happened, or is about to.
const SCRAPED_WITHIN: Duration = Duration::from_secs(30);
/// Alerts that say nothing about a fault: one always fires, the other is about the disk of the machine.
const UNRELATED: &[&str] = &["Watchdog", "MongodbDiskHigh"];

/// The two programs.
pub(super) struct Tools {
    prometheus: Program,
    alertmanager: Program,
}

impl Tools {
    pub(super) const fn prometheus(&self) -> &Program {
        &self.prometheus
    }

    pub(super) const fn alertmanager(&self) -> &Program {
        &self.alertmanager
    }

    /// Fails if one cannot be found or installed.
    pub(super) async fn find() -> anyhow::Result<Self> {
        Ok(Self {
            prometheus: Tool::Prometheus.find().await?,
            alertmanager: Tool::Alertmanager.find().await?,
        })
    }
}

/// A running Alertmanager, which mails to a mail server of its own.
pub(super) struct Alertmanager {
    process: Process,
    port: u16,
    pub(super) mail: MailCatcher,
}

impl Alertmanager {
    /// Starts it with the shipped configuration and shortened times.
    pub(super) async fn start(
        program: &Program,
        folder: &Path,
        factor: u32,
    ) -> anyhow::Result<Self> {
        let (mail, port) = (MailCatcher::start(None).await?, free_port()?);
        let mut configure = Command::new("sh");
        configure
            .arg(workspace_root().join("dashboards/alertmanager/configure.sh"))
            .env("TENANTRY_ALERTS_TO", OPERATORS)
            .env("TENANTRY_ALERTS_SMTP", format!("127.0.0.1:{}", mail.port()))
            .kill_on_drop(true);
        let config = folder.join("alertmanager.yml");
        std::fs::write(&config, shortened(&command::output(&mut configure).await?, factor))?;
        let args = [
            format!("--config.file={}", config.display()),
            format!("--storage.path={}", folder.join("alertmanager").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--cluster.listen-address=".to_owned(),
        ];
        let spec = program.spec("alertmanager", folder.join("alertmanager.log")).args(args);
        Ok(Self { process: Process::start(ready(spec, port)).await?, port, mail })
    }

    /// The alerts that were mailed, with their severity, as `page firing MailFailing`, except those
    /// that no fault raises.
    pub(super) fn mailed(&self) -> BTreeSet<String> {
        let mailed = self.mail.messages().iter().filter_map(subject).collect::<BTreeSet<_>>();
        let is_unrelated = |mailed: &String| UNRELATED.iter().any(|name| mailed.ends_with(name));
        mailed.into_iter().filter(|mailed| !is_unrelated(mailed)).collect()
    }

    pub(super) async fn stop(self) {
        self.process.stop().await;
    }
}

/// Severity, status and name in the subject of a mail: `[page firing] MailFailing: …`.
fn subject(mail: &Mail) -> Option<String> {
    let (head, rest) = mail.subject.strip_prefix('[')?.split_once("] ")?;
    Some(format!("{head} {}", rest.split_once(':')?.0))
}

/// A running Prometheus.
pub(super) struct Prometheus {
    process: Process,
    port: u16,
}

/// An alert that fires.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Firing {
    pub(super) name: String,
    pub(super) severity: String,
}

#[derive(Deserialize)]
struct Answer {
    data: Alerts,
}

#[derive(Deserialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

#[derive(Deserialize)]
struct Alert {
    state: String,
    labels: Labels,
}

#[derive(Deserialize)]
struct Labels {
    alertname: String,
    severity: String,
}

impl Prometheus {
    /// Starts it with the shipped configuration and rules, and shortened times.
    pub(super) async fn start(
        program: &Program,
        folder: &Path,
        targets: Targets,
        factor: u32,
    ) -> anyhow::Result<Self> {
        let (port, config) = (free_port()?, configure(folder, targets, factor)?);
        let args = [
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", folder.join("prometheus").display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            // Otherwise Alertmanager would take an alert for resolved between two notifications.
            format!("--rules.alert.resend-delay={}ms", 60_000 / factor),
        ];
        let spec = program.spec("prometheus", folder.join("prometheus.log")).args(args);
        Ok(Self { process: Process::start(ready(spec, port)).await?, port })
    }

    /// Waits until it has scraped both programs, so that whatever they count from now on is an
    /// increase.
    pub(super) async fn scraped(&self) -> anyhow::Result<()> {
        self.returns("count(up == 1) == 2").await
    }

    /// Waits until a query returns data.
    pub(super) async fn returns(&self, query: &str) -> anyhow::Result<()> {
        let url = format!("{}/api/v1/query", self.url());
        let url = reqwest::Url::parse_with_params(&url, [("query", query)])?;
        let asking = async {
            loop {
                let answer: Value = reqwest::get(url.clone()).await?.json().await?;
                if answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty()) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(SCRAPED_WITHIN, asking)
            .await
            .with_context(|| format!("Prometheus returns no data for {query}"))?
    }

    /// The alerts that fire, except those that no fault raises.
    pub(super) async fn firing(&self) -> anyhow::Result<BTreeSet<Firing>> {
        let alerts = self.alerts().await?.into_iter().filter(|alert| alert.state == "firing");
        let firing = alerts.map(|Alert { labels, .. }| Firing {
            name: labels.alertname,
            severity: labels.severity,
        });
        Ok(firing.collect())
    }

    /// Whether an alert fires, or is about to.
    pub(super) async fn suspects(&self, name: &str) -> anyhow::Result<bool> {
        Ok(self.alerts().await?.iter().any(|alert| alert.labels.alertname == name))
    }

    async fn alerts(&self) -> anyhow::Result<Vec<Alert>> {
        let url = format!("{}/api/v1/alerts", self.url());
        let answer = reqwest::get(url).await.context("asking Prometheus for its alerts")?;
        let answer: Answer = answer.json().await.context("reading the alerts of Prometheus")?;
        let alerts = answer.data.alerts.into_iter();
        Ok(alerts.filter(|alert| !UNRELATED.contains(&alert.labels.alertname.as_str())).collect())
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) async fn stop(self) {
        self.process.stop().await;
    }
}

/// Ports of what Prometheus scrapes and notifies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Targets {
    pub(super) api: u16,
    pub(super) worker: u16,
    pub(super) alertmanager: u16,
}

impl Targets {
    pub(super) fn new(api: u16, worker: u16, alertmanager: &Alertmanager) -> Self {
        Self { api, worker, alertmanager: alertmanager.port }
    }
}

/// Writes the configuration and the rules. Returns the path of the configuration.
fn configure(folder: &Path, targets: Targets, factor: u32) -> anyhow::Result<PathBuf> {
    let shipped = workspace_root().join("dashboards/prometheus");
    let rules = folder.join("rules");
    std::fs::create_dir_all(&rules)?;
    for rule in std::fs::read_dir(shipped.join("rules"))? {
        let rule = rule?;
        let text = std::fs::read_to_string(rule.path())?;
        std::fs::write(rules.join(rule.file_name()), shortened(&text, factor))?;
    }
    let mut text = std::fs::read_to_string(shipped.join("prometheus.yml"))?;
    for (shipped, ours) in
        [("4001", targets.api), ("4002", targets.worker), ("9093", targets.alertmanager)]
    {
        text = text.replace(&format!("127.0.0.1:{shipped}"), &format!("127.0.0.1:{ours}"));
    }
    let config = folder.join("prometheus.yml");
    std::fs::write(&config, shortened(&text, factor))?;
    Ok(config)
}

fn ready(spec: programs::Spec, port: u16) -> ProcessSpec {
    ProcessSpec {
        spec,
        health_port: port,
        health_path: "/-/ready",
        ready_within: Duration::from_mins(1),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Alertmanager's times are divided by this.
    const FACTOR: u32 = 10;
    const DEADLINE: Duration = Duration::from_mins(1);

    fn alert(name: &str, severity: &str) -> Value {
        json!({
            "labels": { "alertname": name, "severity": severity, "queue": "email" },
            "annotations": {
                "summary": format!("{name} happened"),
                "description": "What to do.",
                "runbook_url": format!("https://example.com/{name}.md"),
            },
        })
    }

    /// A cause and its symptom, and an alert that has nothing to do with them.
    #[tokio::test(flavor = "multi_thread")]
    async fn alerts_are_mailed_and_a_cause_silences_its_symptoms() {
        let program = match Tool::Alertmanager.find().await {
            Ok(program) => program,
            Err(error) => return println!("skipped: {error:#}"),
        };
        let folder = tempfile::tempdir().unwrap();
        let alertmanager = Alertmanager::start(&program, folder.path(), FACTOR).await.unwrap();
        let alerts = json!([
            alert("MailFailing", "page"),
            alert("JobsRetrying", "ticket"),
            alert("MailRefused", "ticket"),
            alert("MongodbDiskHigh", "page"),
        ]);
        let url = format!("http://127.0.0.1:{}/api/v2/alerts", alertmanager.port);
        let client = reqwest::Client::new();
        let answer = client.post(&url).json(&alerts).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());

        let page = |mail: &Mail| subject(mail).as_deref() == Some("page firing MailFailing");
        let page = alertmanager.mail.wait_for(page, DEADLINE).await;
        assert_eq!(page.to, [OPERATORS]);
        assert_eq!(page.subject, "[page firing] MailFailing: MailFailing happened");
        for told in ["What to do.", "https://example.com/MailFailing.md"] {
            assert!(page.text.contains(told), "{told} is missing: {}", page.text);
        }
        // Both tickets wait for the same time, and the symptom would be mailed with this one.
        let ticket = |mail: &Mail| subject(mail).as_deref() == Some("ticket firing MailRefused");
        alertmanager.mail.wait_for(ticket, DEADLINE).await;
        let known: Vec<Value> = client.get(&url).send().await.unwrap().json().await.unwrap();
        let symptom = known.iter().find(|alert| alert["labels"]["alertname"] == "JobsRetrying");
        assert_eq!(symptom.unwrap()["status"]["state"], "suppressed");
        assert!(!alertmanager.mailed().contains("ticket firing JobsRetrying"));
        let disk = |mail: &Mail| subject(mail).as_deref() == Some("page firing MongodbDiskHigh");
        alertmanager.mail.wait_for(disk, DEADLINE).await;
        assert!(alertmanager.mailed().contains("page firing MailFailing"));
        assert!(
            !alertmanager.mailed().contains("page firing MongodbDiskHigh"),
            "no fault raises it"
        );
        alertmanager.stop().await;
    }
}
