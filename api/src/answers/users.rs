//! User accounts in responses.

use common::{clock::Timestamp, email::Email, id::UserId};
use domain::people::users::User;
use serde::Serialize;
use utoipa::ToSchema;

/// Account of a person.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    id: UserId,
    /// Email address, as the person wrote it.
    email: Email,
    /// Name of the person.
    #[schema(example = "Ada Lovelace")]
    name: String,
    created_at: Timestamp,
}

impl UserView {
    pub(crate) fn new(user: &User) -> Self {
        Self {
            id: user.id,
            email: user.email.clone(),
            name: user.name.clone(),
            created_at: user.created_at.into(),
        }
    }
}
