//! Who belongs to tenants.

use std::time::Duration;

use super::reader::Reader;

/// The most of anything that a tenant may have of what is told here: what it has is counted at
/// every change.
const COUNT_MAX: u64 = 1_000;

/// Who belongs to tenants.
#[derive(Debug, Clone)]
pub struct Members {
    /// Roles of its own that a tenant may have.
    pub custom_roles_max: u64,
    /// How long an invitation is good for.
    pub invitation_ttl: Duration,
    /// How long before it expires the invited person is reminded.
    pub invitation_reminder: Duration,
    /// Invitations of one tenant that may wait to be accepted.
    pub invitations_max: u64,
    /// How long an invite link is good for.
    pub invite_link_ttl: Duration,
    /// Invite links that a tenant may have.
    pub invite_links_max: u64,
    /// Domains that a tenant may have.
    pub domains_max: u64,
    /// How long a verified domain stays so without its record.
    pub domain_grace: Duration,
    /// How long an offer of ownership is good for.
    pub ownership_transfer_ttl: Duration,
}

impl Members {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            custom_roles_max: r.count_up_to(COUNT_MAX, "members.custom_roles_max", "50", "roles of its own that a tenant may have"),
            invitation_ttl: r.period("members.invitation_ttl", "7d", "how long an invitation is good for"),
            invitation_reminder: r.period(
                "members.invitation_reminder",
                "1d",
                "how long before it expires the invited person is reminded; not at all where it is not good for longer than that",
            ),
            invitations_max: r.count_up_to(
                COUNT_MAX,
                "members.invitations_max",
                "500",
                "invitations of one tenant that may wait to be accepted",
            ),
            invite_link_ttl: r.period("members.invite_link_ttl", "30d", "how long an invite link is good for"),
            invite_links_max: r.count_up_to(COUNT_MAX, "members.invite_links_max", "20", "invite links that a tenant may have"),
            domains_max: r.count_up_to(COUNT_MAX, "members.domains_max", "20", "domains that a tenant may have"),
            domain_grace: r.period(
                "members.domain_grace",
                "3d",
                "how long a verified domain stays so when its DNS record is gone; four times as long when its name servers do not answer",
            ),
            ownership_transfer_ttl: r.period("members.ownership_transfer_ttl", "7d", "how long an offer of ownership is good for"),
        }
    }
}
