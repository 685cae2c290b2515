//! Real servers as child processes on 127.0.0.1, and ways to disturb them.
//!
//! A server is a [`Child`] that can be killed, paused and started again on the same port and data;
//! dropping the handle kills it. [`Proxy`], [`MailCatcher`] and [`NameServer`] run inside this
//! process, on the runtime that started them.

mod authority;
mod dns;
mod listener;
mod mail;
mod mongod;
mod proxy;
mod redis;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use authority::{Authority, Issued};
pub use dns::NameServer;
pub use mail::{Inbox, Mail, MailCatcher, Reply};
pub use mongod::{Mongod, primary};
pub use programs::{Child, Spec, free_port};
pub use proxy::Proxy;
pub use redis::{Redis, RedisCluster, RedisSentinel, answering, tls_args};

/// No data is left inconsistent under these locks, so a panic of another thread does no harm.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
