//! Ports that no other process uses.
//!
//! Binding port 0 and closing it again is a race that parallel tests sometimes lose: the kernel
//! gives the same port to an outgoing connection. Therefore ports are chosen below the range of
//! outgoing connections, and a lock file per port keeps other test processes away for as long as
//! this one runs.

use std::{
    fs::File,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::Context;

const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Locked until this process ends; the kernel releases the locks then.
static CLAIMS: Mutex<Vec<File>> = Mutex::new(Vec::new());
static NEXT: AtomicU16 = AtomicU16::new(0);

/// A free port of 127.0.0.1 that no other process will get from this function. Fails if the folder
/// of lock files cannot be written, or every port is taken.
pub fn free_port() -> anyhow::Result<u16> {
    // Each process starts at another port, so that they rarely try the same one.
    let start = u16::try_from(std::process::id() * 7 % u32::from(COUNT)).unwrap_or(0);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if claim_port(port)? {
            return Ok(port);
        }
    }
    anyhow::bail!("no port between {FIRST} and {} is free", FIRST + COUNT)
}

/// Claims a port of 127.0.0.1 for this process, among all processes that use this function. Returns
/// false if another one has claimed it. Fails if the folder of lock files cannot be written.
pub fn claim_port(port: u16) -> anyhow::Result<bool> {
    let folder =
        std::env::temp_dir().join(format!("xtask-ports-{}", rustix::process::getuid().as_raw()));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let claim = File::create(folder.join(port.to_string()))
        .with_context(|| format!("claiming a port in {}", folder.display()))?;
    let claimed = claim.try_lock().is_ok() && is_free(port);
    if claimed {
        CLAIMS.lock().unwrap_or_else(PoisonError::into_inner).push(claim);
    }
    Ok(claimed)
}

/// Whether a server could listen on this port of 127.0.0.1, and no other one answers for it at
/// `localhost`, which is also `::1`.
pub fn is_free(port: u16) -> bool {
    let bind = |address: IpAddr| TcpListener::bind((address, port));
    let answers_at_ipv6 = matches!(bind(Ipv6Addr::LOCALHOST.into()), Err(error) if error.kind() == ErrorKind::AddrInUse);
    bind(Ipv4Addr::LOCALHOST.into()).is_ok() && !answers_at_ipv6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let mut ports: Vec<u16> = (0..50).map(|_| free_port().unwrap()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_taken_port_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port().unwrap())).unwrap();
        assert!(!is_free(taken.local_addr().unwrap().port()));
    }

    #[test]
    fn a_port_at_which_localhost_is_another_server_is_not_free() {
        let port = free_port().unwrap();
        match TcpListener::bind((Ipv6Addr::LOCALHOST, port)) {
            Ok(_taken) => assert!(!is_free(port)),
            // Without IPv6, nobody can take it there.
            Err(_) => assert!(is_free(port)),
        }
    }
}
