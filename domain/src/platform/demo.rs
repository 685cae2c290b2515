//! The demo account of a development installation: deliberately weak, and created in the ordinary
//! way by a registration that is verified at once.

use std::time::Duration;

use common::{
    crypto::{HashError, Hasher, InvalidPassword, MasterKey, Password},
    db::{Change, DbError, Txn},
    email::{Email, InvalidEmail},
    name::{InvalidName, Name},
    origin::Origin,
};
use jobs::Jobs;

use crate::{
    identity::registrations::{NewRegistration, Registration, VerifyEmail, VerifyError},
    people::users::User,
};

/// Email address of the demo account.
pub const EMAIL: &str = "test@example.com";
/// Password of the demo account.
pub const PASSWORD: &str = "password123";
/// Name of its tenant.
pub const TENANT: &str = "Demo";
/// Name of its user.
const NAME: &str = "Demo User";

/// Why the demo account could not be created.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The email address is invalid.
    #[error(transparent)]
    Email(#[from] InvalidEmail),
    /// A name is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The password is not acceptable.
    #[error(transparent)]
    Password(#[from] InvalidPassword),
    /// The password could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The account could not be created.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The database operation failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Creates the demo account; returns whether it was missing.
pub async fn seed(jobs: &Jobs, key: &MasterKey, hasher: &Hasher) -> Result<bool, SeedError> {
    let email: Email = EMAIL.parse()?;
    if User::by_email(jobs.store(), &email).await?.is_some() {
        return Ok(false);
    }
    let password_hash = hasher.hash(Password::chosen(PASSWORD.to_owned())?).await?;
    let (name, tenant_name): (Name, Name) = (NAME.parse()?, TENANT.parse()?);
    let new = NewRegistration { email, name, tenant_name, password_hash };
    match jobs.commit(&Origin::system(), &RegisterVerified { key, new: &new }).await {
        Ok(_) => Ok(true),
        // Another process created it in the meantime.
        Err(VerifyError::TokenInvalid) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

struct RegisterVerified<'a> {
    key: &'a MasterKey,
    new: &'a NewRegistration,
}

impl Change for RegisterVerified<'_> {
    type Output = User;
    type Error = VerifyError;

    async fn apply(&self, txn: &mut Txn) -> Result<User, VerifyError> {
        let registration =
            Registration::new(txn.clock(), self.key, self.new, Duration::from_mins(1));
        registration.insert(txn).await?;
        let verify = VerifyEmail::with_token(
            self.key,
            registration.link_token(self.key).expose(),
            Duration::ZERO,
        )?;
        verify.apply(txn).await
    }
}
