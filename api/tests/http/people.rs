//! Users for tests: members of tenants in any role, with tokens, created without HTTP requests.

use std::time::Duration;

use common::{
    clock::Clock,
    crypto::{Hasher, Password, PasswordHash},
    db::{Change, DbError, PlatformScope, TenantScope, Txn},
    id::{TenantId, UserId},
};
use domain::{
    identity::signing_keys::{Issuer, SigningKey},
    people::{
        sessions::{Device, Lifetime, Session},
        users::User,
    },
    tenancy::{
        memberships::Membership,
        roles::{Role, RoleRef},
        tenants::Tenant,
    },
};
use mongodb::bson::{DateTime, doc};

use crate::support::{PASSWORD, World};

const LIFETIME: Lifetime =
    Lifetime { absolute: Duration::from_hours(2), idle: Duration::from_hours(1) };

/// Creates users.
pub(crate) struct People<'w> {
    world: &'w World,
    issuer: Issuer,
    password_hash: PasswordHash,
}

/// A member of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) user: UserId,
    pub(crate) tenant: TenantId,
    pub(crate) email: String,
    pub(crate) token: String,
}

/// A user who belongs to no tenant.
#[derive(Debug, Clone)]
pub(crate) struct Loner {
    pub(crate) user: UserId,
    pub(crate) token: String,
}

impl<'w> People<'w> {
    pub(crate) async fn of(world: &'w World) -> Self {
        let keys = SigningKey::all(&world.store).await.unwrap();
        let issuer = Issuer::new(
            &keys,
            &world.key,
            &world.config.app.public_url,
            world.config.auth.access_token_ttl,
            world.store.clock().now(),
        )
        .unwrap();
        let hasher = Hasher::new(1, Duration::from_mins(1)).unwrap();
        let password_hash =
            hasher.hash(Password::chosen(PASSWORD.to_owned()).unwrap()).await.unwrap();
        Self { world, issuer, password_hash }
    }

    /// The owner of a new tenant.
    pub(crate) async fn founder(&self, email: &str) -> Person {
        self.make(Home::New, email, Role::Owner.into()).await
    }

    /// A new user in no tenant.
    pub(crate) async fn loner(&self, email: &str) -> Loner {
        let make = Make {
            home: Home::None,
            email,
            role: Role::Viewer.into(),
            password_hash: &self.password_hash,
        };
        let (user, _) = self.world.commit(&make).await.unwrap();
        Loner { user, token: self.token_without_tenant(user).await }
    }

    /// A new user in an existing tenant.
    pub(crate) async fn join(
        &self,
        other: &Person,
        email: &str,
        role: impl Into<RoleRef>,
    ) -> Person {
        self.make(Home::Of(other.tenant), email, role.into()).await
    }

    async fn make(&self, home: Home, email: &str, role: RoleRef) -> Person {
        let make = Make { home, email, role, password_hash: &self.password_hash };
        let (user, tenant) = self.world.commit(&make).await.unwrap();
        let tenant = tenant.unwrap();
        Person { user, tenant, email: email.to_owned(), token: self.token(user, tenant).await }
    }

    /// A token of a new session.
    pub(crate) async fn token(&self, user: UserId, tenant: TenantId) -> String {
        self.token_at(self.world.store.clock().now(), user, Some(tenant)).await
    }

    /// A token of a new session in no tenant.
    pub(crate) async fn token_without_tenant(&self, user: UserId) -> String {
        self.token_at(self.world.store.clock().now(), user, None).await
    }

    /// A token of a session whose user authenticated long ago.
    pub(crate) async fn stale_token(&self, person: &Person) -> String {
        let session = self.world.commit(&SignIn(person.user, Some(person.tenant))).await.unwrap();
        let stale = doc! { "$set": { "authenticated_at": DateTime::from_millis(0) } };
        let sessions = self.world.store.records::<Session>(PlatformScope);
        assert!(sessions.update(doc! { "_id": session.id }, stale).await.unwrap());
        let now = self.world.store.clock().now();
        self.issuer.issue(now, person.user, Some(person.tenant), session.id).unwrap()
    }

    /// An expired token of an active session.
    pub(crate) async fn expired_token(&self, person: &Person) -> String {
        let yesterday =
            DateTime::from_millis(self.world.store.clock().now().timestamp_millis() - 86_400_000);
        self.token_at(yesterday, person.user, Some(person.tenant)).await
    }

    async fn token_at(
        &self,
        issued_at: DateTime,
        user: UserId,
        tenant: Option<TenantId>,
    ) -> String {
        let session = self.world.commit(&SignIn(user, tenant)).await.unwrap();
        self.issuer.issue(issued_at, user, tenant, session.id).unwrap()
    }

    /// The stored role; none if they are no longer a member of the tenant.
    pub(crate) async fn role(&self, person: &Person) -> Option<RoleRef> {
        let scope = TenantScope::of_job(person.tenant);
        Membership::of(&self.world.store, scope, person.user)
            .await
            .unwrap()
            .map(|membership| membership.role)
    }

    /// Number of the tenant's members with the role.
    pub(crate) async fn count(&self, tenant: TenantId, role: Role) -> u64 {
        let filter = doc! { "tenant_id": tenant, "role": role.as_str() };
        self.world.store.records::<Membership>(PlatformScope).count(filter).await.unwrap()
    }
}

/// The tenant of a new user.
enum Home {
    New,
    Of(TenantId),
    None,
}

struct Make<'a> {
    home: Home,
    email: &'a str,
    role: RoleRef,
    password_hash: &'a PasswordHash,
}

impl Change for Make<'_> {
    type Output = (UserId, Option<TenantId>);
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<(UserId, Option<TenantId>), DbError> {
        let now = txn.clock().now();
        let user = User {
            id: txn.clock().id(),
            email: self.email.parse().unwrap(),
            email_norm: self.email.to_lowercase(),
            name: name_of(self.email),
            password_hash: self.password_hash.clone(),
            password_set_at: None,
            second_factor_since: None,
            wrong_codes: None,
            disabled_at: None,
            last_sign_in_at: None,
            email_verified_at: now,
            created_at: now,
        };
        user.insert(txn).await?;
        let tenant = match self.home {
            Home::None => return Ok((user.id, None)),
            Home::Of(tenant) => tenant,
            Home::New => {
                Tenant::create(txn, &format!("Tenant of {}", user.name).parse().unwrap(), None)
                    .await?
                    .id
            }
        };
        Membership::create(txn, TenantScope::of_job(tenant), user.id, self.role).await?;
        Ok((user.id, Some(tenant)))
    }
}

/// Makes a user a viewer of another tenant, too.
pub(crate) async fn join(world: &World, user: UserId, tenant: TenantId) {
    world.commit(&Join(user, TenantScope::of_job(tenant))).await.unwrap();
}

struct Join(UserId, TenantScope);

impl Change for Join {
    type Output = Membership;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Membership, DbError> {
        Membership::create(txn, self.1, self.0, Role::Viewer).await
    }
}

/// The name of the user with this email address.
pub(crate) fn name_of(email: &str) -> String {
    email.split('@').next().unwrap().to_uppercase()
}

struct SignIn(UserId, Option<TenantId>);

impl Change for SignIn {
    type Output = Session;
    type Error = DbError;

    async fn apply(&self, txn: &mut Txn) -> Result<Session, DbError> {
        Session::create(txn, self.0, self.1, &Device::default(), LIFETIME, false).await
    }
}

/// An id of this kind that does not exist.
pub(crate) fn absent<P: common::id::Prefix>() -> common::id::Id<P> {
    Clock::system().id()
}
