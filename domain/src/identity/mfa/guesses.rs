//! Counts of wrong codes of second factors.
//!
//! A person who knows a user's password can use up the codes of the account. So that this does not
//! keep the user out, a device from which they signed in with a second factor has a count of its own.

use common::{
    clock::between,
    db::{DbError, PlatformScope, Txn},
};
use mongodb::bson::doc;

use super::challenges::CodeLimit;
use crate::{
    identity::{devices::KnownDevice, sign_in::SignInError},
    people::{
        sessions::Device,
        users::{User, WrongCodes},
    },
};

/// With what wrong codes are counted, and how many there were.
pub(super) enum Guesses {
    /// From a device that is known with a second factor.
    OfDevice(KnownDevice),
    /// From all other devices.
    OfAccount(User),
}

impl Guesses {
    pub(super) async fn of(txn: &mut Txn, user: User, device: &Device) -> Result<Self, DbError> {
        let known = KnownDevice::find(txn, user.id, device).await?;
        let known = known.filter(|known| known.second_factor);
        Ok(known.map_or(Self::OfAccount(user), Self::OfDevice))
    }

    /// Counts a code as wrong, in a window that begins with the first one; returns how many there
    /// are. Fails with [`SignInError::TooManyCodes`] if there were too many.
    pub(super) async fn count(&self, txn: &mut Txn, limit: CodeLimit) -> Result<i64, SignInError> {
        let now = txn.clock().now();
        let wrong = WrongCodes::and_another(self.before(), now, limit.window);
        if wrong.count > i64::from(limit.wrong_max) {
            return Err(SignInError::TooManyCodes(between(now, wrong.until)));
        }
        self.write(txn, Some(wrong)).await?;
        Ok(wrong.count)
    }

    /// Takes back what [`Guesses::count`] has counted in the same transaction.
    pub(super) async fn restore(&self, txn: &mut Txn) -> Result<(), DbError> {
        self.write(txn, self.before()).await
    }

    fn before(&self) -> Option<WrongCodes> {
        match self {
            Self::OfDevice(device) => device.wrong_codes,
            Self::OfAccount(user) => user.wrong_codes,
        }
    }

    async fn write(&self, txn: &mut Txn, wrong: Option<WrongCodes>) -> Result<(), DbError> {
        let update = doc! { "$set": { "wrong_codes": wrong } };
        let written = match self {
            Self::OfDevice(device) => {
                let devices = txn.records::<KnownDevice>(PlatformScope);
                devices.update(doc! { "_id": &device.id }, update).await
            }
            Self::OfAccount(user) => {
                let users = txn.records::<User>(PlatformScope);
                users.update(doc! { "_id": user.id }, update).await
            }
        };
        written.map(drop)
    }
}
