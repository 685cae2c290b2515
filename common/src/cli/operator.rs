//! The person who runs a command.

use std::fs;

use crate::origin::{Operator, Origin, Reason};

/// The origin of a command's changes: the operating system's user, with the reason they gave.
pub fn operator(reason: Option<Reason>) -> Origin {
    Origin::command(Operator { name: name(), reason })
}

/// Name of the operating system's user that runs this process.
fn name() -> String {
    let id = rustix::process::getuid().as_raw();
    let accounts = fs::read_to_string("/etc/passwd").unwrap_or_default();
    // A container may have no name for its user.
    name_of(id, &accounts).map_or_else(|| format!("uid {id}"), str::to_owned)
}

/// Name of the user with this id, from lines such as `ann:x:1000:…`.
fn name_of(id: u32, accounts: &str) -> Option<&str> {
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, its_id) = (fields.next()?, fields.nth(1)?);
        (its_id.parse() == Ok(id)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_has_the_name_of_the_system_user() {
        let accounts =
            "root:x:0:0:root:/root:/bin/sh\nbroken\n::\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!([0, 1000, 7].map(|id| name_of(id, accounts)), [Some("root"), Some("ann"), None]);
        assert!(!name().is_empty());
    }
}
