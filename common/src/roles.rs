//! Roles and what each may do.

use serde::{Deserialize, Serialize};

/// A right, written `resource:action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Permission {
    /// See the tenant itself.
    #[serde(rename = "tenant:read")]
    TenantRead,
    /// Change the tenant's name, slug and settings.
    #[serde(rename = "tenant:write")]
    TenantWrite,
    /// Delete the tenant.
    #[serde(rename = "tenant:delete")]
    TenantDelete,
}

impl Permission {
    /// As written in answers and tokens, for instance `tenant:read`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TenantRead => "tenant:read",
            Self::TenantWrite => "tenant:write",
            Self::TenantDelete => "tenant:delete",
        }
    }
}

/// The built-in roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// May do everything; every tenant has at least one.
    Owner,
    /// Runs the tenant, short of deleting it.
    Admin,
    /// Works in it.
    Member,
    /// Sees and changes billing.
    Billing,
    /// Looks only.
    Viewer,
}

impl Role {
    /// What the role may do.
    pub const fn permissions(self) -> &'static [Permission] {
        use Permission::{TenantDelete, TenantRead, TenantWrite};
        match self {
            Self::Owner => &[TenantRead, TenantWrite, TenantDelete],
            Self::Admin => &[TenantRead, TenantWrite],
            Self::Member | Self::Billing | Self::Viewer => &[TenantRead],
        }
    }

    /// Whether the role holds `permission`.
    pub fn may(self, permission: Permission) -> bool {
        self.permissions().contains(&permission)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permission_reads_the_same_everywhere() {
        for permission in Role::Owner.permissions() {
            assert_eq!(serde_json::to_value(permission).unwrap(), permission.as_str());
        }
    }
}
