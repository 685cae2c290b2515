//! The permissions that an API key can have.

use std::{borrow::Cow, str::FromStr};

use mongodb::bson::Bson;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, RefOr, Schema, Type},
};

use crate::tenancy::roles::{Permission, Permissions};

/// Permissions that no key can have: with one of them, a leaked key could take over the tenant, or
/// make others like itself.
const NEVER: &[Permission] = &[
    Permission::TenantDelete,
    Permission::TenantTransfer,
    Permission::SecurityWrite,
    Permission::RolesWrite,
    Permission::ApiKeysWrite,
];

/// A permission that a key can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(Permission);

/// The text is not a permission that a key can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a permission that an API key can have, such as `usage:write`")]
pub struct UnknownScope;

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        let permission: Permission = text.parse().map_err(|_| UnknownScope)?;
        if NEVER.contains(&permission) { Err(UnknownScope) } else { Ok(Self(permission)) }
    }
}

/// The permissions of a key; stored and shown as a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Permissions", into = "Permissions")]
pub struct Scopes(Permissions);

impl Scopes {
    /// As a set of permissions.
    pub const fn permissions(self) -> Permissions {
        self.0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().map(|Scope(permission)| permission).collect())
    }
}

impl From<Permissions> for Scopes {
    /// Leaves out those that no key can have, however they got into a row.
    fn from(permissions: Permissions) -> Self {
        Self(permissions.iter().filter(|permission| !NEVER.contains(permission)).collect())
    }
}

impl From<Scopes> for Permissions {
    fn from(scopes: Scopes) -> Self {
        scopes.0
    }
}

impl From<Scopes> for Bson {
    fn from(scopes: Scopes) -> Self {
        scopes.0.into()
    }
}

impl PartialSchema for Scopes {
    fn schema() -> RefOr<Schema> {
        let grantable = Permission::ALL.iter().filter(|permission| !NEVER.contains(permission));
        let scope = ObjectBuilder::new()
            .schema_type(Type::String)
            .enum_values(Some(grantable.map(|permission| permission.as_str())));
        ArrayBuilder::new()
            .items(scope)
            .description(Some("Permissions of an API key. Later releases may add permissions."))
            .examples([json!(["usage:read", "usage:write"])])
            .into()
    }
}

impl ToSchema for Scopes {
    fn name() -> Cow<'static, str> {
        "ApiKeyScopes".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_permissions_are_never_granted_to_a_key() {
        for text in
            ["tenant:delete", "tenant:transfer", "security:write", "roles:write", "api_keys:write"]
        {
            assert!(text.parse::<Permission>().is_ok());
            assert_eq!(text.parse::<Scope>(), Err(UnknownScope), "{text}");
        }
        assert!("usage:write".parse::<Scope>().is_ok());
        assert_eq!("usage:*".parse::<Scope>(), Err(UnknownScope));
    }

    #[test]
    fn a_row_cannot_smuggle_one_in() {
        let scopes: Scopes =
            serde_json::from_str(r#"["api_keys:write","users:read","tenant:delete"]"#).unwrap();
        assert_eq!(scopes.permissions().iter().collect::<Vec<_>>(), [Permission::UsersRead]);
        assert_eq!(serde_json::to_string(&scopes).unwrap(), r#"["users:read"]"#);
    }
}
