//! The protocol crate from outside: what each module promises, hostile bytes, and the published vectors.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod answer;
mod city_hash;
mod descriptor;
mod document;
mod frame;
mod handshake;
mod hello;
mod noise_published;
mod record;
mod request_ids;
mod support;
mod varint;
mod vectors;
