//! Real servers as child processes bound to 127.0.0.1, and the means to disturb them.
//!
//! A server is a [`Child`] that can be killed, paused and started again on the same port and data;
//! dropping the handle ends it. [`Proxy`], [`MailCatcher`] and [`NameServer`] run inside this
//! process and on the runtime that started them.

mod authority;
mod child;
mod dns;
pub mod install;
mod listener;
mod mail;
mod mongod;
mod ports;
mod process;
mod proxy;
mod redis;
mod wiring;

pub use authority::{Authority, Issued};
pub use child::{Child, Spec};
pub use dns::NameServer;
pub use mail::{Inbox, Mail, MailCatcher, Reply};
pub use mongod::Mongod;
pub use ports::{claim_port, free_port, is_free};
pub use process::{Process, ProcessSpec};
pub use proxy::Proxy;
pub use redis::{Redis, RedisCluster, RedisSentinel, tls_args};
pub use wiring::Wiring;
