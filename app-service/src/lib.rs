//! The app-service role: conversations, messages, sync and the HTTP API over a Store.
#![forbid(unsafe_code)]

pub mod auth;
pub mod config;
