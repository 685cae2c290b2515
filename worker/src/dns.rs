//! Asking the DNS.

use common::config;
use hickory_resolver::{
    Resolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData},
};

/// The name servers that are asked.
pub(crate) struct Dns {
    config: config::Dns,
}

impl Dns {
    pub(crate) fn new(config: &config::Dns) -> Self {
        Self { config: config.clone() }
    }

    /// The texts of a name's TXT records, each put together of its parts (RFC 7208 §3.3); none
    /// where there are none.
    ///
    /// # Errors
    /// When no server answers, or none knows.
    pub(crate) async fn texts(&self, name: &str) -> Result<Vec<String>, NetError> {
        // From the root, so that no search domain is put behind it. What is no name there has no
        // records.
        let Ok(name) = Name::from_ascii(format!("{name}.")) else { return Ok(Vec::new()) };
        let resolver = self.resolver()?;
        let asking = tokio::time::timeout(self.config.timeout, resolver.txt_lookup(name));
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

    /// Made for each question, so that nothing is answered from memory: whoever asks has just
    /// changed a record.
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
