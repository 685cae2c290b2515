//! Devices and networks from which users have signed in.
//!
//! Sessions are removed after they end, so they cannot tell for long what is new. These rows are
//! kept for months and contain only hashes.

use std::time::Duration;

use common::{
    clock::{between, later},
    crypto::fingerprint,
    db::{
        Data, DbError, PlatformScope, Record, Txn,
        schema::{self, Field, Index},
    },
    id::UserId,
    networks::Network,
};
use mongodb::bson::{DateTime, doc};
use serde::{Deserialize, Serialize};

use crate::people::{
    sessions::Device,
    users::{User, WrongCodes},
};

/// How long a device is remembered after its last sign-in.
const REMEMBERED_FOR: Duration = Duration::from_hours(90 * 24);
/// A device is recorded again at most this often.
const NOTED_EVERY: Duration = Duration::from_hours(24);
/// An account's first device is not reported as new within this time after its creation.
const FIRST_WITHIN: Duration = Duration::from_hours(24);

/// A device on a network from which a user signed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownDevice {
    /// Hash of user, device and network.
    #[serde(rename = "_id")]
    pub id: String,
    pub user_id: UserId,
    /// Whether the user has presented a second factor there.
    #[serde(default)]
    pub second_factor: bool,
    /// Wrong codes that were presented from it, if it is known with a second factor.
    #[serde(default)]
    pub wrong_codes: Option<WrongCodes>,
    /// When the user last signed in from it, to within a day.
    pub seen_at: DateTime,
    /// When it is forgotten.
    pub expires_at: DateTime,
}

impl Record for KnownDevice {
    const COLLECTION: &'static str = "places";
    const DATA: Data = Data::of_person("user_id").not_exported("it holds hashes only");
    const INDEXES: &'static [Index] = &[
        Index::on("places_user", &[("user_id", 1)]),
        Index::expiring("places_ttl", &[("expires_at", 1)], Duration::ZERO),
    ];
    const REQUIRED: &'static [Field] = &[
        ("_id", schema::STRING),
        ("user_id", schema::STRING),
        ("seen_at", schema::DATE),
        ("expires_at", schema::DATE),
    ];
}

impl KnownDevice {
    /// The device, if the user has signed in from it lately.
    pub(crate) async fn find(
        txn: &mut Txn,
        user: UserId,
        device: &Device,
    ) -> Result<Option<Self>, DbError> {
        let filter = doc! { "_id": id(user, device), "expires_at": { "$gt": txn.clock().now() } };
        txn.records::<Self>(PlatformScope).find(filter).await
    }

    /// Records that `user` signs in from `device`, with or without a second factor; returns whether
    /// it is new to them.
    pub(crate) async fn note(
        txn: &mut Txn,
        user: UserId,
        device: &Device,
        second_factor: bool,
    ) -> Result<bool, DbError> {
        let now = txn.clock().now();
        let known = Self::find(txn, user, device).await?;
        let is_current = |place: &Self| {
            between(place.seen_at, now) < NOTED_EVERY && (place.second_factor || !second_factor)
        };
        if known.as_ref().is_some_and(is_current) {
            return Ok(false);
        }
        let is_news = known.is_none() && !is_first(txn, user).await?;
        let second_factor = second_factor || known.is_some_and(|place| place.second_factor);
        let place = doc! { "$set": {
            "user_id": user, "second_factor": second_factor, "seen_at": now,
            "expires_at": later(now, REMEMBERED_FOR),
        } };
        txn.records::<Self>(PlatformScope).upsert(doc! { "_id": id(user, device) }, place).await?;
        Ok(is_news)
    }
}

/// Whether the account is new and was never signed in to.
async fn is_first(txn: &mut Txn, user: UserId) -> Result<bool, DbError> {
    let now = txn.clock().now();
    if txn.records::<KnownDevice>(PlatformScope).find(doc! { "user_id": user }).await?.is_some() {
        return Ok(false);
    }
    let user = txn.records::<User>(PlatformScope).find(doc! { "_id": user }).await?;
    Ok(user.is_some_and(|user| between(user.created_at, now) < FIRST_WITHIN))
}

fn id(user: UserId, device: &Device) -> String {
    // Without digits, so that updating a browser does not make a new device.
    let name: String = device.name.chars().filter(|c| !c.is_ascii_digit()).collect();
    let network =
        Network::of_text(&device.ip).map(|network| network.to_string()).unwrap_or_default();
    fingerprint(format!("{user}\n{network}\n{name}").as_bytes())
}

#[cfg(test)]
mod tests {
    use common::clock::Clock;

    use super::*;

    #[test]
    fn an_updated_browser_and_a_neighbour_in_the_network_are_the_same_device() {
        let (ada, eve): (UserId, UserId) = (Clock::system().id(), Clock::system().id());
        let device = |name: &str, ip: &str| Device { name: name.to_owned(), ip: ip.to_owned() };
        let place = id(ada, &device("Mozilla/5.0 Firefox/130.0", "2001:db8::1"));
        assert_eq!(place, id(ada, &device("Mozilla/5.0 Firefox/131.2", "2001:db8::ffff")));
        assert_ne!(place, id(ada, &device("Mozilla/5.0 Chrome/130.0", "2001:db8::1")));
        assert_ne!(place, id(ada, &device("Mozilla/5.0 Firefox/130.0", "192.0.2.1")));
        assert_ne!(place, id(eve, &device("Mozilla/5.0 Firefox/130.0", "2001:db8::1")));
    }
}
