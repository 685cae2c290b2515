//! Roles and their permissions, in one table.
//!
//! A membership has a role ([`RoleRef`]): a built-in one, or a custom one of the tenant
//! ([`crate::tenancy::custom_roles`]). What a role allows is a [`Grant`]; nobody can grant more
//! than their own.

use std::{borrow::Cow, fmt, str::FromStr};

use common::id::{InvalidId, Prefix, RoleId};
use mongodb::bson::Bson;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::json;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ArrayBuilder, ObjectBuilder, Ref, RefOr, Schema, Type},
};

/// The table: each permission, its name, and the built-in roles that have it.
macro_rules! permissions {
    ($($(#[$doc:meta])+ $variant:ident = $text:literal for $($role:ident)+;)+) => {
        /// A permission, written `resource:action`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Permission { $($(#[$doc])+ $variant,)+ }

        impl Permission {
            /// All permissions.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name in responses and tokens, such as `tenant:read`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// The built-in roles that have it.
            const fn holders(self) -> &'static [Role] {
                match self { $(Self::$variant => &[$(Role::$role,)+],)+ }
            }
        }
    };
}

permissions! {
    /// View the tenant.
    TenantRead = "tenant:read" for Owner Admin Member Billing Viewer;
    /// Change the tenant's name, slug and settings.
    TenantWrite = "tenant:write" for Owner Admin;
    /// Delete the tenant.
    TenantDelete = "tenant:delete" for Owner;
    /// Transfer the ownership of the tenant.
    TenantTransfer = "tenant:transfer" for Owner;
    /// View the members of the tenant.
    UsersRead = "users:read" for Owner Admin Member Viewer;
    /// Invite people to the tenant.
    UsersInvite = "users:invite" for Owner Admin;
    /// Change the roles of members.
    UsersWrite = "users:write" for Owner Admin;
    /// Remove members.
    UsersDelete = "users:delete" for Owner Admin;
    /// View the roles. Included in the permissions to give and to change roles.
    RolesRead = "roles:read" for Owner Admin;
    /// Create and change custom roles.
    RolesWrite = "roles:write" for Owner Admin;
    /// View the activity of members.
    ActivityRead = "activity:read" for Owner Admin;
    /// View and change the tenant's security rules.
    SecurityWrite = "security:write" for Owner Admin;
    /// Change the tenant's branding.
    BrandingWrite = "branding:write" for Owner Admin;
    /// View, create and revoke API keys.
    ApiKeysWrite = "api_keys:write" for Owner Admin;
    /// View the subscription and its invoices.
    BillingRead = "billing:read" for Owner Admin Billing;
    /// Change the subscription.
    BillingWrite = "billing:write" for Owner Admin Billing;
    /// View usage.
    UsageRead = "usage:read" for Owner Admin Member Billing Viewer;
    /// Report usage, and set usage alerts.
    UsageWrite = "usage:write" for Owner Admin;
}

/// The text is not a permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a permission such as `users:read`")]
pub struct UnknownPermission;

impl Permission {
    /// Position of its bit in a set.
    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The permission that its holders have as well, if there is one.
    const fn implied(self) -> Option<Self> {
        match self {
            Self::UsersInvite | Self::UsersWrite | Self::RolesWrite => Some(Self::RolesRead),
            _ => None,
        }
    }

    /// Whether it gives power: its holders can change members, roles, security rules, API keys or
    /// the owner of the tenant. A stolen session must not be enough to give it to somebody, because
    /// the thief could then sign in as that person.
    const fn gives_power(self) -> bool {
        match self {
            Self::TenantDelete
            | Self::TenantTransfer
            | Self::UsersInvite
            | Self::UsersWrite
            | Self::UsersDelete
            | Self::RolesWrite
            | Self::SecurityWrite
            | Self::ApiKeysWrite => true,
            Self::TenantRead
            | Self::TenantWrite
            | Self::UsersRead
            | Self::RolesRead
            | Self::ActivityRead
            | Self::BrandingWrite
            | Self::BillingRead
            | Self::BillingWrite
            | Self::UsageRead
            | Self::UsageWrite => false,
        }
    }
}

impl FromStr for Permission {
    type Err = UnknownPermission;
    fn from_str(text: &str) -> Result<Self, UnknownPermission> {
        Self::ALL
            .iter()
            .copied()
            .find(|permission| permission.as_str() == text)
            .ok_or(UnknownPermission)
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl PartialSchema for Permission {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "Permission, written `resource:action`. Later releases may add permissions.",
            ))
            .enum_values(Some(Self::ALL.iter().map(|permission| permission.as_str())))
            .into()
    }
}

