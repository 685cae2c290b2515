//! Telling every process what was revoked, within a second, also when a message is lost.
//!
//! Whoever revokes announces it over Redis pub/sub (`announce`); whoever keeps things in memory
//! that may be revoked listens (`listen`). A message may be lost, so a process that listens also
//! beats, and counts its messages: a listener that misses one, or has not heard one of those that
//! beat for a second, trusts nothing it keeps until it has heard them all again.

mod announce;
mod listen;
mod revoked;

use std::{fmt, str::FromStr, time::Duration};

pub use announce::Announcer;
pub use listen::{Forget, Listener};
pub use revoked::{Revoked, UnknownRevocation, note};

/// A process that listens says that it is there this often.
const BEAT: Duration = Duration::from_millis(250);
/// What is kept is trusted for this long after everybody was heard.
const TRUST: Duration = Duration::from_secs(1);
/// One that was silent for this long is not waited for any more: it has ended without a word.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(30);

/// What one message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// That the sender is there.
    Beat,
    /// That it is not to be waited for any more.
    Bye,
    /// That something was revoked.
    Revoked(Revoked),
    /// That more was revoked than it can tell.
    Everything,
}

/// A message: who says what, and the how manieth of its messages that is, from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    /// None for a sender that does not beat and whose messages are not counted.
    sender: Option<(String, u64)>,
    said: Said,
}

/// Where it is said.
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

    /// What cannot be understood, as from a newer release, may be anything: it revokes everything.
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
    fn a_message_reads_as_it_was_written() {
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
