//! Parses entries of the stream, with as few copies as possible, because every job passes through
//! here.

use common::id::JobId;
use redis::{FromRedisValue, ParsingError, Value};
use uuid::Uuid;

use super::{broker::EntryId, group::Group};

/// An entry of the stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Entry {
    /// Its id.
    pub(crate) id: EntryId,
    /// Id of the job; none if the engine did not write the entry.
    pub(crate) job: Option<JobId>,
    /// Group of the job.
    pub(crate) group: Group,
    /// The envelope; empty if there is none.
    pub(crate) envelope: Vec<u8>,
    /// Whether the outbox row must be checked before the job runs.
    pub(crate) again: bool,
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, fields): (EntryId, Vec<Vec<u8>>) = FromRedisValue::from_redis_value(value)?;
        let mut entry = Self { id, ..Self::default() };
        let mut fields = fields.into_iter();
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match name.as_slice() {
                b"i" => entry.job = Uuid::from_slice(&value).ok().map(JobId::from_uuid),
                b"g" => entry.group = Group::from_bytes(&value),
                b"e" => entry.envelope = value,
                b"r" => entry.again = true,
                _ => {}
            }
        }
        Ok(entry)
    }
}

/// The response to a read of one stream.
#[derive(Debug, Default)]
pub(crate) struct Entries(pub(crate) Vec<Entry>);

impl FromRedisValue for Entries {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let streams: Option<Vec<(String, Vec<Entry>)>> = FromRedisValue::from_redis_value(value)?;
        Ok(Self(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect()))
    }
}
