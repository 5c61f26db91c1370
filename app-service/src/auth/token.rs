//! Tokens: JWT (RFC 7519), HS256, signed by the customer's server with the app's secret.
//!
//! Claims: `sub` is the uid, `app` (or `iss`) the app key, `exp`, `nbf` and `iat` in unix seconds; `role` is absent on users'
//! tokens and `server` on those that open the HTTP API.

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Deserialize, Serialize};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, Uid};

use super::apps::{App, AppSecret, Apps};

/// Bytes of the longest token looked at: it has to fit in the hello (4 KiB) beside everything else of a login.
pub const TOKEN_LEN_MAX: usize = 2048;
/// Seconds by which the customer's clock may differ from ours.
pub const LEEWAY_S: u64 = 30;

/// What is said of a token that does not parse.
const NOT_A_TOKEN: &str = "it is not a compact JWT with a sub that is text and an exp (and iat, nbf if any) in unix seconds, each claim once";

/// A NumericDate (RFC 7519, section 2): seconds, perhaps with a fraction, which is dropped. What lies before 1970 is 0.
fn numeric_date<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Date {
        Whole(u64),
        Fraction(f64),
    }
    match Date::deserialize(deserializer)? {
        Date::Whole(seconds) => Ok(seconds),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast from floats saturates: the past is 0, what is beyond all time its end"
        )]
        Date::Fraction(seconds) => Ok(seconds as u64),
    }
}

fn numeric_date_if_any<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    numeric_date(deserializer).map(Some)
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The uid; of a server token who runs it, for the logs.
    pub sub: String,
    /// The app key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The app key, for issuers that cannot add claims of their own; `app` goes before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// When it ends, unix seconds.
    #[serde(deserialize_with = "numeric_date")]
    pub exp: u64,
    /// Before when it is not good, unix seconds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "numeric_date_if_any"
    )]
    pub nbf: Option<u64>,
    /// When it was signed, unix seconds.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "numeric_date_if_any"
    )]
    pub iat: Option<u64>,
    /// Its own id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// `server` on tokens of the HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRole {
    /// Logging in as its uid.
    User,
    /// The HTTP API of its app.
    Server,
}

impl TokenRole {
    const fn claim(self) -> Option<&'static str> {
        match self {
            Self::User => None,
            Self::Server => Some("server"),
        }
    }
}

/// A token that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Its app.
    pub app: AppKey,
    /// Its uid.
    pub uid: Uid,
    /// When it ends, unix milliseconds.
    pub expires_ms: u64,
}

/// Why a token does not open the door.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No such app.
    #[error("no app {0:?} is served here: check the app key")]
    UnknownApp(String),
    /// Not a token, or not signed by a live secret of the app.
    #[error("the token is not good: {0}")]
    Invalid(&'static str),
    /// Its time is over.
    #[error("the token expired at {exp} s, it is {now} s now: sign a new one")]
    Expired {
        /// Its `exp`.
        exp: u64,
        /// The server's time, unix seconds.
        now: u64,
    },
    /// Of another app, user or purpose.
    #[error("the token is {0}")]
    Mismatch(&'static str),
}

impl TokenError {
    /// The code a client gets.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::UnknownApp(_) => Code::UnknownApp,
            Self::Invalid(_) => Code::TokenInvalid,
            Self::Expired { .. } => Code::TokenExpired,
            Self::Mismatch(_) => Code::TokenMismatch,
        }
    }
}

/// Why a token could not be signed.
#[derive(Debug, thiserror::Error)]
#[error("cannot sign a token: {0}")]
pub struct MintError(#[from] jsonwebtoken::errors::Error);

/// Signs a token as a customer's server does. `ttl_s` seconds from `now_ms` it ends.
///
/// # Errors
/// When signing fails, which for HMAC means that the crypto provider is broken.
pub fn mint(
    secret: &AppSecret,
    app: &AppKey,
    uid: &Uid,
    role: TokenRole,
    now_ms: u64,
    ttl_s: u64,
) -> Result<String, MintError> {
    let now_s = now_ms / 1000;
    let claims = Claims {
        sub: uid.as_str().to_owned(),
        app: Some(app.as_str().to_owned()),
        iss: None,
        exp: now_s.saturating_add(ttl_s),
        nbf: None,
        iat: Some(now_s),
        jti: None,
        role: role.claim().map(str::to_owned),
    };
    Ok(jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &secret.encoding_key(),
    )?)
}

