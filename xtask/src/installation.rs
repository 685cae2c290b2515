//! Whether the API that answers at a port belongs to the installation that was just started.
//!
//! Another one may answer: at the other address of `localhost`, which is both 127.0.0.1 and `::1`, or
//! because a container runtime redirects the port. Everything would seem to work, on other data. An
//! installation is recognised by its signing keys: an API publishes those of its database.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, ensure};
use programs::{command::output, http::Request};
use serde_json::Value;
use tokio::{net::TcpStream, process::Command};

const KEYS: &str = "/.well-known/jwks.json";
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Fails if an API that knows none of the signing keys in our database answers for `localhost`.
pub(crate) async fn check(api: &Path, env: &[(String, String)], port: u16) -> anyhow::Result<()> {
    let mut listing = Command::new(api);
    listing.args(["keys", "list"]).envs(env.iter().map(|(name, value)| (name, value)));
    let listed = output(listing.kill_on_drop(true)).await?;
    let own = listed_keys(&listed);
    // Browsers try both for `localhost`, whatever the machine's list of hosts says.
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let address = SocketAddr::from((ip, port));
        if TcpStream::connect(address).await.is_ok() {
            ensure!(
                knows_one(address, &own).await?,
                "another installation answers at {address}: it does not know the signing keys of this one; stop it, or move all ports with `--port-offset`"
            );
        }
    }
    Ok(())
}

/// Whether the API at an address publishes one of these keys.
async fn knows_one(address: SocketAddr, own: &BTreeSet<&str>) -> anyhow::Result<bool> {
    let asking = Request::at("GET", address, KEYS).send();
    let answer = tokio::time::timeout(ANSWERS_WITHIN, asking)
        .await
        .with_context(|| format!("{address} did not answer within {ANSWERS_WITHIN:?}"))??;
    // Whatever is not a list of keys is not our API either.
    let served: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let served = served["keys"].as_array().into_iter().flatten();
    Ok(served.filter_map(|key| key["kid"].as_str()).any(|key| own.contains(key)))
}

/// The ids in the table of `api keys list`, after its heading.
fn listed_keys(table: &str) -> BTreeSet<&str> {
    table.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// The address of a server that answers every request with this body.
    fn serving(body: &'static str) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            use std::io::{Read, Write};
            while let Ok((mut stream, _)) = listener.accept() {
                let _ = stream.read(&mut [0; 1024]);
                let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n{body}");
            }
        });
        address
    }

    #[tokio::test]
    async fn an_installation_is_recognised_by_one_of_its_keys() {
        let table = "KEY  STATE\nsig_1  retiring  2025\nsig_2  active  2025\n";
        let own = listed_keys(table);
        let ours = serving(r#"{"keys":[{"kid":"sig_2"},{"kid":"sig_3"}]}"#);
        assert!(knows_one(ours, &own).await.unwrap());
        for other in [r#"{"keys":[{"kid":"sig_4"},{"kid":"KEY"}]}"#, r#"{"keys":[]}"#, "hello"] {
            assert!(!knows_one(serving(other), &own).await.unwrap(), "{other}");
        }
    }
}
