//! Tokens, signed as a customer's server signs them (docs/protocol.md, section 4).

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

/// How long a token holds, seconds: longer than any run.
const HOLDS_S: u64 = 24 * 3_600;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    app: &'a str,
    exp: u64,
    iat: u64,
}

/// Signs tokens of one app.
#[derive(Debug, Clone)]
pub struct Signer {
    app_key: String,
    key: EncodingKey,
}

impl Signer {
    /// With the bytes of the app's secret.
    #[must_use]
    pub fn new(app_key: &str, secret: &[u8]) -> Self {
        Self {
            app_key: app_key.to_owned(),
            key: EncodingKey::from_secret(secret),
        }
    }

    /// The app that tokens are for.
    #[must_use]
    pub fn app_key(&self) -> &str {
        &self.app_key
    }

    /// A token for `uid`.
    #[must_use]
    pub fn sign(&self, uid: &str, now_ms: u64) -> String {
        let now_s = now_ms / 1_000;
        let claims = Claims {
            sub: uid,
            app: &self.app_key,
            exp: now_s.saturating_add(HOLDS_S),
            iat: now_s,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.key)
            .expect("plain claims under an HMAC key can be signed")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    #[test]
    fn a_token_names_user_app_and_end_and_is_signed() {
        let token = Signer::new("demo", b"secret").sign("load-000001", 1_795_219_200_000);
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        let read = jsonwebtoken::decode::<serde_json::Value>(
            &token,
            &DecodingKey::from_secret(b"secret"),
            &validation,
        );
        let claims = read.unwrap().claims;
        assert_eq!(claims["sub"], "load-000001");
        assert_eq!(claims["app"], "demo");
        assert_eq!(claims["exp"], 1_795_219_200_u64 + HOLDS_S);
        let other = DecodingKey::from_secret(b"other");
        assert!(jsonwebtoken::decode::<serde_json::Value>(&token, &other, &validation).is_err());
    }
}
