//! API keys of the tenant.

use axum::{
    Json as Answer,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use common::{
    clock::Timestamp,
    crypto::PlainApiKey,
    id::{self, ApiKeyId, UserId},
    name::Name,
    networks::Range,
    origin::Principal,
};
use domain::{
    access::{
        idempotency::{Reply, ReplyError, Success},
        throttle::{Act, TooMany},
    },
    tenancy::{
        api_keys::{
            AdoptApiKey, ApiKey, ApiKeyError, CreateApiKey, KeyRate, NewApiKey, OverlapHours,
            Plain, ReportLeaked, RevokeApiKey, RotateApiKey, Scope, Scopes, Unusable, UpdateApiKey,
            usage::{ApiKeyUsage, Counts, kept_since},
        },
        tenant_security::{Allowlist, RANGES_MAX},
    },
};
use mongodb::bson::DateTime;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    answers::{
        etag::{self, IfMatch, IfNoneMatch},
        page::Page,
        reply,
    },
    extract::{
        ApiKeysWrite, Client, Fields, Filter, FromFields, Idempotency, Json, Open, OptionalJson,
        PageQuery, Parameters, PathId, Recent, Requires,
    },
    problem::{FieldError, NotRecent, Problem, Refusals},
    state::App,
    throttle::Guard,
};

/// Hours for which a replaced secret stays valid, unless the caller says otherwise.
const OVERLAP_HOURS: i64 = 24;
/// Maximum number of scopes in a request; more than there are.
const SCOPES_MAX: usize = 100;
/// Maximum number of keys reported together.
const REPORTED_MAX: usize = 100;
/// Hours of usage that are returned, unless the caller says otherwise.
const USAGE_HOURS: i64 = 24;

/// An API key, without its secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(crate) struct KeyView {
    #[serde(flatten)]
    state: KeyState,
    /// When the key was last used, to within a minute. Not part of the `ETag`.
    last_used_at: Option<Timestamp>,
}

/// Settings and state of an API key.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyState)]
struct KeyState {
    id: ApiKeyId,
    name: Name,
    /// First characters of the key, by which it can be recognized.
    #[schema(example = "tk_0123")]
    prefix: String,
    /// Last four characters of the key.
    #[schema(example = "2LEg")]
    last_four: String,
    /// `active`, `expired`, or `suspended` because the sponsor is no longer a member; another member
    /// can adopt it then.
    #[schema(example = "active")]
    status: &'static str,
    /// Permissions of the key. It can only use those that its sponsor has too.
    scopes: Scopes,
    /// The member on whose behalf the key acts.
    sponsor: UserId,
    created_by: Principal,
    created_at: Timestamp,
    /// When the key was last changed, rotated or adopted.
    updated_at: Timestamp,
    /// When the key expires, if it does.
    expires_at: Option<Timestamp>,
    /// Requests a minute. Null for the default limit.
    #[schema(required = true)]
    rate_limit: Option<KeyRate>,
    /// The key can only be used from these IP addresses. An empty list allows all.
    ip_allowlist: Allowlist,
    /// Whether each request must be signed (`X-Signature`).
    require_signature: bool,
    /// When the key was suspended.
    suspended_at: Option<Timestamp>,
    /// The secret that was replaced by the last rotation, while it is still valid.
    #[schema(required = true)]
    previous: Option<PreviousView>,
}

/// A replaced secret of an API key.
#[derive(Serialize, ToSchema)]
#[schema(as = PreviousSecret)]
struct PreviousView {
    #[schema(example = "tk_4567")]
    prefix: String,
    #[schema(example = "wxyz")]
    last_four: String,
    expires_at: Option<Timestamp>,
}

impl KeyState {
    fn new(key: &ApiKey, now: DateTime) -> Self {
        let (prefix, last_four) = key.current().map_or_else(Default::default, |secret| {
            (secret.prefix.clone(), secret.last_four.clone())
        });
        let previous = key.previous(now).map(|secret| PreviousView {
            prefix: secret.prefix.clone(),
            last_four: secret.last_four.clone(),
            expires_at: secret.expires_at.map(Timestamp::from),
        });
        Self {
            id: key.id,
            name: key.name.clone(),
            prefix,
            last_four,
            status: match key.check_key(now) {
                Ok(()) => "active",
                Err(Unusable::Expired) => "expired",
                Err(Unusable::Suspended) => "suspended",
                Err(Unusable::Revoked) => "revoked",
            },
            scopes: key.scopes,
            sponsor: key.sponsor,
            created_by: key.created_by,
            created_at: key.created_at.into(),
            updated_at: key.updated_at.into(),
            expires_at: key.expires_at.map(Timestamp::from),
            rate_limit: key.rate_limit,
            ip_allowlist: key.ip_allowlist.clone(),
            require_signature: key.require_signature,
            suspended_at: key.suspended_at.map(Timestamp::from),
            previous,
        }
    }
}

