//! DNS queries.

use common::{config, telemetry::trace::Call};
use hickory_resolver::{
    Resolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData},
};
use tracing::Instrument;

/// A DNS client.
pub(crate) struct Dns {
    config: config::Dns,
}

impl Dns {
    pub(crate) fn new(config: &config::Dns) -> Self {
        Self { config: config.clone() }
    }

    /// The texts of a name's TXT records, each joined from its parts (RFC 7208 §3.3). Fails if no
    /// server gives an answer.
    pub(crate) async fn texts(&self, name: &str) -> Result<Vec<String>, NetError> {
        // Fully qualified, so that no search domain is appended. An invalid name has no records.
        let Ok(name) = Name::from_ascii(format!("{name}.")) else { return Ok(Vec::new()) };
        let resolver = self.resolver()?;
        let asking = tokio::time::timeout(self.config.timeout, resolver.txt_lookup(name))
            .instrument(Call::Dns.span());
        let found = match asking.await.map_err(|_| NetError::Timeout)? {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let texts = found.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        });
        Ok(texts.collect())
    }

    /// A new resolver for each query, so that nothing is answered from a cache: the record has often
    /// just been changed.
    fn resolver(&self) -> Result<Resolver<TokioRuntimeProvider>, NetError> {
        let mut builder = if self.config.servers.is_empty() {
            Resolver::builder_tokio()?
        } else {
            let servers = self.config.servers.iter().map(|server| {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = server.port();
                }
                NameServerConfig::new(server.ip(), true, connections)
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            Resolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        builder.options_mut().timeout = self.config.timeout;
        builder.build()
    }
}
