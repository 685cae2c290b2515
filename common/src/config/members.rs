//! Configuration of tenants' members, invitations and domains.

use std::time::Duration;

use super::reader::Reader;

/// The highest limit that can be configured here: a tenant's rows are counted at every change.
const COUNT_MAX: u64 = 1_000;

/// The highest number of lines that can be configured for lists of invitations.
const LINES_MAX: u64 = 100_000;

/// The `members` section.
#[derive(Debug, Clone)]
pub struct Members {
    /// Custom roles a tenant may have.
    pub custom_roles_max: u64,
    /// Lifetime of an invitation.
    pub invitation_ttl: Duration,
    /// How long before it expires an invitation is sent again as a reminder.
    pub invitation_reminder: Duration,
    /// Pending invitations a tenant may have.
    pub invitations_max: u64,
    /// Lists of invitations a tenant may have in progress.
    pub invitation_lists_open_max: u64,
    /// Lines kept of all lists of invitations of a tenant, in progress and completed.
    pub invitation_list_lines_max: u64,
    /// Lifetime of an invite link.
    pub invite_link_ttl: Duration,
    /// Invite links a tenant may have.
    pub invite_links_max: u64,
    /// Domains a tenant may have.
    pub domains_max: u64,
    /// How long a verified domain stays verified after its DNS record disappears.
    pub domain_grace: Duration,
    /// Tenants a user may own.
    pub tenants_owned_max: u64,
    /// Lifetime of an offer of ownership.
    pub ownership_transfer_ttl: Duration,
}

impl Members {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            custom_roles_max: r.count_up_to(COUNT_MAX, "members.custom_roles_max", "50", "Custom roles a tenant may have"),
            invitation_ttl: r.period("members.invitation_ttl", "7d", "Lifetime of an invitation"),
            invitation_reminder: r.period(
                "members.invitation_reminder",
                "1d",
                "How long before an invitation expires the invited person is reminded; nobody is reminded if `members.invitation_ttl` is not longer than this",
            ),
            invitations_max: r.count_up_to(
                COUNT_MAX,
                "members.invitations_max",
                "500",
                "Pending invitations a tenant may have",
            ),
            invitation_lists_open_max: r.count_up_to(
                COUNT_MAX,
                "members.invitation_lists_open_max",
                "5",
                "Lists of invitations (`POST /api/tenant/invitations/bulk`) a tenant may have in progress",
            ),
            invitation_list_lines_max: r.count_up_to(
                LINES_MAX,
                "members.invitation_list_lines_max",
                "5000",
                "Lines kept of all lists of invitations of a tenant; a new list replaces the oldest completed ones, and is rejected if lists in progress fill the limit",
            ),
            invite_link_ttl: r.period("members.invite_link_ttl", "30d", "Lifetime of an invite link"),
            invite_links_max: r.count_up_to(COUNT_MAX, "members.invite_links_max", "20", "Invite links a tenant may have"),
            domains_max: r.count_up_to(COUNT_MAX, "members.domains_max", "20", "Domains a tenant may have"),
            domain_grace: r.period(
                "members.domain_grace",
                "3d",
                "How long a verified domain stays verified after its DNS record disappears; four times as long if its name servers do not answer",
            ),
            tenants_owned_max: r.count_up_to(
                COUNT_MAX,
                "members.tenants_owned_max",
                "10",
                "Tenants a user may own; at the limit, they cannot create another (`POST /api/tenants`)",
            ),
            ownership_transfer_ttl: r.period("members.ownership_transfer_ttl", "7d", "Lifetime of an offer of ownership"),
        }
    }
}
