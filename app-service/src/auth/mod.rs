//! Who may come in: the apps of this deployment and the tokens their servers sign.
//!
//! [`Apps`] is built once from the configuration and shared by logins and the HTTP API. Nothing here reads the Store,
//! a clock or a socket: time is an argument, and only the server's clock judges a token. Which session of a device stays
//! is the registry's business.

mod apps;
mod token;

pub use apps::{App, AppError, AppSecret, Apps, SECRET_LEN_MIN, SECRETS_MAX};
pub use token::{Claims, LEEWAY_S, MintError, TOKEN_LEN_MAX, TokenError, TokenRole, Verified, mint};