impl KeyView {
    fn new(key: &ApiKey, now: DateTime) -> Self {
        let last_used_at = key.last_used_at.map(Timestamp::from);
        Self { state: KeyState::new(key, now), last_used_at }
    }
}

/// An API key with secrets that are shown only in this response.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyWithSecrets)]
pub(crate) struct Shown {
    /// The API key, after it was created or rotated. Store it now: it cannot be shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String, example = "tk_0123456789ABCDEFGHIJKLMNOPQRSTUV1g2LEg")]
    key: Option<String>,
    /// The secret that signs requests, if one was created. Store it now: it cannot be shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, value_type = String, example = "tks_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg")]
    signing_secret: Option<String>,
    #[serde(flatten)]
    view: KeyView,
}

impl Shown {
    /// A key with the secrets that were made for it.
    fn reply(
        status: Success,
        (key, plain): (ApiKey, Plain),
        now: DateTime,
    ) -> Result<Reply, ReplyError> {
        let shown = Self {
            key: Some(plain.key.expose().to_owned()),
            signing_secret: plain.signing.map(|secret| secret.expose().to_owned()),
            view: KeyView::new(&key, now),
        };
        reply::tagged_by(status, &shown.view.state, &shown)
    }
}

#[derive(ToSchema)]
#[schema(as = NewApiKey)]
pub(crate) struct NewBody {
    name: Name,
    /// What the key may do. The caller must have these permissions too.
    scopes: Scopes,
    /// When the key expires. It does not by default.
    #[schema(required = false)]
    expires_at: Option<Timestamp>,
    /// Requests a minute. The default limit applies if it is absent or null.
    #[schema(required = false)]
    rate_limit: Option<KeyRate>,
    /// The key can only be used from these IP addresses. All are allowed by default.
    #[schema(required = false)]
    ip_allowlist: Option<Allowlist>,
    /// Whether each request must be signed (`X-Signature`). Not required by default.
    #[schema(required = false)]
    require_signature: Option<bool>,
}

impl FromFields for NewBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        let (name, scopes) = (fields.required("name"), scopes(fields));
        let expires_at = fields.optional("expires_at");
        let rate_limit = fields.optional_number("rate_limit");
        let ranges = fields.optional_list_up_to::<Range>("ip_allowlist", RANGES_MAX);
        let require_signature = fields.optional_bool("require_signature");
        Some(Self {
            name: name?,
            scopes: scopes?,
            expires_at,
            rate_limit,
            ip_allowlist: ranges.map(|ranges| ranges.into_iter().collect()),
            require_signature,
        })
    }
}

impl From<NewBody> for NewApiKey {
    fn from(body: NewBody) -> Self {
        Self {
            name: body.name,
            scopes: body.scopes,
            expires_at: body.expires_at.map(DateTime::from),
            rate_limit: body.rate_limit,
            ip_allowlist: body.ip_allowlist.unwrap_or_default(),
            require_signature: body.require_signature.unwrap_or_default(),
        }
    }
}

fn scopes(fields: &mut Fields) -> Option<Scopes> {
    let scopes = fields.required_some::<Scope>("scopes", SCOPES_MAX)?;
    Some(scopes.into_iter().collect())
}

#[derive(ToSchema)]
#[schema(as = ApiKeySettings)]
pub(crate) struct ChangeBody {
    name: Name,
    /// What the key may do. The caller must have these permissions too.
    scopes: Scopes,
    /// When the key expires, or null.
    #[schema(required = true)]
    expires_at: Option<Timestamp>,
    /// Requests a minute, or null for the default limit.
    #[schema(required = true)]
    rate_limit: Option<KeyRate>,
    /// The key can only be used from these IP addresses. An empty list allows all.
    ip_allowlist: Allowlist,
    /// Whether each request must be signed (`X-Signature`).
    require_signature: bool,
}

