//! Extractors: what handlers take from a request, such as its body as domain types, or its caller.

mod agent;
mod argument;
mod auth;
mod client;
mod distinct;
pub(crate) mod idempotency;
mod json;
mod path;
mod permission;
mod program;
pub(crate) mod query;
mod session_holder;

pub(crate) use agent::Agent;
pub(crate) use argument::Argument;
pub(crate) use auth::{Account, Authenticated, Caller, Identity, authenticate};
pub(crate) use client::{Client, Peer, client_network, network_of};
pub(crate) use idempotency::Idempotency;
pub(crate) use json::{Fields, FromFields, Json, NotAmong, Nullable, OptionalJson};
pub(crate) use path::PathId;
pub(crate) use permission::{
    Access, ApiKeysWrite, Need, Open, OwnerFromAnywhere, Perhaps, Recent, Requires, RolesRead,
    RolesWrite, SecurityWrite, Stated, TenantRead, TenantTransfer, UsersDelete, UsersInvite,
    UsersRead, UsersWrite, is_recent,
};
pub(crate) use program::KnownKey;
pub(crate) use query::{Filter, PageQuery, Parameters};
pub(crate) use session_holder::{Presented, Proof, RefreshCookies, SessionHolder, SessionOwner};
