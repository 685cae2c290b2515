//! People, as answers show them.

use common::{clock::rfc3339, email::Email, id::UserId};
use domain::identity::users::User;
use serde::Serialize;
use utoipa::ToSchema;

/// A person's account.
#[derive(Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    /// Its id.
    #[schema(value_type = String, example = "usr_0192a0b8c0de7000800000000000cafe")]
    id: UserId,
    /// The address as the person wrote it.
    #[schema(value_type = String, format = "email", example = "ada@example.com")]
    email: Email,
    /// What the person is called.
    #[schema(example = "Ada Lovelace")]
    name: String,
    /// Since when.
    #[schema(format = DateTime)]
    created_at: String,
}

impl UserView {
    pub(crate) fn new(user: &User) -> Self {
        Self {
            id: user.id,
            email: user.email.clone(),
            name: user.name.clone(),
            created_at: rfc3339(user.created_at),
        }
    }
}
