//! Tenants, their members and roles, and whom they invite.

pub mod actor;
pub mod api_keys;
pub mod belongings;
pub mod custom_roles;
pub mod former_members;
pub mod invitation_lists;
pub mod invitations;
pub mod invite_links;
pub mod mail_budget;
pub mod members;
pub mod memberships;
pub mod ownership;
pub mod permitted;
pub mod roles;
pub mod suspension;
pub mod tenant_domains;
pub mod tenant_security;
pub mod tenants;
