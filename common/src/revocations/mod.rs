//! Revocations: every process learns of them within a second, even if a message is lost.
//!
//! A process that revokes something publishes it over Redis pub/sub (`announce`); a process that
//! caches revocable data subscribes (`listen`). Messages may be lost, so each subscribing process
//! also sends heartbeats and numbers its messages: a listener that misses a number, or has not
//! heard one of the processes for a second, does not trust its cache until it has heard all of them
//! again.

mod announce;
mod listen;
mod revoked;

use std::{fmt, str::FromStr, time::Duration};

pub use announce::Announcer;
pub use listen::{Forget, Listener};
pub use revoked::{Revoked, UnknownRevocation, note};

/// Interval of heartbeats.
const BEAT: Duration = Duration::from_millis(250);
/// How long cached data is trusted after all processes were heard.
const TRUST: Duration = Duration::from_secs(1);
/// A process that has been silent for this long is assumed to have ended and is no longer awaited.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// The content of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The sender is alive.
    Beat,
    /// The sender is shutting down and need not be awaited.
    Bye,
    /// Something was revoked.
    Revoked(Revoked),
    /// More was revoked than the sender can list.
    Everything,
}

/// A message: its sender, the sender's message number (from 1), and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    /// None for a sender without heartbeats, whose messages are not numbered.
    sender: Option<(String, u64)>,
    said: Said,
}

/// The channel that messages are published to.
fn channel(prefix: &str) -> String {
    format!("{{{prefix}:revocations}}")
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.sender {
            Some((name, count)) => write!(f, "{name} {count} ")?,
            None => f.write_str("- 0 ")?,
        }
        match self.said {
            Said::Beat => f.write_str("beat"),
            Said::Bye => f.write_str("bye"),
            Said::Everything => f.write_str("everything"),
            Said::Revoked(revoked) => revoked.fmt(f),
        }
    }
}

impl FromStr for Message {
    type Err = ();

    /// Content that is not understood, as from a newer release, may mean anything: it revokes
    /// everything.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.splitn(3, ' ');
        let (Some(name), Some(count), Some(said)) = (words.next(), words.next(), words.next())
        else {
            return Err(());
        };
        let sender = if name == "-" {
            None
        } else {
            Some((name.to_owned(), count.parse().map_err(|_| ())?))
        };
        let said = match said {
            "beat" => Said::Beat,
            "bye" => Said::Bye,
            other => other.parse().map_or(Said::Everything, Said::Revoked),
        };
        Ok(Self { sender, said })
    }
}

#[cfg(test)]
mod tests {
    use crate::clock::Clock;

    use super::*;

    #[test]
    fn a_message_parses_from_its_own_text() {
        let revoked = Revoked::Session(Clock::system().id());
        for said in [Said::Beat, Said::Bye, Said::Everything, Said::Revoked(revoked)] {
            for sender in [None, Some(("api".to_owned(), 7))] {
                let message = Message { sender, said };
                assert_eq!(message.to_string().parse(), Ok(message));
            }
        }
        assert_eq!(
            "api 8 planet earth".parse(),
            Ok(Message { sender: Some(("api".to_owned(), 8)), said: Said::Everything })
        );
        assert!("beat".parse::<Message>().is_err());
    }
}
