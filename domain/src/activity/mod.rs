//! Who did what to what: events, written in the transaction of the change that they tell of.
//!
//! [`Event`] is what happened in a tenant and belongs to it; [`PlatformEvent`] is what happened
//! outside of every tenant. Events hold ids, never addresses or names, so that erasing a person
//! leaves them intact; what tells of a person stands beside them in an [`AuditContext`].

mod action;
mod contexts;
mod events;

pub use action::{Action, Property};
pub use contexts::AuditContext;
pub(crate) use events::Entry;
pub use events::{Deed, Delta, Event, PlatformEvent};
