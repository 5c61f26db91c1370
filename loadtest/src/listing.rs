//! Asking the LBS: once before a run, and from a thread of its own while it goes on.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;

use crate::deployment::{Deployment, DeploymentArgs};
use crate::directory::GATEWAYS_MAX;
use crate::interrupt::{self, Interrupt};

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// Between two tries while the LBS does not answer.
const TRY_EVERY: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
struct Answer {
    gateways: Vec<Gateway>,
}

#[derive(Deserialize)]
struct Gateway {
    descriptor: String,
}

/// The descriptors that an LBS lists, in its order.
pub type Listing = Vec<Bytes>;

/// Asks one after the other until one lists somebody, beginning at another one each time: each of them is to serve, and not the
/// first alone. An error is the last one's.
fn fetch_any(http: &reqwest::blocking::Client, lbs: &mut [String], app_key: &str) -> anyhow::Result<Listing> {
    if !lbs.is_empty() {
        lbs.rotate_left(1);
    }
    let mut last = Ok(Listing::new());
    for url in lbs.iter() {
        last = fetch(http, url, app_key);
        if last.as_ref().is_ok_and(|listing| !listing.is_empty()) {
            break;
        }
    }
    last
}

fn fetch(http: &reqwest::blocking::Client, lbs: &str, app_key: &str) -> anyhow::Result<Listing> {
    let url = format!("{}/v1/gateways?app_key={app_key}", lbs.trim_end_matches('/'));
    let answer = http.get(&url).send()?;
    let status = answer.status();
    let body = answer.text()?;
    if !status.is_success() {
        let beginning: String = body.chars().take(200).collect();
        bail!("{url} answered {status}: {beginning}");
    }
    parse(&body).with_context(|| format!("the answer of {url} is no list of gateways"))
}

fn parse(body: &str) -> anyhow::Result<Listing> {
    let answer: Answer = serde_json::from_str(body)?;
    // One garbled descriptor says nothing against the others: each is believed for its own signatures.
    Ok(answer
        .gateways
        .iter()
        .take(GATEWAYS_MAX)
        .map(|gateway| {
            let text = gateway.descriptor.trim_end_matches('=');
            BASE64URL_NOPAD.decode(text.as_bytes()).unwrap_or_default().into()
        })
        .collect())
}

/// Whether both are of the same LBS, in whatever order.
fn are_the_same(some: &[String], others: &[String]) -> bool {
    some.len() == others.len() && some.iter().all(|one| others.contains(one))
}

fn http_client() -> anyhow::Result<reqwest::blocking::Client> {
    reqwest::blocking::Client::builder()
        .timeout(ANSWER_WITHIN)
        .no_proxy()
        .build()
        .context("cannot make an HTTP client")
}

/// Asks until there is an answer that lists somebody, for at most `within`.
///
/// # Errors
/// When there is none in time, or before a signal.
pub fn first(deployment: &Deployment, within: Duration, interrupt: &Interrupt) -> anyhow::Result<Listing> {
    let http = http_client()?;
    let until = Instant::now() + within;
    let mut lbs = deployment.lbs.clone();
    loop {
        let failed = match fetch_any(&http, &mut lbs, &deployment.app_key) {
            Ok(listing) if !listing.is_empty() => return Ok(listing),
            Ok(_) => anyhow::anyhow!("it lists no gateway yet"),
            Err(error) => error,
        };
        if let Some(signal) = interrupt.heard() {
            let name = interrupt::name(signal);
            return Err(failed.context(format!("{name} ended the run before it had begun")));
        }
        if Instant::now() >= until {
            return Err(failed.context(format!(
                "the LBS at {} gave no gateways within {within:?} (--lbs-within), though a running deployment is expected there (by --lbs, or the ready file)",
                deployment.lbs.join(", ")
            )));
        }
        thread::sleep(TRY_EVERY);
    }
}

/// Asks again and again, on request.
#[derive(Debug)]
pub struct Listings {
    ask: Sender<()>,
    answers: Receiver<Listing>,
    asked: bool,
}