impl FromFields for ChangeBody {
    /// All fields are required: one that is left out would be reset.
    fn read(fields: &mut Fields) -> Option<Self> {
        let (name, scopes) = (fields.required("name"), scopes(fields));
        let expires_at = fields.nullable("expires_at");
        let rate_limit = fields.nullable_number("rate_limit");
        let ranges = fields.required_list_up_to::<Range>("ip_allowlist", RANGES_MAX);
        let require_signature = fields.required_bool("require_signature");
        Some(Self {
            name: name?,
            scopes: scopes?,
            expires_at: expires_at?.0,
            rate_limit: rate_limit?.0,
            ip_allowlist: ranges?.into_iter().collect(),
            require_signature: require_signature?,
        })
    }
}

impl From<ChangeBody> for NewApiKey {
    fn from(body: ChangeBody) -> Self {
        Self {
            name: body.name,
            scopes: body.scopes,
            expires_at: body.expires_at.map(DateTime::from),
            rate_limit: body.rate_limit,
            ip_allowlist: body.ip_allowlist,
            require_signature: body.require_signature,
        }
    }
}

/// List API keys
///
/// Lists the keys that were not revoked, in the order in which they were created.
#[utoipa::path(
    get, path = "/api/tenant/api-keys", tag = "API keys",
    responses((status = 200, description = "The keys.", body = Page<KeyView>))
)]
pub(crate) async fn list(
    access: Requires<ApiKeysWrite>,
    State(app): State<App>,
    query: PageQuery<id::ApiKey>,
) -> Result<Answer<Page<KeyView>>, Problem> {
    let (scope, now) = (access.caller.scope(), app.clock().now());
    let mut keys = ApiKey::page(app.store(), scope, query.after, query.limit + 1).await?;
    let is_last = keys.len() <= query.limit;
    keys.truncate(query.limit);
    let next = keys.last().map(|key| key.id).filter(|_| !is_last);
    Ok(Answer(Page::new(keys.iter().map(|key| KeyView::new(key, now)), next)))
}

/// Create an API key
///
/// Programs send the key in the header `Authorization: Bearer tk_…`. The caller becomes its sponsor:
/// the key may do what its scopes and the sponsor's role both allow at the moment, and is suspended
/// when the sponsor leaves the tenant. Some permissions cannot be granted to a key, and keys cannot
/// be used with the account routes (`/api/auth`).
#[utoipa::path(
    post, path = "/api/tenant/api-keys", tag = "API keys", request_body = NewBody,
    responses(
        (status = 201, description = "Created.", body = Shown, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<ApiKeyError>,
    )
)]
pub(crate) async fn create(
    Recent(access): Recent<Requires<ApiKeysWrite>>,
    State(app): State<App>,
    once: Idempotency,
    Json(body): Json<NewBody>,
) -> Result<Response, Problem> {
    let (actor, new, max) = (access.caller.actor(), body.into(), app.api_keys.max);
    let create = CreateApiKey { key: &app.key, actor, new, max };
    let now = app.clock().now();
    let created = |made| Shown::reply(Success::Created, made, now);
    access.commit_once(&app, once, &create, created).await
}

/// Get an API key
#[utoipa::path(
    get, path = "/api/tenant/api-keys/{id}", tag = "API keys",
    responses(
        (status = 200, description = "The key.", body = KeyView, headers(("ETag" = String, description = "Identifies the current state."))),
        (status = 304, description = "The client already has the current state."),
        Refusals<ApiKeyError>,
    )
)]
pub(crate) async fn see(
    access: Requires<ApiKeysWrite>,
    State(app): State<App>,
    PathId(key): PathId<ApiKeyId>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    let key = ApiKey::of(app.store(), access.caller.scope(), key).await?;
    let view = KeyView::new(&key.ok_or(ApiKeyError::NotFound)?, app.clock().now());
    if_none_match.answer_by(&view.state, &view)
}

