//! What may stand behind a flag: rates, times, sizes, files, and what is said of one that is out of bounds.

use std::path::PathBuf;
use std::time::Duration;

use humantime_serde::re::humantime;

use crate::schedule::Share;
use crate::stamp::{STAMP_IN_LEN, STAMP_LEN};

/// The longest text: what of a message's 24 KiB is left beside its envelope.
const PAYLOAD_MAX: usize = 24_000;

/// The longest text to a room: what of its 8 KiB is left.
const ROOM_PAYLOAD_MAX: usize = 8_000;

/// The longest of all times: nobody waits longer for a run, and moments that far from now can be counted with.
const TIME_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);

pub(super) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && (0.0..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("expected a number of events per second from 0 to 10000000".to_owned()),
    }
}

pub(super) fn time(text: &str) -> Result<humantime::Duration, String> {
    match text.parse::<humantime::Duration>() {
        Ok(time) if *time <= TIME_MAX => Ok(time),
        Ok(_) => Err("expected at most 30days".to_owned()),
        Err(error) => Err(format!(
            "{error}: expected a time such as 90s or 2h, at most 30days"
        )),
    }
}

/// A time in which something is to happen.
pub(super) fn span(text: &str) -> Result<humantime::Duration, String> {
    time(text).and_then(|time| match time.is_zero() {
        true => Err("expected more than 0s: nothing would be sent".to_owned()),
        false => Ok(time),
    })
}

pub(super) fn group_size(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(people @ (0 | 2..=2_000)) => Ok(people),
        _ => Err("expected 2 to 2000 people, or 0".to_owned()),
    }
}

pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("expected a file; standard output has the summary".to_owned()),
        path => Ok(path.into()),
    }
}

pub(super) fn payload(text: &str) -> Result<usize, String> {
    let what = "for which conversation it is, which message, and when it was due";
    payload_within(text, STAMP_IN_LEN, PAYLOAD_MAX, what)
}

pub(super) fn room_payload(text: &str) -> Result<usize, String> {
    let what = "which message it is and when it was due";
    payload_within(text, STAMP_LEN, ROOM_PAYLOAD_MAX, what)
}

fn payload_within(text: &str, least: usize, most: usize, what: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes) if (least..=most).contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "expected {least} to {most} bytes; the first {least} say {what}"
        )),
    }
}

pub(super) fn share(text: &str) -> Result<Share, String> {
    let parsed = text
        .split_once('/')
        .and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
    match parsed {
        Some((index, of)) if index < of => Ok(Share { index, of }),
        _ => Err("expected INDEX/OF".to_owned()),
    }
}