impl Listings {
    /// Starts the thread. It ends with this value. `wake` is called after every answer. If the deployment is known by a
    /// ready file it is read again each time, as a deployment that was started anew may listen elsewhere.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(
        args: &DeploymentArgs,
        deployment: &Deployment,
        wake: impl Fn() + Send + 'static,
    ) -> anyhow::Result<Self> {
        let http = http_client()?;
        let (ask, asked) = mpsc::channel::<()>();
        let (answer, answers) = mpsc::channel();
        let args = args.clone();
        let mut lbs = deployment.lbs.clone();
        let app_key = deployment.app_key.clone();
        thread::Builder::new()
            .name("listings".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    if let Ok(current) = Deployment::read(&args)
                        && !are_the_same(&lbs, &current.lbs)
                    {
                        lbs = current.lbs;
                    }
                    // Without an answer one goes on with the gateways that are known; the wait keeps a dead LBS from being
                    // asked in a loop.
                    let listing = fetch_any(&http, &mut lbs, &app_key).unwrap_or_default();
                    if listing.is_empty() {
                        thread::sleep(TRY_EVERY);
                    }
                    if answer.send(listing).is_err() {
                        return;
                    }
                    wake();
                }
            })
            .context("cannot start the thread that asks the LBS")?;
        Ok(Self {
            ask,
            answers,
            asked: false,
        })
    }

    /// Asks, unless an answer is still to come.
    pub fn ask(&mut self) {
        if !self.asked {
            self.asked = self.ask.send(()).is_ok();
        }
    }

    /// Whether an answer is still to come.
    #[cfg(test)]
    pub(crate) fn is_asked(&self) -> bool {
        self.asked
    }

    /// The answer, if one has come.
    pub fn poll(&mut self) -> Option<Listing> {
        let listing = self.answers.try_recv().ok()?;
        self.asked = false;
        Some(listing)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_listing_is_read_with_what_later_versions_add() {
        let body = r#"{"gateways":[{"node":"g1","descriptor":"AQID","later":1},{"descriptor":"%%"}],"refresh_after_s":300}"#;
        assert_eq!(
            parse(body).unwrap(),
            [Bytes::from_static(&[1, 2, 3]), Bytes::new()]
        );
        assert!(parse("<html>").is_err());
    }

    /// An LBS that lists one gateway to whoever asks; counts them.
    fn lbs() -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 2_048]).unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let body = r#"{"gateways":[{"descriptor":"AQID"}]}"#;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
            }
        });
        (url, asked)
    }

    #[test]
    fn all_lbs_are_asked_in_turn_and_a_dead_one_is_passed_over() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let [(first, of_first), (second, of_second)] = [lbs(), lbs()];
        let mut all = vec![format!("http://{nobody}"), first, second];
        let http = http_client().unwrap();
        for _ in 0..6 {
            assert_eq!(fetch_any(&http, &mut all, "demo").unwrap().len(), 1);
        }
        let asked = [of_first, of_second].map(|of| of.load(Ordering::Relaxed));
        assert!(asked.iter().all(|asked| *asked >= 2), "{asked:?}");
        assert!(fetch_any(&http, &mut all[..0], "demo").unwrap().is_empty());
    }

    #[test]
    fn an_absent_lbs_is_named_with_the_time_it_was_given() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let deployment = Deployment {
            lbs: vec![format!("http://{nobody}")],
            app_key: "demo".into(),
            secret: zeroize::Zeroizing::new(b"x".to_vec()),
            root: whimbrel_protocol::descriptor::RootKey::from_seed(&[1; 32]).public(),
            pids: std::collections::BTreeMap::new(),
        };
        let error = format!(
            "{:#}",
            first(&deployment, Duration::ZERO, &Interrupt::default()).unwrap_err()
        );
        assert!(
            error.contains(&nobody.to_string()) && error.contains("--lbs"),
            "{error}"
        );
    }
}