/// Change an API key
///
/// All settings are replaced, effective at the key's next request. The caller must have the
/// permissions of the key. Recent authentication is required to add scopes, to extend the lifetime,
/// to allow more IP addresses, and to no longer require signatures. If signatures are required from
/// now on, the response contains the signing secret.
#[utoipa::path(
    put, path = "/api/tenant/api-keys/{id}", tag = "API keys", request_body = ChangeBody,
    responses(
        (status = 200, description = "Changed.", body = Shown, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<(ApiKeyError, NotRecent)>,
    )
)]
pub(crate) async fn update(
    access: Requires<ApiKeysWrite>,
    State(app): State<App>,
    PathId(id): PathId<ApiKeyId>,
    if_match: IfMatch,
    Json(body): Json<ChangeBody>,
) -> Result<Response, Problem> {
    let now = app.clock().now();
    let unchanged = |key: &ApiKey| if_match.holds(&KeyState::new(key, now));
    let update = UpdateApiKey {
        key: &app.key,
        actor: access.caller.actor(),
        id,
        new: body.into(),
        unchanged: &unchanged,
    };
    let (key, signing) = access.commit(&app, &update).await?;
    let signing_secret = signing.map(|secret| secret.expose().to_owned());
    let shown = Shown { key: None, signing_secret, view: KeyView::new(&key, now) };
    etag::tagged_by(StatusCode::OK, &shown.view.state, &shown)
}

/// Revoke an API key
///
/// The key stops working within a second.
#[utoipa::path(
    delete, path = "/api/tenant/api-keys/{id}", tag = "API keys",
    responses((status = 204, description = "Revoked."), Refusals<ApiKeyError>)
)]
pub(crate) async fn revoke(
    access: Requires<ApiKeysWrite>,
    State(app): State<App>,
    PathId(id): PathId<ApiKeyId>,
) -> Result<StatusCode, Problem> {
    access.commit(&app, &RevokeApiKey { actor: access.caller.actor(), id }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(ToSchema)]
#[schema(as = Rotation)]
pub(crate) struct RotationBody {
    /// Hours for which the previous secret stays valid: 24 by default. It never outlives the key.
    #[schema(required = false)]
    overlap_hours: Option<OverlapHours>,
}

impl FromFields for RotationBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { overlap_hours: fields.optional_number("overlap_hours") })
    }
}

/// Rotate an API key
///
/// The key gets a new secret, and a new signing secret if it requires signatures. Its ID, its
/// settings and its expiry stay the same. The previous secret remains valid for a while; one that
/// was replaced by an earlier rotation ends. The caller must have the permissions of the key.
#[utoipa::path(
    post, path = "/api/tenant/api-keys/{id}/rotate", tag = "API keys", request_body = Option<RotationBody>,
    responses(
        (status = 200, description = "Rotated.", body = Shown, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<ApiKeyError>,
    )
)]
pub(crate) async fn rotate(
    Recent(access): Recent<Requires<ApiKeysWrite>>,
    State(app): State<App>,
    once: Idempotency,
    PathId(id): PathId<ApiKeyId>,
    OptionalJson(body): OptionalJson<RotationBody>,
) -> Result<Response, Problem> {
    let overlap = body.overlap_hours.map_or_else(|| OverlapHours::try_from(OVERLAP_HOURS), Ok);
    let overlap = overlap.map_err(|error| Problem::internal(&error))?;
    let rotate = RotateApiKey { key: &app.key, actor: access.caller.actor(), id, overlap };
    let now = app.clock().now();
    let rotated = |made| Shown::reply(Success::Ok, made, now);
    access.commit_once(&app, once, &rotate, rotated).await
}

/// Adopt an API key
///
/// The caller becomes the sponsor of the key, and a suspended key works again, with the same secret.
/// The caller must have the permissions of the key.
#[utoipa::path(
    post, path = "/api/tenant/api-keys/{id}/adopt", tag = "API keys",
    responses(
        (status = 200, description = "Adopted.", body = KeyView, headers(("ETag" = String, description = "Identifies the current state."))),
        Refusals<ApiKeyError>,
    )
)]
pub(crate) async fn adopt(
    Recent(access): Recent<Requires<ApiKeysWrite>>,
    State(app): State<App>,
    once: Idempotency,
    PathId(id): PathId<ApiKeyId>,
) -> Result<Response, Problem> {
    let (adopt, now) = (AdoptApiKey { actor: access.caller.actor(), id }, app.clock().now());
    let adopted = |key: ApiKey| {
        let view = KeyView::new(&key, now);
        reply::tagged_by(Success::Ok, &view.state, &view)
    };
    access.commit_once(&app, once, &adopt, adopted).await
}

/// Requests of an API key in an hour, by outcome.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyUsagePoint)]
pub(crate) struct PointView {
    /// When the hour began.
    hour: Timestamp,
    /// Requests with a status below 400.
    success: i64,
    /// Requests with a status of 400 to 499, except 429.
    client_error: i64,
    /// Requests with status 429.
    rate_limited: i64,
    /// Requests with a status of 500 or higher.
    server_error: i64,
}

