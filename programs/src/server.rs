//! How MongoDB and Redis are started on a data folder and a port of 127.0.0.1.
//!
//! Whether they are ready takes a driver to find out; `testkit` knows that.

use std::{ffi::OsString, path::Path};

use anyhow::Context;

use crate::{Child, install::Program};

/// The replica set that each node of MongoDB is, alone.
pub const REPLICA_SET: &str = "rs0";

/// The connection string of the MongoDB on a port.
pub fn mongodb_uri(port: u16) -> String {
    format!("mongodb://127.0.0.1:{port}/?replicaSet={REPLICA_SET}")
}

/// Starts a MongoDB server.
///
/// # Errors
/// When the folder cannot be created or the program cannot be run.
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
    ]);
    // Enough for development; the defaults take half of the machine's memory and a gigabyte of
    // oplog.
    let spec = spec.args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "128"]);
    // A file a collection and an index: hundreds of tests, each with a database of its own, need
    // more than a process may have open, unless what is not used any more is closed.
    let spec = spec.args([
        "--wiredTigerEngineConfigString",
        "file_manager=(close_idle_time=20,close_scan_interval=5,close_handle_minimum=500)",
    ]);
    let spec = spec.args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
    Child::spawn(spec)
}

/// Starts a Redis server with [`redis_args`] and further ones.
///
/// # Errors
/// When the folder cannot be created or the program cannot be run.
pub fn redis(
    program: &Program,
    dir: &Path,
    log: &Path,
    args: impl IntoIterator<Item = OsString>,
) -> anyhow::Result<Child> {
    std::fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    Child::spawn(program.spec("redis", log).args(args))
}

/// The arguments of a Redis server that keeps its data in an append-only file, as in production.
/// Where an argument is given twice, the later one counts.
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
