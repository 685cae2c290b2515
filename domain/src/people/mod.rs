//! People: their accounts and their sessions, without how they sign in.

pub mod sessions;
pub mod users;
