//! Handlers for tenants: invitations, members, domains.

pub(crate) mod api_keys;
pub(crate) mod invitations;
pub(crate) mod invite_links;
pub(crate) mod members;
pub(crate) mod ownership;
pub(crate) mod tenant_domains;