impl Apps {
    /// Judges the token of a login that claims `app_key` and `uid`.
    ///
    /// # Errors
    /// When the token does not open that door; see [`TokenError`].
    pub fn verify_login(
        &self,
        app_key: &str,
        uid: &str,
        token: &str,
        now_ms: u64,
    ) -> Result<Verified, TokenError> {
        let app = self.find(app_key).ok_or_else(|| unknown(app_key))?;
        let verified = verify(app, token, TokenRole::User, now_ms)?;
        if verified.uid.as_str() != uid {
            return Err(TokenError::Mismatch("for another uid than the login claims"));
        }
        Ok(verified)
    }

    /// Judges the token of an HTTP request. Its app is the one it names itself, believed only once the signature holds.
    ///
    /// # Errors
    /// When the token does not open the HTTP API; see [`TokenError`].
    pub fn verify_server(&self, token: &str, now_ms: u64) -> Result<(&App, Verified), TokenError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(TokenError::Invalid("it is longer than 2048 bytes"));
        }
        let claims: Claims = jsonwebtoken::dangerous::insecure_decode_claims(token)
            .map_err(|_| TokenError::Invalid(NOT_A_TOKEN))?;
        let named = claims
            .app
            .or(claims.iss)
            .ok_or(TokenError::Invalid("it names no app"))?;
        let app = self.find(&named).ok_or_else(|| unknown(&named))?;
        let verified = verify(app, token, TokenRole::Server, now_ms)?;
        Ok((app, verified))
    }
}

fn unknown(app_key: &str) -> TokenError {
    TokenError::UnknownApp(app_key.chars().take(40).collect())
}

fn verify(app: &App, token: &str, role: TokenRole, now_ms: u64) -> Result<Verified, TokenError> {
    if token.len() > TOKEN_LEN_MAX {
        return Err(TokenError::Invalid("it is longer than 2048 bytes"));
    }
    let claims = signed_claims(app, token)?;
    let named = claims.app.as_deref().or(claims.iss.as_deref());
    match named {
        None => return Err(TokenError::Invalid("it names no app")),
        Some(named) if named != app.key().as_str() => return Err(TokenError::Mismatch("of another app")),
        Some(_) => {}
    }
    if claims.role.as_deref() != role.claim() {
        return Err(TokenError::Mismatch(match role {
            TokenRole::User => "not a user's: its role claim must be absent",
            TokenRole::Server => "not a server's: its role claim must be \"server\"",
        }));
    }
    let now = now_ms / 1000;
    if claims.exp.saturating_add(LEEWAY_S) <= now {
        return Err(TokenError::Expired { exp: claims.exp, now });
    }
    if claims.iat.is_some_and(|iat| iat > now.saturating_add(LEEWAY_S)) {
        return Err(TokenError::Invalid(
            "it was signed in the future: check the signing server's clock",
        ));
    }
    if claims.nbf.is_some_and(|nbf| nbf > now.saturating_add(LEEWAY_S)) {
        return Err(TokenError::Invalid(
            "it is not good yet (nbf): wait, or check the signing server's clock",
        ));
    }
    let uid = Uid::new(&claims.sub)
        .map_err(|_| TokenError::Invalid("its sub is no uid (1 to 64 bytes, printable)"))?;
    Ok(Verified {
        app: app.key().clone(),
        uid,
        expires_ms: claims.exp.saturating_mul(1000),
    })
}

