//! What handlers take out of a request: a body as domain types, and who asks.

mod auth;
mod body;
mod client;
mod json;
mod permission;
mod query;

pub(crate) use auth::{Caller, FromAnywhere};
pub(crate) use body::{BODY_BYTES_MAX, discard, too_large};
pub(crate) use client::{Client, Peer};
pub(crate) use json::{Fields, FromFields, Json, NotAmong, Nullable, OptionalJson, Refusal};
pub(crate) use permission::{
    Need, Open, Perhaps, Recent, Requires, RolesWrite, SecurityWrite, Stated, TenantRead,
    TenantTransfer, UsersDelete, UsersInvite, UsersRead, UsersWrite, is_recent, need_of,
};
pub(crate) use query::{Cursor, Paging, Query};
