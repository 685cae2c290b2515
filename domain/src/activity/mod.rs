//! Activity: events that record who did what, written in the transaction of the change.
//!
//! An [`Event`] happened in a tenant and belongs to it; a [`PlatformEvent`] happened outside of all
//! tenants. Events contain ids, never email or IP addresses, names, free text or text that a client
//! chose, so that erasing a person leaves them intact; such data is stored separately in an
//! [`AuditContext`].

mod action;
mod by_name;
mod contexts;
mod events;
mod trail;

pub use action::{Action, Property};
pub use by_name::ByName;
pub use contexts::AuditContext;
pub(crate) use events::Entry;
pub use events::{Deed, Delta, Event, PlatformEvent, Values};
pub use trail::{PAGE_MAX, Position, Recorded, TrailFilter};
