//! Starts MongoDB and Redis with a data folder and a port of 127.0.0.1.
//!
//! Checking whether they are ready requires a driver; `testkit` does that.

use std::{ffi::OsString, path::Path};

use anyhow::Context;

use crate::{Child, install::Program};

/// Name of the replica set of each MongoDB node.
pub const REPLICA_SET: &str = "rs0";

/// The connection string of the MongoDB on a port.
pub fn mongodb_uri(port: u16) -> String {
    format!("mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}")
}

/// Starts a MongoDB server. Fails if the folder cannot be created or the program cannot be run.
pub fn mongod(program: &Program, dir: &Path, port: u16, log: &Path) -> anyhow::Result<Child> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let spec = program.spec("mongod", log).args(["--dbpath"]).args([dir]);
    let spec = spec.args([
        "--port",
        &port.to_string(),
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
        "--replSet",
        REPLICA_SET,
        // As our own programs; by default it is the time zone of the machine.
        "--timeStampFormat",
        "iso8601-utc",
    ]);
    // Enough for development; the defaults use half of the machine's memory and an oplog of a
    // gigabyte.
    let spec = spec.args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "128"]);
    // Each collection and each index is a file. Hundreds of test databases need more open files
    // than a process may have, unless unused ones are closed.
    let spec = spec.args([
        "--wiredTigerEngineConfigString",
        "file_manager=(close_idle_time=20,close_scan_interval=5,close_handle_minimum=500)",
    ]);
    let spec = spec.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
    Child::spawn(spec)
}

/// Starts a Redis server with [`redis_args`] and further ones. Fails if the folder cannot be
/// created or the program cannot be run.
pub fn redis(
    program: &Program,
    dir: &Path,
    log: &Path,
    args: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<Child> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    Child::spawn(program.spec("redis", log).args(args))
}

/// The arguments of a Redis server with an append-only file, as in production. Later arguments
/// override earlier ones.
pub fn redis_args(dir: &Path, port: u16) -> Vec<OsString> {
    let port = port.to_string();
    let args = [
        "--port",
        &port,
        "--bind",
        "127.0.0.1",
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--save",
        "",
        "--dir",
    ];
    args.into_iter().map(OsString::from).chain([dir.into()]).collect()
}
