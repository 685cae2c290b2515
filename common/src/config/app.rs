//! Configuration of the installation as a whole.

use std::time::Duration;

use super::{
    choice,
    reader::{self, Reader},
};
use crate::name::Name;

choice! {
    /// How strict the checks of the configuration are.
    Environment {
        /// Allows insecure defaults: the built-in master key and the demo account.
        Development = "development",
        /// Requires every secret to be set.
        Production = "production",
    }
}

/// The `app` section.
#[derive(Debug, Clone)]
pub struct App {
    /// How strict the checks of the configuration are.
    pub environment: Environment,
    /// Base URL of links in mails, without a trailing slash.
    pub public_url: String,
    /// Name of this installation in authenticator apps, passkeys and the subjects of invitations.
    pub name: Name,
    /// Revision of the source that the programs were built from; empty if unknown.
    pub revision: String,
    /// Interval of the heartbeats of this process.
    pub heartbeat_interval: Duration,
}

impl App {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            environment: r.value(
                "app.environment",
                "production",
                "`development` allows the built-in master key and the demo account; `production` requires real secrets",
            ),
            public_url: r.value::<reader::Url>("app.public_url", "http://127.0.0.1:4000", "Base URL of links in mails; passkeys are bound to its domain and unavailable if it is an IP address").0,
            name: r.value("app.name", "Tenantry", "Name of this installation in authenticator apps, passkeys and the subjects of invitations"),
            revision: r.value("app.revision", "", "Revision of the source that the programs were built from, as `api migrate status` shows it; the container image sets it"),
            heartbeat_interval: r.period("app.heartbeat_interval", "10s", "Interval of the heartbeats by which `api migrate` knows the running processes; at most `20s`, because a process counts as dead a minute after its last heartbeat"),
        }
    }
}
