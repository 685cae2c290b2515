//! Configuration of the mail budget: how many mails a tenant may send a day to people who are not
//! its members.

use super::reader::Reader;

/// The highest number that can be configured here.
const MAILS_MAX: u64 = 1_000_000;

/// The `mail_budget` section.
#[derive(Debug, Clone, Copy)]
pub struct MailBudget {
    /// Mails on the day on which a tenant is created.
    pub new_tenant: u64,
    /// Mails that each further day adds to the daily limit.
    pub per_day: u64,
    /// Mails that each accepted invitation adds to the daily limit, from the next day on.
    pub per_accepted: u64,
    /// Highest daily limit, unless an operator sets another one.
    pub max: u64,
}

impl MailBudget {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            new_tenant: r.count_up_to(
                MAILS_MAX,
                "mail_budget.new_tenant",
                "50",
                "Mails to people who are not members (invitations and reminders) that a tenant may send on its first day; days are those of UTC. `api tenants set-mail-budget` sets another limit for one tenant",
            ),
            per_day: r.count_up_to(MAILS_MAX, "mail_budget.per_day", "10", "Mails that each day of a tenant's age adds to its daily limit"),
            per_accepted: r.count_up_to(
                MAILS_MAX,
                "mail_budget.per_accepted",
                "2",
                "Mails that each accepted invitation adds to the tenant's daily limit, from the next day on",
            ),
            max: r.count_up_to(MAILS_MAX, "mail_budget.max", "2000", "Highest daily limit that a tenant reaches by its age and accepted invitations"),
        }
    }
}
