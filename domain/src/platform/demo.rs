//! The demo account of a development installation: weak on purpose, and made by the ordinary
//! path, a registration that is verified at once.

use std::time::Duration;

use common::{
    crypto::{HashError, Hasher, InvalidPassword, MasterKey, Password},
    db::{Change, DbError, Txn},
    email::{Email, InvalidEmail},
    name::{InvalidName, Name},
    origin::Origin,
};
use jobs::Jobs;

use crate::identity::{
    registrations::{NewRegistration, Registration, VerifyEmail, VerifyError},
    users::User,
};

/// Its address.
pub const EMAIL: &str = "test@example.com";
/// Its password.
pub const PASSWORD: &str = "password123";
/// What its tenant is called.
pub const TENANT: &str = "Demo";
/// What its person is called.
const NAME: &str = "Demo User";

/// Why the demo account could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The address above is not one.
    #[error(transparent)]
    Email(#[from] InvalidEmail),
    /// The names above are none.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The password above is not acceptable.
    #[error(transparent)]
    Password(#[from] InvalidPassword),
    /// The password could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The account could not be made.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The store failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Makes the demo account; tells whether it was missing.
///
/// # Errors
/// See [`SeedError`].
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
        // Another process made it in the meantime.
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
            Registration::create(txn, self.key, self.new, Duration::from_mins(1)).await?;
        let verify = VerifyEmail::with_token(
            self.key,
            registration.link_token(self.key).expose(),
            Duration::ZERO,
        )?;
        verify.apply(txn).await
    }
}