/// The claims, once one of the app's live secrets has signed them.
fn signed_claims(app: &App, token: &str) -> Result<Claims, TokenError> {
    // Times are judged by the caller, against the time it was handed.
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    for secret in app.secrets() {
        match jsonwebtoken::decode::<Claims>(token, &secret.decoding_key(), &validation) {
            // What a header calls critical must be understood, and nothing is (RFC 7515, 4.1.11).
            Ok(data) if data.header.crit.is_some() => {
                return Err(TokenError::Invalid(
                    "its header has a crit, and none is understood here",
                ));
            }
            Ok(data) => return Ok(data.claims),
            Err(error) => match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => {}
                jsonwebtoken::errors::ErrorKind::InvalidAlgorithm => {
                    return Err(TokenError::Invalid("its algorithm is not HS256"));
                }
                _ => return Err(TokenError::Invalid(NOT_A_TOKEN)),
            },
        }
    }
    Err(TokenError::Invalid("no live secret of the app has signed it"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_760_000_000_000;

    fn secret(byte: u8) -> AppSecret {
        AppSecret::from_bytes(&[byte; 32]).unwrap()
    }

    fn key(text: &str) -> AppKey {
        AppKey::new(text).unwrap()
    }

    fn uid(text: &str) -> Uid {
        Uid::new(text).unwrap()
    }

    /// "one" changes over from secret 1 to 2; "two" has secret 3.
    fn apps() -> Apps {
        Apps::new([
            App::new(key("one"), vec![secret(1), secret(2)], true).unwrap(),
            App::new(key("two"), vec![secret(3)], true).unwrap(),
        ])
        .unwrap()
    }

    fn token(secret_byte: u8, app: &str, role: TokenRole, ttl_s: u64) -> String {
        mint(
            &secret(secret_byte),
            &key(app),
            &uid("alice"),
            role,
            NOW_MS,
            ttl_s,
        )
        .unwrap()
    }

    fn signed(claims: &impl Serialize, algorithm: Algorithm) -> String {
        jsonwebtoken::encode(&Header::new(algorithm), claims, &secret(1).encoding_key()).unwrap()
    }

    #[test]
    fn both_live_secrets_open_the_door_and_no_other() {
        for byte in [1, 2] {
            let verified = apps()
                .verify_login("one", "alice", &token(byte, "one", TokenRole::User, 60), NOW_MS)
                .unwrap();
            assert_eq!(verified.expires_ms, NOW_MS + 60_000);
        }
        let refused = apps()
            .verify_login("one", "alice", &token(3, "one", TokenRole::User, 60), NOW_MS)
            .unwrap_err();
        assert_eq!(refused.code(), Code::TokenInvalid);
    }

    #[test]
    fn expiry_is_judged_by_the_time_handed_in_with_leeway() {
        let token = token(1, "one", TokenRole::User, 60);
        let at = |seconds: u64| apps().verify_login("one", "alice", &token, NOW_MS + seconds * 1000);
        assert!(at(60 + LEEWAY_S - 1).is_ok());
        assert_eq!(at(60 + LEEWAY_S).unwrap_err().code(), Code::TokenExpired);
        let early = apps()
            .verify_login("one", "alice", &token, NOW_MS - (LEEWAY_S + 1) * 1000)
            .unwrap_err();
        assert_eq!(early.code(), Code::TokenInvalid);
    }

    #[test]
    fn a_token_is_refused_before_its_time_but_for_the_leeway() {
        let not_before_s = NOW_MS / 1000 + 600;
        let claims = serde_json::json!({
            "sub": "alice", "app": "one", "exp": not_before_s + 600, "nbf": not_before_s,
        });
        let token = signed(&claims, Algorithm::HS256);
        let at = |now_s: u64| apps().verify_login("one", "alice", &token, now_s * 1000);
        let early = at(not_before_s - LEEWAY_S - 1).unwrap_err();
        assert_eq!(early.code(), Code::TokenInvalid);
        assert!(early.to_string().contains("nbf"), "{early}");
        assert!(at(not_before_s - LEEWAY_S).is_ok());
    }

    #[test]
    fn times_may_have_fractions_and_what_is_no_time_is_named() {
        let judge = |claims: &serde_json::Value| {
            let token = signed(claims, Algorithm::HS256);
            apps().verify_login("one", "alice", &token, NOW_MS)
        };
        let exp = NOW_MS / 1000 + 60;
        let fraction = format!("{exp}.75").parse::<f64>().unwrap();
        let verified = judge(
            &serde_json::json!({"sub": "alice", "app": "one", "exp": fraction, "iat": fraction - 90.5}),
        );
        assert_eq!(verified.unwrap().expires_ms, exp * 1000);
        let error = judge(&serde_json::json!({"sub": "alice", "app": "one", "exp": "soon"})).unwrap_err();
        assert!(error.to_string().contains("unix seconds"), "{error}");
        let past = judge(&serde_json::json!({"sub": "alice", "app": "one", "exp": -1.5})).unwrap_err();
        assert_eq!(past.code(), Code::TokenExpired);
    }

    #[test]
    fn a_header_that_calls_something_critical_is_refused() {
        let header = Header {
            crit: Some(vec!["b64".to_owned()]),
            ..Header::new(Algorithm::HS256)
        };
        let claims = serde_json::json!({"sub": "alice", "app": "one", "exp": NOW_MS / 1000 + 60});
        let token = jsonwebtoken::encode(&header, &claims, &secret(1).encoding_key()).unwrap();
        let error = apps().verify_login("one", "alice", &token, NOW_MS).unwrap_err();
        assert!(error.to_string().contains("crit"), "{error}");
    }

    #[test]
    fn another_app_uid_or_role_is_a_mismatch() {
        let cross = signed(
            &Claims {
                sub: "alice".into(),
                app: Some("two".into()),
                iss: None,
                exp: NOW_MS / 1000 + 60,
                nbf: None,
                iat: None,
                jti: None,
                role: None,
            },
            Algorithm::HS256,
        );
        let user = token(1, "one", TokenRole::User, 60);
        let server = token(1, "one", TokenRole::Server, 60);
        for (claimed, token) in [("alice", &cross), ("bob", &user), ("alice", &server)] {
            let error = apps().verify_login("one", claimed, token, NOW_MS).unwrap_err();
            assert_eq!(error.code(), Code::TokenMismatch, "{error}");
        }
        assert_eq!(
            apps().verify_server(&user, NOW_MS).unwrap_err().code(),
            Code::TokenMismatch
        );
        assert_eq!(
            apps().verify_server(&server, NOW_MS).unwrap().0.key().as_str(),
            "one"
        );
    }

    #[test]
    fn an_issuer_stands_in_for_the_app_claim_but_some_app_must_be_named() {
        let with_issuer = serde_json::json!({"sub": "alice", "iss": "one", "exp": NOW_MS / 1000 + 60});
        let nameless = serde_json::json!({"sub": "alice", "exp": NOW_MS / 1000 + 60});
        assert!(
            apps()
                .verify_login("one", "alice", &signed(&with_issuer, Algorithm::HS256), NOW_MS)
                .is_ok()
        );
        let error = apps()
            .verify_login("one", "alice", &signed(&nameless, Algorithm::HS256), NOW_MS)
            .unwrap_err();
        assert_eq!(error.code(), Code::TokenInvalid);
    }

    #[test]
    fn nonsense_is_refused_by_kind_and_never_panics() {
        let mut cut = token(1, "one", TokenRole::User, 60);
        cut.truncate(cut.len() - 4);
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
        let other_algorithm = signed(
            &serde_json::json!({"sub": "alice", "app": "one", "exp": 9}),
            Algorithm::HS512,
        );
        let long = "a".repeat(TOKEN_LEN_MAX + 1);
        let no_exp = signed(
            &serde_json::json!({"sub": "alice", "app": "one"}),
            Algorithm::HS256,
        );
        for token in [
            "",
            ".",
            "..",
            "a.b.c",
            "\u{0}",
            none,
            &cut,
            &long,
            &other_algorithm,
            &no_exp,
        ] {
            assert_eq!(
                apps()
                    .verify_login("one", "alice", token, NOW_MS)
                    .unwrap_err()
                    .code(),
                Code::TokenInvalid
            );
            assert!(apps().verify_server(token, NOW_MS).is_err());
        }
        for app in ["", "three", "ONE", &long] {
            let error = apps().verify_login(app, "alice", none, NOW_MS).unwrap_err();
            assert_eq!(error.code(), Code::UnknownApp);
            assert!(error.to_string().len() < 200);
        }
    }

    #[test]
    fn a_sub_that_is_no_uid_is_invalid() {
        let claims = serde_json::json!({"sub": "x".repeat(65), "app": "one", "exp": NOW_MS / 1000 + 60});
        let token = signed(&claims, Algorithm::HS256);
        let error = apps()
            .verify_login("one", &"x".repeat(65), &token, NOW_MS)
            .unwrap_err();
        assert_eq!(error.code(), Code::TokenInvalid);
    }
}
