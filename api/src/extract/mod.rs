//! What handlers take out of a request: a body as domain types, and who asks.

mod argument;
mod auth;
mod body;
mod client;
mod json;
mod path;
mod permission;
mod query;

pub(crate) use argument::Argument;
pub(crate) use auth::{Caller, FromAnywhere, Identity};
pub(crate) use body::{BODY_BYTES_MAX, discard, too_large};
pub(crate) use client::{Client, Peer};
pub(crate) use json::{Fields, FromFields, Json, NotAmong, Nullable, OptionalJson, Refusal};
pub(crate) use path::PathId;
pub(crate) use permission::{
    Access, Need, Open, Perhaps, Recent, Requires, RolesWrite, SecurityWrite, Stated, TenantRead,
    TenantTransfer, UsersDelete, UsersInvite, UsersRead, UsersWrite, is_recent,
};
pub(crate) use query::{Cursor, Paging, Query};