impl ToSchema for Permission {}

/// A set of permissions, with those that they imply; stored and shown as a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions(u32);

const _: () = assert!(
    Permission::ALL.len() <= u32::BITS as usize,
    "there are more permissions than bits: give `Permissions` a wider integer"
);

impl Permissions {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Whether it contains `permission`.
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether it contains all of `others`.
    pub const fn covers(self, others: Self) -> bool {
        others.0 & !self.0 == 0
    }

    /// Those that it has in common with `others`.
    #[must_use]
    pub const fn intersection(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// Whether one of them gives power (`Permission::gives_power`).
    pub fn give_power(self) -> bool {
        self.iter().any(Permission::gives_power)
    }

    /// Its permissions, in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.iter().copied().filter(move |permission| self.contains(*permission))
    }
}

impl PartialSchema for Permissions {
    fn schema() -> RefOr<Schema> {
        ArrayBuilder::new()
            .items(Ref::from_schema_name(Permission::name()))
            .examples([json!(["tenant:read", "users:read"])])
            .into()
    }
}

impl ToSchema for Permissions {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((Permission::name().into(), Permission::schema()));
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let with_implied = |permission: Permission| [Some(permission), permission.implied()];
        let all = permissions.into_iter().flat_map(with_implied).flatten();
        Self(all.fold(0, |bits, permission| bits | permission.bit()))
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Permissions {
    /// Ignores permissions that this release does not know.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
    }
}

impl From<Permissions> for Bson {
    fn from(permissions: Permissions) -> Self {
        permissions.iter().map(Permission::as_str).collect::<Vec<_>>().into()
    }
}

/// The built-in roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// May do everything; every tenant has at least one.
    Owner,
    /// Manages the tenant, but cannot delete or transfer it.
    Admin,
    /// Works in the tenant.
    Member,
    /// Views and changes billing.
    Billing,
    /// Views only.
    Viewer,
}

impl Role {
    /// All built-in roles, most powerful first.
    pub const ALL: &'static [Self] =
        &[Self::Owner, Self::Admin, Self::Member, Self::Billing, Self::Viewer];

    /// Its name in responses and rows.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Billing => "billing",
            Self::Viewer => "viewer",
        }
    }

    /// Its name for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Owner => "Owner",
            Self::Admin => "Admin",
            Self::Member => "Member",
            Self::Billing => "Billing",
            Self::Viewer => "Viewer",
        }
    }

    /// The permissions of the role.
    pub fn permissions(self) -> Permissions {
        Permission::ALL
            .iter()
            .copied()
            .filter(|permission| permission.holders().contains(&self))
            .collect()
    }
}

/// The role of a member: a built-in one by name, or a custom one by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleRef {
    /// A role that every tenant has.
    BuiltIn(Role),
    /// A custom role of the tenant.
    Custom(RoleId),
}

/// The text is not a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be owner, admin, member, billing, viewer or the id of a custom role")]
pub struct InvalidRole;

impl From<InvalidId> for InvalidRole {
    fn from(_: InvalidId) -> Self {
        Self
    }
}

impl From<Role> for RoleRef {
    fn from(role: Role) -> Self {
        Self::BuiltIn(role)
    }
}

impl From<RoleId> for RoleRef {
    fn from(role: RoleId) -> Self {
        Self::Custom(role)
    }
}

impl FromStr for RoleRef {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, InvalidRole> {
        if text.starts_with(common::id::CustomRole::PREFIX) {
            return Ok(Self::Custom(text.parse()?));
        }
        Role::ALL
            .iter()
            .copied()
            .find(|role| role.as_str() == text)
            .map(Self::BuiltIn)
            .ok_or(InvalidRole)
    }
}

