//! Commands for the audit log: who did what.

use std::str::FromStr;

use anyhow::Context;
use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, RangedU64ValueParser, TypedValueParser},
};
use common::{
    cli::{self, Output},
    clock::{earlier, rfc3339_millis},
    config::Period,
    db::{Store, TenantScope},
    email::Email,
    id::{AdminId, EventId, JobId, TenantId},
    origin::Principal,
};
use domain::{
    activity::{Action, ByName, Delta, PAGE_MAX, Recorded, TrailFilter},
    people::users::User,
    tenancy::tenants::TenantRef,
};
use mongodb::bson::DateTime;
use serde::Serialize;

use super::{Desk, tenants};

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// List events of the platform, or of a tenant, newest first.
    List(AuditQuery),
}

/// Selects events; all given conditions must hold.
#[derive(Args)]
pub(crate) struct AuditQuery {
    /// Events of this tenant, by its id or short name, instead of those of the platform.
    #[arg(long)]
    tenant: Option<TenantRef>,
    /// Events caused by this user, by id or email address, or by `operator` or `system`.
    #[arg(long)]
    actor: Option<Actor>,
    /// Events of this action.
    #[arg(long, value_parser = action())]
    action: Option<Action>,
    /// Events since this time, such as 2026-11-30T12:00:00Z, or within this period until now, such
    /// as 24h or 7d.
    #[arg(long)]
    since: Option<Since>,
    /// Continue after this event: the last one of the previous page.
    #[arg(long, value_name = "EVENT")]
    after: Option<EventId>,
    /// Maximum number of events.
    #[arg(long, default_value_t = 50, value_parser = RangedU64ValueParser::<u32>::new().range(1..=u64::from(PAGE_MAX)))]
    limit: u32,
}

/// An action by name; the help lists all of them.
fn action() -> impl TypedValueParser<Value = Action> {
    PossibleValuesParser::new(Action::ALL.iter().map(|action| action.name())).try_map(|name| {
        let named = Action::ALL.iter().find(|action| action.name() == name);
        named.copied().ok_or("there is no action of this name")
    })
}

/// Who caused an event, as an operator names them.
#[derive(Debug, Clone)]
enum Actor {
    Principal(Principal),
    Address(Email),
}

impl FromStr for Actor {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let principal = text.parse().map(Self::Principal);
        principal.or_else(|_| text.parse().map(Self::Address)).map_err(|_| {
            "must be the id of a user, an API key or an administrator, an email address, `operator`, or `system`"
        })
    }
}

/// The earliest time of an event.
#[derive(Debug, Clone)]
enum Since {
    Time(String, DateTime),
    Ago(String, Period),
}

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(time) = DateTime::parse_rfc3339_str(text) {
            return Ok(Self::Time(text.to_owned(), time));
        }
        let period = text
            .parse()
            .map_err(|error| format!("{error}; or give a time such as 2026-11-30T12:00:00Z"))?;
        Ok(Self::Ago(text.to_owned(), period))
    }
}

impl AuditQuery {
    async fn filter(&self, store: &Store) -> anyhow::Result<TrailFilter> {
        let actor = match &self.actor {
            None => None,
            Some(Actor::Principal(principal)) => Some(*principal),
            Some(Actor::Address(address)) => {
                let user = User::by_email(store, address).await?;
                Some(user.context("no account has this email address")?.id.into())
            }
        };
        let since = self.since.as_ref().map(|since| match since {
            Since::Time(_, time) => *time,
            Since::Ago(_, Period(age)) => earlier(store.clock().now(), *age),
        });
        let after = match self.after {
            None => None,
            Some(id) => {
                let position = Recorded::position(store, id).await?;
                Some(position.with_context(|| format!("there is no event {id}"))?)
            }
        };
        Ok(TrailFilter { actor, action: self.action, since, after })
    }

    /// The command for the next page, after `last`.
    fn next(&self, last: EventId, output: Output) -> String {
        let mut words = vec!["api audit list".to_owned()];
        words.extend(self.tenant.as_ref().map(|tenant| format!("--tenant {tenant}")));
        words.extend(self.actor.as_ref().map(|actor| match actor {
            Actor::Principal(principal) => format!("--actor {principal}"),
            Actor::Address(address) => format!("--actor {}", address.as_str()),
        }));
        words.extend(self.action.map(|action| format!("--action {}", action.name())));
        words.extend(self.since.as_ref().map(|since| match since {
            Since::Time(text, _) | Since::Ago(text, _) => format!("--since {text}"),
        }));
        words.push(format!("--limit {} --after {last}", self.limit));
        words.extend((output == Output::Json).then(|| "--json".to_owned()));
        words.join(" ")
    }
}

