//! Tenants, their members, and how people become members.

pub(crate) mod api_keys;
pub(crate) mod invitations;
pub(crate) mod invite_links;
pub(crate) mod members;
pub(crate) mod ownership;
pub(crate) mod roles;
pub(crate) mod tenant_domains;
pub(crate) mod tenant_security;
pub(crate) mod tenants;