impl From<(DateTime, Counts)> for PointView {
    fn from((hour, counts): (DateTime, Counts)) -> Self {
        let Counts { success, client_error, rate_limited, server_error } = counts;
        Self { hour: hour.into(), success, client_error, rate_limited, server_error }
    }
}

/// Requests of an API key by hour.
#[derive(Serialize, ToSchema)]
#[schema(as = ApiKeyUsage)]
pub(crate) struct UsageView {
    /// Every hour of the period, oldest first.
    points: Vec<PointView>,
}

/// The period of usage.
pub(crate) struct Period {
    from: Option<Timestamp>,
    to: Option<Timestamp>,
}

impl FromFields for Period {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { from: fields.optional("from"), to: fields.optional("to") })
    }
}

impl Filter for Period {
    const PARAMETERS: &'static [(&'static str, &'static str)] = &[
        ("from", "Beginning of the period; 24 hours before its end by default."),
        ("to", "End of the period; now by default."),
    ];
}

/// Get the usage of an API key
///
/// Returns the number of requests in each hour (UTC), which are kept for 90 days. The latest minute
/// may be missing.
#[utoipa::path(
    get, path = "/api/tenant/api-keys/{id}/usage", tag = "API keys",
    responses(
        (status = 200, description = "The usage.", body = UsageView),
        Refusals<ApiKeyError>,
    )
)]
pub(crate) async fn usage(
    access: Requires<ApiKeysWrite>,
    State(app): State<App>,
    PathId(id): PathId<ApiKeyId>,
    Parameters(Period { from, to }): Parameters<Period>,
) -> Result<Answer<UsageView>, Problem> {
    let (scope, now) = (access.caller.scope(), app.clock().now());
    ApiKey::of(app.store(), scope, id).await?.ok_or(ApiKeyError::NotFound)?;
    let to = to.map_or(now, DateTime::from).min(now);
    let day_before = DateTime::from_millis(to.timestamp_millis() - USAGE_HOURS * 3_600_000);
    let from = from.map_or(day_before, DateTime::from).max(kept_since(now));
    if from > to {
        return Err(invalid_period());
    }
    let points = ApiKeyUsage::series(app.store(), scope, id, from, to).await?;
    Ok(Answer(UsageView { points: points.into_iter().map(PointView::from).collect() }))
}

#[derive(ToSchema)]
#[schema(as = LeakedApiKeys)]
pub(crate) struct LeakedBody {
    /// The keys, 1 to 100.
    #[schema(min_items = 1, max_items = 100, example = json!(["tk_0123456789ABCDEFGHIJKLMNOPQRSTUV1g2LEg"]))]
    api_keys: Vec<String>,
}

impl FromFields for LeakedBody {
    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { api_keys: fields.required_some("api_keys", REPORTED_MAX)? })
    }
}

/// The report was accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = LeakReported)]
pub(crate) struct Reported {
    /// Always `accepted`.
    #[schema(example = "accepted")]
    status: &'static str,
}

/// Report leaked API keys
///
/// Anyone who finds API keys of this installation, such as a secret scanner, can revoke them. The
/// response is the same whether or not a key exists. The owners of the tenants and the sponsors of
/// the keys are notified by email.
#[utoipa::path(
    post, path = "/api/public/api-keys/revoke", tag = "API keys", request_body = LeakedBody,
    responses(
        (status = 202, description = "Keys that exist will be revoked.", body = Reported),
        Refusals<TooMany>,
    )
)]
pub(crate) async fn report(
    _: Open,
    State(app): State<App>,
    client: Client,
    Json(body): Json<LeakedBody>,
) -> Result<Response, Problem> {
    let _counted = Guard::of_network(&app, Act::ReportApiKeys, &client).admit().await?;
    let mut keys: Vec<PlainApiKey> =
        body.api_keys.iter().filter_map(|text| PlainApiKey::parse(text.trim())).collect();
    keys.dedup();
    if !keys.is_empty() {
        app.jobs.commit(&client.origin(), &ReportLeaked::new(&keys)).await?;
    }
    Ok((StatusCode::ACCEPTED, Answer(Reported { status: "accepted" })).into_response())
}

fn invalid_period() -> Problem {
    Problem::fields(vec![FieldError {
        field: "from".to_owned(),
        code: "out_of_range",
        message: "must be before `to`, and within the last 90 days".to_owned(),
    }])
}
