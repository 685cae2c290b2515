//! Problems of the API itself. Those of the domain are its errors ([`super::mapping`]).

use super::{Code, Problem, Refusal};

macro_rules! refusals {
    ($($name:ident = $code:ident $detail:literal;)+) => {$(
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct $name;

        impl Refusal for $name {
            fn codes() -> Vec<Code> {
                vec![Code::$code]
            }
        }

        impl From<$name> for Problem {
            fn from(_: $name) -> Self {
                Self::new(Code::$code, $detail)
            }
        }
    )+};
}

refusals! {
    ForeignOrigin = OriginRefused
        "Send the request from a page of this installation (`app.public_url`).";
    RefreshTokenReused = TokenReused
        "The session was ended because its refresh token may have been stolen. Sign in again. Change your password if this was not you.";
    NoSuchSession = NotFound "You have no active session with this ID.";
    NoPasskeys = PasskeysUnavailable
        "Passkeys need a domain name, and this installation is served from an IP address (`app.public_url`). Use an authenticator app instead.";
    NotRecent = ReauthenticationRequired
        "Confirm your identity (`POST /api/auth/reauthenticate`), then repeat the request.";
    NoSecondFactor = MfaEnrollmentRequired
        "Set up an authenticator app (`POST /api/auth/mfa/totp/enroll`) or a passkey, then repeat the request.";
    NotInTenant = NoTenant
        "Switch to one of your tenants (`POST /api/auth/switch-tenant`), create one (`POST /api/tenants`), or accept an invitation, then repeat the request.";
    ApiKeyNotAllowed = ApiKeyNotAllowed
        "This route is for people. Use the access token of a session instead of an API key.";
    ApiKeyExpired = ApiKeyExpired
        "Ask a member who manages API keys to change its expiry, or use another key.";
    ApiKeySuspended = ApiKeySuspended
        "Its sponsor left the tenant, or their account was disabled. Ask a member who manages API keys and has the permissions of this key to adopt it.";
    SignatureInvalid = SignatureInvalid
        "Sign the request with the signing secret of the key, and send the signature in the header `X-Signature: t=…,v1=…`. Check that your clock is right.";
    SignatureReplayed = SignatureReplayed
        "Each signature is accepted once. Sign the request again, with the current time.";
    NotJoinable = TenantNotFound "No tenant with this ID can be joined with your email address.";
    NoSuchInvitationList = NotFound
        "The tenant has no invitation list with this ID. It may have been deleted.";
}
