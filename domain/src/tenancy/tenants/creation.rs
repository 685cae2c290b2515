//! Creating tenants: by a person who registers, or by one who has an account.

use common::{
    db::{Change, DbError, TenantScope, Txn, is_duplicate},
    id::UserId,
    name::Name,
};

use super::{SLUG_INDEX, Slug, Tenant};
use crate::{
    activity::{Action, Entry},
    people::users::User,
    tenancy::{memberships::Membership, roles::Role},
};

/// Why a tenant was not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateTenantError {
    /// The user owns as many tenants as allowed.
    #[error("the user has reached the limit of tenants")]
    TooMany,
    /// Another tenant has the slug.
    #[error("another tenant has this slug")]
    SlugTaken,
    /// The account no longer exists.
    #[error("the account does not exist")]
    AccountGone,
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Creates a tenant for a user who has an account. They become its owner.
#[derive(Debug)]
pub struct CreateTenant {
    pub user: UserId,
    pub name: Name,
    /// Its slug; none for the first free one that its name suggests.
    pub slug: Option<Slug>,
    /// Maximum number of tenants that the user may own.
    pub max: u64,
}

impl Change for CreateTenant {
    type Output = Tenant;
    type Error = CreateTenantError;

    async fn apply(&self, txn: &mut Txn) -> Result<Tenant, CreateTenantError> {
        // So that the tenants that one user creates at once are counted one after the other.
        let user = User::lock(txn, self.user).await?.ok_or(CreateTenantError::AccountGone)?;
        if Membership::count_owned(txn, user.id).await? >= self.max {
            return Err(CreateTenantError::TooMany);
        }
        create_for(txn, &user, &self.name, self.slug.as_ref()).await.map_err(|error| {
            if is_duplicate(&error, SLUG_INDEX) {
                CreateTenantError::SlugTaken
            } else {
                error.into()
            }
        })
    }
}

/// Creates a tenant with `owner` as its only member. Fails with [`DbError::Duplicate`] of
/// [`SLUG_INDEX`] if another tenant has the slug.
pub(crate) async fn create_for(
    txn: &mut Txn,
    owner: &User,
    name: &Name,
    slug: Option<&Slug>,
) -> Result<Tenant, DbError> {
    let tenant = Tenant::create(txn, name, slug).await?;
    let scope = TenantScope::of_row(&tenant);
    Membership::create(txn, scope, owner.id, Role::Owner).await?;
    Entry::new(Action::TenantCreated, tenant.id)
        .by_named(owner.id, &owner.name)
        .record(txn, scope)
        .await?;
    Ok(tenant)
}