impl PartialSchema for RoleRef {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(
                "Role: `owner`, `admin`, `member`, `billing`, `viewer`, or the ID of a role of the tenant's own.",
            ))
            .examples(["member"])
            .into()
    }
}

impl ToSchema for RoleRef {
    fn name() -> Cow<'static, str> {
        "RoleId".into()
    }
}

impl fmt::Display for RoleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(role) => f.write_str(role.as_str()),
            Self::Custom(id) => id.fmt(f),
        }
    }
}

impl Serialize for RoleRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RoleRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl From<RoleRef> for Bson {
    fn from(role: RoleRef) -> Self {
        Self::String(role.to_string())
    }
}

/// A role with its name and permissions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub role: RoleRef,
    /// Name of the role.
    pub name: String,
    /// What its holder may do.
    pub permissions: Permissions,
}

impl From<Role> for Grant {
    fn from(role: Role) -> Self {
        Self { role: role.into(), name: role.label().to_owned(), permissions: role.permissions() }
    }
}

impl Grant {
    /// Whether it includes `permission`.
    pub const fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(permission)
    }

    /// Whether its holder may assign or revoke `other`: nobody can assign permissions that they
    /// lack, and only owners can appoint and remove owners.
    pub fn reaches(&self, other: &Self) -> bool {
        let owner = RoleRef::BuiltIn(Role::Owner);
        self.permissions.covers(other.permissions) && (other.role != owner || self.role == owner)
    }
}

/// Why a role is out of an actor's reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OutOfReach {
    /// It has permissions that the actor lacks.
    #[error("the role has permissions that the caller does not have")]
    TooHigh,
    /// The actor must authenticate again first.
    #[error("the caller has not authenticated recently")]
    NotRecent,
}

/// What an actor may do, and whether they authenticated recently. Only this decides who may give
/// and take which role.
#[derive(Debug, Clone)]
pub struct Authority {
    pub grant: Grant,
    /// Whether the actor authenticated recently.
    pub is_recent: bool,
    /// Whether the actor may make others powerful at all; programs may not.
    pub may_give_power: bool,
}

impl Authority {
    /// Whether the actor may give `role` to somebody. If it gives power, they must have
    /// authenticated recently.
    pub fn may_give(&self, role: &Grant) -> Result<(), OutOfReach> {
        self.reach(role, role.permissions.give_power())
    }

    /// Whether the actor may take `role` from somebody. If it is that of an owner, they must have
    /// authenticated recently.
    pub fn may_take(&self, role: &Grant) -> Result<(), OutOfReach> {
        self.reach(role, role.role == Role::Owner.into())
    }

