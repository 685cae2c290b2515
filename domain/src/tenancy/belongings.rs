//! The tenants that a user belongs to.

use common::{
    db::{DbError, Store},
    id::{MembershipId, TenantId, UserId},
};

use crate::tenancy::{memberships::Membership, roles::RoleRef, tenants::Tenant};

/// Maximum number of tenants listed at sign-in.
const FIRST_MAX: usize = 100;

/// A tenant of a user, and their role in it.
#[derive(Debug, Clone)]
pub struct Belonging {
    pub tenant: Tenant,
    /// The user's role there.
    pub role: RoleRef,
}

/// A page of the tenants of a user.
#[derive(Debug, Clone)]
pub struct BelongingPage {
    /// The tenants, in the order in which the user joined them.
    pub belongings: Vec<Belonging>,
    /// Where to continue, if there are more.
    pub next: Option<MembershipId>,
}

impl BelongingPage {
    /// Up to `limit` tenants of `user`, `after` one of their memberships if given.
    pub async fn of(
        store: &Store,
        user: UserId,
        after: Option<MembershipId>,
        limit: usize,
    ) -> Result<Self, DbError> {
        let sought = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut memberships = Membership::page_of(store, user, after, sought).await?;
        let has_more = memberships.len() > limit;
        memberships.truncate(limit);
        let next = memberships.last().filter(|_| has_more).map(|last| last.id);
        Ok(Self { belongings: with_tenants(store, &memberships).await?, next })
    }
}

impl Belonging {
    /// The first 100 tenants that `user` joined; [`BelongingPage`] has all.
    pub async fn first_of(store: &Store, user: UserId) -> Result<Vec<Self>, DbError> {
        Ok(BelongingPage::of(store, user, None, FIRST_MAX).await?.belongings)
    }

    /// A tenant that `user` names, if they belong to it.
    pub(crate) async fn of(
        store: &Store,
        user: UserId,
        tenant: TenantId,
    ) -> Result<Option<Self>, DbError> {
        let membership = Membership::of_person(store, tenant, user).await?;
        Ok(with_tenants(store, membership.as_slice()).await?.pop())
    }
}

/// The memberships with their tenants.
async fn with_tenants(
    store: &Store,
    memberships: &[Membership],
) -> Result<Vec<Belonging>, DbError> {
    let ids: Vec<TenantId> = memberships.iter().map(|membership| membership.tenant_id).collect();
    let tenants = Tenant::by_ids(store, &ids).await?;
    let belonging = |membership: &Membership| {
        let tenant = tenants.iter().find(|tenant| tenant.id == membership.tenant_id)?;
        Some(Belonging { tenant: tenant.clone(), role: membership.role })
    };
    Ok(memberships.iter().filter_map(belonging).collect())
}
