//! Values that are stored by name, some of which only a newer release knows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A value as an event contains it. During a deployment, and after a rollback, events contain
/// actions, properties and principals that this release does not know: it keeps their names, so that
/// they can be shown, and do not hide the other events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ByName<T> {
    /// One that this release knows.
    Known(T),
    /// The name of one that it does not know.
    Unknown(String),
}

impl<T: Copy> ByName<T> {
    /// The value, if this release knows it.
    pub const fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }
}

impl<T> From<T> for ByName<T> {
    fn from(value: T) -> Self {
        Self::Known(value)
    }
}

impl<T: PartialEq> PartialEq<T> for ByName<T> {
    fn eq(&self, other: &T) -> bool {
        matches!(self, Self::Known(value) if value == other)
    }
}

impl<T: fmt::Display> fmt::Display for ByName<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(value) => value.fmt(f),
            Self::Unknown(name) => f.pad(name),
        }
    }
}