pub(crate) async fn run(desk: &Desk, command: AuditCommand) -> anyhow::Result<()> {
    match command {
        AuditCommand::List(query) => {
            desk.with_store(async |store| list(&store, desk.output, &query).await).await
        }
    }
}

async fn list(store: &Store, output: Output, query: &AuditQuery) -> anyhow::Result<()> {
    let filter = query.filter(store).await?;
    let events = match &query.tenant {
        None => Recorded::on_platform(store, &filter, query.limit).await?,
        Some(name) => {
            let scope = TenantScope::of_row(&tenants::found(store, name).await?);
            Recorded::of_tenant(store, scope, &filter, query.limit).await?
        }
    };
    let mut list = output.list(None);
    for event in &events {
        let view = EventView::of(event);
        list.row(&view, &view.line())?;
    }
    if let Some(last) = events.last()
        && events.len() >= query.limit as usize
    {
        let next = query.next(last.id, output);
        cli::note(&format!("{} shown; there may be more: {next}", query.limit));
    }
    list.end(if query.tenant.is_some() {
        "no event of the tenant matches"
    } else {
        "no event of the platform matches; `--tenant` shows those of a tenant"
    });
    Ok(())
}

/// Targets of an event that a line names.
const TARGETS_SHOWN: usize = 5;

/// The targets on a line. A command on jobs that filters select may have hundreds; `--json` has
/// all of them.
fn listed(targets: &[String]) -> String {
    let more = targets.len().saturating_sub(TARGETS_SHOWN);
    let shown =
        targets.iter().take(TARGETS_SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ");
    if more == 0 { shown } else { format!("{shown} and {more} more, see --json") }
}

/// An event as it is shown. What may identify a person expires before the event does.
#[derive(Serialize)]
struct EventView<'a> {
    id: EventId,
    at: String,
    tenant: Option<TenantId>,
    action: String,
    actor: Option<&'a ByName<Principal>>,
    name: Option<&'a str>,
    impersonator: Option<AdminId>,
    targets: &'a [String],
    changes: Vec<&'a Delta>,
    reason: Option<String>,
    ip: Option<&'a str>,
    user_agent: Option<&'a str>,
    request_id: Option<&'a str>,
    job: Option<JobId>,
}

impl<'a> EventView<'a> {
    fn of(event: &'a Recorded) -> Self {
        let (deed, context) = (&event.deed, event.context.as_ref());
        // Values that may identify a person are in the context only.
        let personal = context.map(|context| context.changes.as_slice()).unwrap_or_default();
        let is_known = |change: &&Delta| {
            change.values.is_some()
                || !personal.iter().any(|other| other.property == change.property)
        };
        Self {
            id: event.id,
            at: rfc3339_millis(deed.at),
            tenant: event.tenant,
            action: deed.action.to_string(),
            actor: deed.actor.as_ref(),
            name: context.and_then(|context| context.name.as_deref()),
            impersonator: deed.impersonator,
            targets: &deed.targets,
            changes: deed.changes.iter().filter(is_known).chain(personal).collect(),
            reason: context.and_then(|context| context.reason.as_ref()).map(ToString::to_string),
            ip: context.and_then(|context| context.ip.as_deref()),
            user_agent: context.and_then(|context| context.user_agent.as_deref()),
            request_id: context.and_then(|context| context.request_id.as_deref()),
            job: deed.job_id,
        }
    }

    fn line(&self) -> String {
        let actor = self.actor.map_or_else(|| "-".to_owned(), ToString::to_string);
        let name = self.name.map(|name| format!(" ({name})")).unwrap_or_default();
        let targets = listed(self.targets);
        let mut line =
            format!("{}  {}  {:<28}  {actor}{name}  {targets}", self.at, self.id, self.action);
        for change in &self.changes {
            line.push_str("  ");
            // A change consists of texts, numbers and lists of them.
            line.push_str(&serde_json::to_string(change).unwrap_or_default());
        }
        if let Some(reason) = &self.reason {
            line.push_str("  ");
            line.push_str(reason);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_a_few_targets_and_the_number_of_the_others() {
        let jobs: Vec<String> = (0..500).map(|n| format!("job_{n}")).collect();
        assert_eq!(listed(&jobs[..2]), "job_0 job_1");
        assert_eq!(listed(&jobs[..TARGETS_SHOWN]), "job_0 job_1 job_2 job_3 job_4");
        assert_eq!(listed(&jobs), "job_0 job_1 job_2 job_3 job_4 and 495 more, see --json");
    }
}
