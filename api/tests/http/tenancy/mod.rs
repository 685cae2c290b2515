pub(crate) mod api_keys;
pub(crate) mod invitations;
pub(crate) mod invite_links;
mod mail_budget;
pub(crate) mod members;
pub(crate) mod roles;
pub(crate) mod tenant_domains;
pub(crate) mod tenant_security;
mod tenants;
