//! Software second factors: an authenticator app, and a device with a passkey.

#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "only tests use it, and a test whose helper fails has failed"
)]

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mongodb::bson::DateTime;
use passkey::{
    authenticator::{Authenticator, UiHint, UserCheck, UserValidationMethod},
    client::{Client, DefaultClientData},
    crypto::rust_crypto::RustCryptoBackend,
    types::{
        Passkey,
        ctap2::{Aaguid, Ctap2Error},
    },
};
use reqwest::Url;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret, Totp};

/// The origin of passkey tests: passkeys need a domain name.
pub const ORIGIN: &str = "https://app.example.com";

/// A user who confirms at once, or whom the device does not recognise.
struct Person {
    is_recognised: bool,
}

#[async_trait::async_trait]
impl UserValidationMethod for Person {
    type PasskeyItem = Passkey;

    async fn check_user<'a>(
        &self,
        _: UiHint<'a, Passkey>,
        presence: bool,
        verification: bool,
    ) -> Result<UserCheck, Ctap2Error> {
        Ok(UserCheck { presence, verification: verification && self.is_recognised })
    }

    fn is_presence_enabled(&self) -> bool {
        true
    }

    fn is_verification_enabled(&self) -> Option<bool> {
        Some(self.is_recognised)
    }
}

/// A device with one passkey, and its browser.
pub struct Device {
    passkey: Option<Passkey>,
    origin: Url,
}

impl Device {
    /// A device with a browser that shows the pages of `origin`.
    pub fn at(origin: &str) -> Self {
        Self { passkey: None, origin: origin.parse().unwrap() }
    }

    /// The same passkey, used by someone else.
    #[must_use]
    pub fn copied(&self) -> Self {
        Self { passkey: self.passkey.clone(), origin: self.origin.clone() }
    }

    fn authenticator(&self) -> Authenticator<Option<Passkey>, Person, RustCryptoBackend> {
        let person = Person { is_recognised: true };
        let mut authenticator = Authenticator::new(
            Aaguid::new_empty(),
            self.passkey.clone(),
            person,
            RustCryptoBackend,
        );
        authenticator.set_make_credentials_with_signature_counter(true);
        authenticator
    }

    /// `navigator.credentials.create`.
    pub async fn create(&mut self, public_key: &Value) -> Value {
        let options = serde_json::from_value(json!({ "publicKey": public_key })).unwrap();
        let mut client = Client::new(self.authenticator());
        let created = client.register(&self.origin, options, DefaultClientData).await.unwrap();
        self.passkey.clone_from(client.authenticator().store());
        written(serde_json::to_value(created).unwrap())
    }

    /// `navigator.credentials.get`.
    pub async fn get(&mut self, public_key: &Value) -> Value {
        let options = serde_json::from_value(json!({ "publicKey": public_key })).unwrap();
        let mut client = Client::new(self.authenticator());
        let used = client.authenticate(&self.origin, options, DefaultClientData).await.unwrap();
        self.passkey.clone_from(client.authenticator().store());
        written(serde_json::to_value(used).unwrap())
    }
}

/// As `toJSON` of a browser writes it: bytes in base64url.
fn written(value: Value) -> Value {
    match value {
        Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = serde_json::from_value(Value::Array(items)).unwrap();
            URL_SAFE_NO_PAD.encode(bytes).into()
        }
        Value::Array(items) => items.into_iter().map(written).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, written(value))).collect()
        }
        other => other,
    }
}

/// An authenticator app with a secret.
pub struct App(Totp);

impl App {
    /// An app in which the secret was entered, in base 32.
    pub fn told(secret: &str) -> Self {
        Self(
            Builder::new()
                .with_secret(Secret::try_from_base32(secret).unwrap())
                .build_noncompliant(),
        )
    }

    /// The code in `steps` steps from now. Each code is valid once, and the codes of the next step
    /// are already valid.
    pub fn code(&self, steps: i64) -> String {
        let now = DateTime::now().timestamp_millis() / 1000;
        self.0.generate(u64::try_from(now + steps * 30).unwrap()).to_string()
    }
}
