//! Every metric of the platform, defined once.
//!
//! Label values are bounded: route templates, job kinds, queues and outcomes; never tenants, users
//! or requested paths. A counter that first appears with its first events shows no increase, so
//! counters start at zero with every label: values that are listed beside a label when the metrics
//! are created, others by [`start_at_zero`] where they are known.

use std::sync::LazyLock;

use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder, core::Collector,
    process_collector::ProcessCollector,
};

/// In seconds; includes 0.2, the latency objective.
const REQUEST_BUCKETS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0];
/// In seconds; includes 0.05, the objective of database commands.
const DB_BUCKETS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];
/// In seconds; from milliseconds on an idle system to an hour of waiting.
const JOB_BUCKETS: &[f64] =
    &[0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 3600.0];

static REGISTRY: LazyLock<Registry> = LazyLock::new(|| {
    let registry = Registry::new();
    register(&registry, ProcessCollector::for_self());
    registry
});

fn register<C: Collector + 'static>(registry: &Registry, collector: C) {
    registry
        .register(Box::new(collector))
        .expect("each metric is registered once, under a valid name");
}

fn made<C: Collector + Clone + 'static>(metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("metric names and labels are valid");
    register(&REGISTRY, metric.clone());
    metric
}

/// Creates a series, at zero, for each combination of the values of the labels.
pub fn start_at_zero(counter: &IntCounterVec, values: &[&[&str]]) {
    let mut combinations = vec![Vec::new()];
    for values in values {
        let extended = combinations
            .iter()
            .flat_map(|labels| values.iter().map(|value| [labels.as_slice(), &[*value]].concat()));
        combinations = extended.collect();
    }
    for labels in combinations {
        counter.with_label_values(&labels).inc_by(0);
    }
}

/// A metric as it is created, with the listed values of each label.
trait Listed {
    fn start(&self, _values: &[&[&str]]) {}
}

impl Listed for IntCounterVec {
    fn start(&self, values: &[&[&str]]) {
        start_at_zero(self, values);
    }
}

impl Listed for IntCounter {}
impl Listed for IntGauge {}
impl Listed for IntGaugeVec {}
impl Listed for Gauge {}
impl Listed for GaugeVec {}
impl Listed for Histogram {}
impl Listed for HistogramVec {}