    fn reach(&self, role: &Grant, is_sensitive: bool) -> Result<(), OutOfReach> {
        match self.grant.reaches(role) {
            false => Err(OutOfReach::TooHigh),
            true if is_sensitive && !self.may_give_power => Err(OutOfReach::TooHigh),
            true if is_sensitive && !self.is_recent => Err(OutOfReach::NotRecent),
            true => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    #[test]
    fn a_permission_has_one_name_everywhere() {
        for permission in Permission::ALL {
            assert_eq!(serde_json::to_value(permission).unwrap(), permission.as_str());
            assert_eq!(permission.as_str().parse(), Ok(*permission));
            let (resource, action) = permission.as_str().split_once(':').unwrap();
            assert!(
                !resource.is_empty()
                    && ["read", "write", "delete", "invite", "transfer"].contains(&action)
            );
        }
        assert_eq!("users:*".parse::<Permission>(), Err(UnknownPermission));
    }

    #[test]
    fn permissions_to_give_or_change_roles_include_viewing_them() {
        for permission in Permission::ALL {
            let set: Permissions = [*permission].into_iter().collect();
            let gives = ["users:invite", "users:write", "roles:write", "roles:read"];
            assert_eq!(set.contains(Permission::RolesRead), gives.contains(&permission.as_str()));
        }
    }

    #[test]
    fn a_set_contains_its_permissions_and_ignores_unknown_ones() {
        let set: Permissions =
            serde_json::from_str(r#"["users:read","moon:landing","tenant:read"]"#).unwrap();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Permission::TenantRead, Permission::UsersRead]);
        assert_eq!(serde_json::to_string(&set).unwrap(), r#"["tenant:read","users:read"]"#);
        assert!(
            Role::Viewer.permissions().covers(set)
                && !set.covers(Role::Viewer.permissions())
                && set.covers(Permissions::NONE)
        );
    }

    #[test]
    fn owners_have_all_permissions_and_admins_cannot_delete_or_transfer() {
        assert!(
            Permission::ALL
                .iter()
                .all(|permission| Role::Owner.permissions().contains(*permission))
        );
        let lacks = |role: Role| {
            Permission::ALL
                .iter()
                .copied()
                .filter(|permission| !role.permissions().contains(*permission))
                .collect()
        };
        let lacking: Vec<Permission> = lacks(Role::Admin);
        assert_eq!(lacking, [Permission::TenantDelete, Permission::TenantTransfer]);
    }

    #[test]
    fn a_role_parses_from_its_own_text() {
        let custom: RoleId = Clock::system().id();
        for role in [Role::Owner.into(), Role::Viewer.into(), RoleRef::Custom(custom)] {
            assert_eq!(role.to_string().parse(), Ok(role));
            assert_eq!(
                serde_json::from_value::<RoleRef>(serde_json::to_value(role).unwrap()).unwrap(),
                role
            );
        }
        for text in ["", "root", "rol_1", "Owner", "usr_0192a0b8c0de7000800000000000cafe"] {
            assert_eq!(text.parse::<RoleRef>(), Err(InvalidRole), "{text}");
        }
    }

    #[test]
    fn power_is_given_and_owners_are_removed_only_after_recent_authentication() {
        let of = |role: Role, is_recent| Authority {
            grant: role.into(),
            is_recent,
            may_give_power: true,
        };
        let custom = |permissions: &[Permission]| Grant {
            role: Clock::system().id::<common::id::CustomRole>().into(),
            name: "Support".to_owned(),
            permissions: permissions.iter().copied().collect(),
        };
        let (too_high, not_recent) = (Err(OutOfReach::TooHigh), Err(OutOfReach::NotRecent));
        for (powerful, harmless) in [
            (Role::Owner.into(), Role::Member.into()),
            (Role::Admin.into(), Role::Billing.into()),
            (custom(&[Permission::RolesWrite]), custom(&[Permission::UsageWrite])),
            (custom(&[Permission::UsersRead, Permission::ApiKeysWrite]), Role::Viewer.into()),
        ] {
            assert_eq!(of(Role::Owner, false).may_give(&powerful), not_recent, "{powerful:?}");
            assert_eq!(of(Role::Owner, true).may_give(&powerful), Ok(()), "{powerful:?}");
            assert_eq!(of(Role::Owner, false).may_give(&harmless), Ok(()), "{harmless:?}");
            assert_eq!(of(Role::Member, false).may_give(&powerful), too_high, "{powerful:?}");
        }
        assert_eq!(of(Role::Owner, false).may_take(&Role::Owner.into()), not_recent);
        assert_eq!(of(Role::Owner, true).may_take(&Role::Owner.into()), Ok(()));
        assert_eq!(of(Role::Admin, false).may_take(&Role::Admin.into()), Ok(()));
        assert_eq!(of(Role::Admin, false).may_take(&Role::Owner.into()), too_high);
    }

    #[test]
    fn nobody_can_assign_permissions_they_lack() {
        let grant = |role: Role| Grant::from(role);
        assert!(
            grant(Role::Owner).reaches(&grant(Role::Owner))
                && grant(Role::Admin).reaches(&grant(Role::Admin))
        );
        assert!(
            !grant(Role::Admin).reaches(&grant(Role::Owner))
                && !grant(Role::Member).reaches(&grant(Role::Billing))
        );
        let everything = Grant {
            role: Clock::system().id::<common::id::CustomRole>().into(),
            ..grant(Role::Owner)
        };
        assert!(
            !everything.reaches(&grant(Role::Owner)),
            "having all permissions does not make an owner"
        );
        assert!(
            grant(Role::Owner).reaches(&everything) && !grant(Role::Admin).reaches(&everything)
        );
    }
}