macro_rules! metrics {
    ($(#[doc = $doc:literal])+ $touch:ident: $($(#[doc = $help:literal])+ $name:ident: $type:ident = $metric:literal $([$($label:literal $(: $($value:literal)|+)?),+])? $(in $buckets:ident)?;)+) => {
        $($(#[doc = $help])+ pub static $name: LazyLock<$type> =
            LazyLock::new(|| made(metrics!(@new $type, $metric, concat!($($help),+).trim(), [$($($label),+)?] $(, $buckets)?)));)+

        $(#[doc = $doc])+
        pub fn $touch() {
            $(Listed::start(&*$name, &[$($(&[$($($value),+)?] as &[&str]),+)?]);)+
        }
    };
    (@new $type:ident, $metric:literal, $help:expr, [] , $buckets:ident) => {
        $type::with_opts(HistogramOpts::new($metric, $help).buckets($buckets.to_vec()))
    };
    (@new $type:ident, $metric:literal, $help:expr, [$($label:literal),+], $buckets:ident) => {
        $type::new(HistogramOpts::new($metric, $help).buckets($buckets.to_vec()), &[$($label),+])
    };
    (@new $type:ident, $metric:literal, $help:expr, []) => { $type::with_opts(Opts::new($metric, $help)) };
    (@new $type:ident, $metric:literal, $help:expr, [$($label:literal),+]) => {
        $type::new(Opts::new($metric, $help), &[$($label),+])
    };
}

metrics! {
    /// Creates the metrics of every process.
    expose_shared:

    /// The running release: always 1.
    BUILD_INFO: IntGaugeVec = "tenantry_build_info" ["version", "revision"];
    /// How much of a limited resource this process uses: slots for requests, connections of clients,
    /// bytes of request bodies, hashing threads, connections to the database, or slots for jobs.
    RESOURCE_USED: IntGaugeVec = "tenantry_resource_used" ["resource"];
    /// How much of a limited resource this process may use.
    RESOURCE_LIMIT: IntGaugeVec = "tenantry_resource_limit" ["resource"];
    /// Whether MongoDB answers this process.
    MONGODB_UP: IntGauge = "tenantry_mongodb_up";
    /// Database transactions, by outcome: committed or aborted.
    DB_TRANSACTIONS: IntCounterVec = "tenantry_db_transactions_total" ["outcome": "committed" | "aborted"];
    /// Seconds that MongoDB took for a command, including the wait for a connection, by command and
    /// collection (none for commits).
    DB_COMMAND_DURATION: HistogramVec = "tenantry_db_command_duration_seconds" ["command", "collection"] in DB_BUCKETS;
    /// Transaction bodies retried after a transient error.
    DB_TRANSACTION_RETRIES: IntCounter = "tenantry_db_transaction_retries_total";
    /// Jobs staged in the outbox.
    JOBS_STAGED: IntCounterVec = "tenantry_jobs_staged_total" ["queue", "kind"];
    /// Jobs enqueued in Redis, by path: fast, relay, reconcile or direct.
    JOBS_ENQUEUED: IntCounterVec = "tenantry_jobs_enqueued_total" ["queue", "path"];
    /// Mails not sent because the tenant's mail budget was exhausted, by cause: invited by a
    /// member, on request of the invited person, as a reminder, or to the new email address of a
    /// member.
    MAIL_BUDGET_REFUSALS: IntCounterVec = "tenantry_mail_budget_refusals_total" ["cause": "by_member" | "on_request" | "reminder" | "email_change"];
    /// Jobs dropped because another job holds their unique key.
    JOBS_DUPLICATES: IntCounterVec = "tenantry_jobs_duplicates_total" ["queue"];
}

metrics! {
    /// Creates the metrics of the API, so that a scrape shows zeros instead of gaps.
    expose_api:

    /// Requests answered.
    HTTP_REQUESTS: IntCounterVec = "tenantry_http_requests_total" ["method", "route", "status"];
    /// Seconds from a request's head to its response's head.
    HTTP_DURATION: HistogramVec = "tenantry_http_request_duration_seconds" ["method", "route"] in REQUEST_BUCKETS;
    /// Requests in progress, including those whose bodies are arriving.
    HTTP_IN_FLIGHT: IntGauge = "tenantry_http_requests_in_flight";
    /// Connections closed at once because their network had too many.
    HTTP_CONNECTIONS_REFUSED: IntCounter = "tenantry_http_connections_refused_total";
    /// Identity lookups for requests, by outcome: hit or miss in the cache, or distrusted while
    /// revocations cannot be received.
    API_IDENTITIES: IntCounterVec = "tenantry_api_identities_total" ["outcome": "hit" | "miss" | "distrusted"];
    /// API keys presented, by outcome: accepted, or why the key was refused. Unchecked signatures are
    /// those of which Redis could not tell whether they were used before.
    API_KEY_AUTHENTICATIONS: IntCounterVec = "tenantry_api_key_authentications_total" ["outcome": "accepted" | "malformed" | "unknown" | "revoked" | "expired" | "suspended" | "tenant_suspended" | "ip_not_allowed" | "signature_invalid" | "signature_replayed" | "signature_unchecked"];
    /// Refresh tokens presented, by outcome: next, raced, reused or invalid.
    AUTH_REFRESHES: IntCounterVec = "tenantry_auth_refreshes_total" ["outcome": "next" | "raced" | "reused" | "invalid"];
    /// Second factors presented, by method (code or passkey) and outcome (accepted or refused);
    /// includes passkeys used without a password.
    AUTH_SECOND_FACTORS: IntCounterVec = "tenantry_auth_second_factors_total" ["method": "code" | "passkey", "outcome": "accepted" | "refused"];
    /// Attempts rejected by a rate limit, by action.
    AUTH_THROTTLED: IntCounterVec = "tenantry_auth_throttled_total" ["act"];
    /// Attempts counted by this process alone because Redis did not answer.
    AUTH_THROTTLE_OUTAGES: IntCounter = "tenantry_auth_throttle_outages_total";
    /// Requests refused by a rate limit, by policy.
    RATE_LIMITED: IntCounterVec = "tenantry_rate_limited_total" ["policy"];
    /// Requests that were not limited because Redis did not answer.
    RATE_LIMIT_OUTAGES: IntCounter = "tenantry_rate_limit_outages_total";
    /// Seconds that Redis took to count a request.
    RATE_LIMIT_DURATION: Histogram = "tenantry_rate_limit_duration_seconds" in REQUEST_BUCKETS;
    /// Requests with an idempotency key, by outcome: carried out for the first time, answered with
    /// the stored response, carried out before with a response too large to store, refused because
    /// the key belongs to another request, refused because its first request is in progress, or
    /// refused because the key is invalid.
    IDEMPOTENT_REQUESTS: IntCounterVec = "tenantry_idempotent_requests_total" ["outcome": "first" | "replayed" | "not_kept" | "reused" | "in_progress" | "invalid"];
    /// Passwords waiting to be hashed.
    PASSWORD_HASH_WAITING: IntGauge = "tenantry_password_hash_waiting";
    /// Requests rejected because too many passwords waited to be hashed.
    PASSWORD_HASH_SHED: IntCounter = "tenantry_password_hash_shed_total";
    /// Seconds taken to hash a password, without waiting.
    PASSWORD_HASH_DURATION: Histogram = "tenantry_password_hash_duration_seconds" in REQUEST_BUCKETS;
}

metrics! {
    /// Creates the metrics of a worker, so that a scrape shows zeros instead of gaps.
    expose_worker:

    /// Attempts that ended, by outcome: success, retry, dead, delayed, skipped, cancelled, parked or
    /// returned.
    JOBS_FINISHED: IntCounterVec = "tenantry_jobs_finished_total" ["queue", "kind", "outcome"];
    /// Seconds from a job's due time to its start.
    JOBS_WAIT: HistogramVec = "tenantry_jobs_wait_seconds" ["queue", "kind"] in JOB_BUCKETS;
    /// Seconds from a job's commit, or from its due time if that is later, to its success; of a
    /// retried job, from its first failure.
    JOBS_COMPLETION: HistogramVec = "tenantry_jobs_completion_seconds" ["queue", "kind"] in JOB_BUCKETS;
    /// Seconds an attempt took.
    JOBS_DURATION: HistogramVec = "tenantry_jobs_duration_seconds" ["queue", "kind"] in JOB_BUCKETS;
    /// Jobs ready in Redis.
    JOBS_READY: IntGaugeVec = "tenantry_jobs_ready" ["queue"];
    /// Jobs running in this process.
    JOBS_RUNNING: IntGaugeVec = "tenantry_jobs_running" ["queue"];
    /// Jobs that are due later: those that retry and those that are scheduled.
    JOBS_DELAYED: IntGaugeVec = "tenantry_jobs_delayed" ["queue"];
    /// Jobs that failed and wait for their next attempt.
    JOBS_RETRYING: IntGaugeVec = "tenantry_jobs_retrying" ["queue"];
    /// Jobs that are due later and have not failed: future work.
    JOBS_SCHEDULED: IntGaugeVec = "tenantry_jobs_scheduled" ["queue"];
    /// Seconds since the first failure of the job that has been failing for longest; 0 if none is.
    JOBS_OLDEST_FAILING_AGE: GaugeVec = "tenantry_jobs_oldest_failing_age_seconds" ["queue"];
    /// Jobs held back because their tenant has reached its concurrency limit or rate.
    JOBS_HELD: IntGaugeVec = "tenantry_jobs_held" ["queue"];
    /// Whether the queue is paused.
    JOBS_PAUSED: IntGaugeVec = "tenantry_jobs_paused" ["queue"];
    /// Dead letters stored.
    JOBS_DEAD: IntGaugeVec = "tenantry_jobs_dead" ["queue"];
    /// Seconds the oldest ready job has waited.
    JOBS_OLDEST_AGE: GaugeVec = "tenantry_jobs_oldest_age_seconds" ["queue"];
    /// Rows in the outbox: staged jobs that have not finished, and dead jobs.
    JOBS_OUTBOX_ROWS: IntGauge = "tenantry_jobs_outbox_rows";
    /// Seconds the oldest staged job has waited to be enqueued in Redis.
    JOBS_OUTBOX_AGE: Gauge = "tenantry_jobs_outbox_age_seconds";
    /// Jobs that Redis delivered without a valid signature, by outcome: rebuilt from their row in the
    /// outbox, dropped, or returned to the queue because the outbox could not be read.
    JOBS_UNSIGNED: IntCounterVec = "tenantry_jobs_unsigned_total" ["queue", "outcome"];
    /// Staged jobs of queues that this release does not declare, so that no worker runs them.
    JOBS_OUTBOX_UNDECLARED: IntGauge = "tenantry_jobs_outbox_undeclared_rows";
    /// Jobs taken over from workers that stopped responding.
    JOBS_RECOVERED: IntCounterVec = "tenantry_jobs_recovered_total" ["queue"];
    /// Jobs dead-lettered because they crashed their worker too often.
    JOBS_CRASHED: IntCounterVec = "tenantry_jobs_crashed_total" ["queue"];
    /// Queues closed before all results were recorded; other workers take the jobs over when their
    /// leases expire.
    JOBS_SETTLING_CUT: IntCounter = "tenantry_jobs_settling_cut_total";
    /// Jobs whose end was not recorded in the history because MongoDB did not accept it.
    JOBS_HISTORY_LOST: IntCounter = "tenantry_jobs_history_lost_total";
    /// Whether Redis answers this process.
    REDIS_UP: IntGauge = "tenantry_redis_up";
    /// Bytes of memory that Redis uses. None of the metrics of its state is measured in a cluster.
    REDIS_MEMORY_USED: IntGauge = "tenantry_redis_memory_used_bytes";
    /// Bytes of memory that Redis may use: `maxmemory`, or the memory of its machine.
    REDIS_MEMORY_LIMIT: IntGauge = "tenantry_redis_memory_limit_bytes";
    /// Clients connected to Redis.
    REDIS_CLIENTS: IntGauge = "tenantry_redis_clients";
    /// Replicas connected to Redis.
    REDIS_REPLICAS: IntGauge = "tenantry_redis_replicas";
    /// Whether the last attempts of Redis to write to its disk succeeded.
    REDIS_SAVES: IntGauge = "tenantry_redis_saves";
    /// Bytes in use on the disk of MongoDB's data.
    MONGODB_DISK_USED: IntGauge = "tenantry_mongodb_disk_used_bytes";
    /// Size in bytes of the disk of MongoDB's data.
    MONGODB_DISK_SIZE: IntGauge = "tenantry_mongodb_disk_size_bytes";
    /// Bytes of the rows and indexes in the database, uncompressed.
    MONGODB_DATA_SIZE: IntGauge = "tenantry_mongodb_data_size_bytes";
    /// Seconds by which a majority of the replica set is behind its primary.
    MONGODB_REPLICATION_LAG: Gauge = "tenantry_mongodb_replication_lag_seconds";
    /// Whether this process is the leader of the relay.
    JOBS_RELAY_LEADER: IntGauge = "tenantry_jobs_relay_leader";
    /// Scheduled ticks handled by this process, by outcome: run or missed.
    JOBS_TICKS: IntCounterVec = "tenantry_jobs_ticks_total" ["schedule", "outcome"];
    /// Seconds from a tick until its job was staged.
    JOBS_TICK_LAG: HistogramVec = "tenantry_jobs_tick_lag_seconds" ["schedule"] in JOB_BUCKETS;
    /// Time at which the canary last ran in this process, in seconds since the epoch; 0 if never.
    JOBS_CANARY_TIMESTAMP: Gauge = "tenantry_jobs_canary_timestamp_seconds";
    /// Seconds from the tick of the canary that last ran in this process to its start.
    JOBS_CANARY_DELAY: Gauge = "tenantry_jobs_canary_delay_seconds";
    /// Expired rows removed, by kind.
    MAINTENANCE_PURGED: IntCounterVec = "tenantry_maintenance_purged_total" ["kind": "registrations" | "password_resets" | "email_changes" | "invitations" | "sessions"];
    /// Mails delayed because one of the same kind was sent to the same email address recently, by
    /// template.
    MAIL_DELAYED: IntCounterVec = "tenantry_mail_delayed_total" ["template"];
    /// Mails handed to the mail server, by template and outcome: sent, retry or refused.
    MAIL_SENT: IntCounterVec = "tenantry_mail_sent_total" ["template", "outcome"];
    /// Whether the mail server answers this process and accepts its login; NaN before the first mail.
    MAIL_SERVER_UP: Gauge = "tenantry_mail_server_up";
    /// Seconds the mail server took to accept a mail.
    MAIL_SEND_DURATION: Histogram = "tenantry_mail_send_duration_seconds" in REQUEST_BUCKETS;
    /// Invite links followed, by outcome: invited, invited before, already a member, refused, or
    /// link gone.
    INVITE_LINKS_FOLLOWED: IntCounterVec = "tenantry_invite_links_followed_total" ["outcome": "invited" | "invited_before" | "already_member" | "refused" | "link_gone"];
    /// Invitations attempted because of the domain of an email address, by outcome.
    DOMAIN_INVITATIONS: IntCounterVec = "tenantry_domain_invitations_total" ["outcome": "invited" | "invited_before" | "already_member" | "refused" | "closed"];
    /// API keys revoked because they were found and reported.
    API_KEYS_LEAKED: IntCounter = "tenantry_api_keys_leaked_total";
    /// Checks of tenants' domains, by outcome: verified, record missing, held by another tenant, or
    /// no answer.
    DOMAIN_CHECKS: IntCounterVec = "tenantry_domain_checks_total" ["outcome": "verified" | "record_missing" | "held_by_another" | "no_answer"];
}

/// A part of a gauge, which is counted until this is dropped.
#[derive(Debug)]
pub struct Counted {
    gauge: IntGauge,
    amount: i64,
}

impl Counted {
    /// Counts one more.
    pub fn one(gauge: IntGauge) -> Self {
        gauge.inc();
        Self { gauge, amount: 1 }
    }

    /// Nothing yet; see [`Counted::grow`].
    pub const fn none(gauge: IntGauge) -> Self {
        Self { gauge, amount: 0 }
    }

    /// Counts that many more.
    pub fn grow(&mut self, amount: usize) {
        let amount = i64::try_from(amount).unwrap_or(i64::MAX);
        self.gauge.add(amount);
        self.amount = self.amount.saturating_add(amount);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.sub(self.amount);
    }
}

/// Resources whose use is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Requests that are answered.
    Requests,
    /// Connections of clients.
    Connections,
    /// Bytes of request bodies that have not been read completely.
    BodyMemory,
    /// Passwords that are hashed.
    Hashing,
    /// Connections to MongoDB in use.
    DbConnections,
    /// Jobs that run.
    Jobs,
}

impl Resource {
    const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::BodyMemory => "body_memory",
            Self::Hashing => "hashing",
            Self::DbConnections => "db_connections",
            Self::Jobs => "jobs",
        }
    }

    /// Publishes its limit.
    pub fn limit_to(self, limit: usize) {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        RESOURCE_LIMIT.with_label_values(&[self.name()]).set(limit);
        self.used();
    }

    /// How much of it is used.
    pub fn used(self) -> IntGauge {
        RESOURCE_USED.with_label_values(&[self.name()])
    }
}

/// All metrics in Prometheus' text format.
pub fn render() -> String {
    expose_shared();
    let mut text = Vec::new();
    let encoded = TextEncoder::new().encode(&REGISTRY.gather(), &mut text);
    if let Err(error) = encoded {
        tracing::error!(%error, "metrics_not_rendered");
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn renders_zeros_before_anything_happened() {
        super::expose_worker();
        let text = super::render();
        assert!(text.contains("tenantry_jobs_outbox_rows 0"), "{text}");
        assert!(text.contains("process_open_fds"), "{text}");
    }

    /// Alerts compute the increase of these counters.
    #[test]
    fn counters_start_with_every_listed_label() {
        super::expose_api();
        let text = super::render();
        for series in [
            "tenantry_auth_refreshes_total{outcome=\"reused\"} 0",
            "tenantry_auth_second_factors_total{method=\"passkey\",outcome=\"refused\"} 0",
            "tenantry_db_transactions_total{outcome=\"aborted\"} 0",
        ] {
            assert!(text.contains(series), "{series} is missing: {text}");
        }
    }
}
