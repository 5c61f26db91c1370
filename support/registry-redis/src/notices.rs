//! Change notices, on a connection of their own. They make things quick, nothing rests on them: what one misses, the look of every
//! second finds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::StreamExt as _;
use redis::{Client, RedisError};

use crate::inner::Inner;
use crate::keeper::State;
use crate::meter;
use crate::wire::DIAL_WITHIN;

/// How often a connection that says nothing is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A subscription that lasted this long was a good one: after it pauses begin anew.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// Listens for ever.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut state = inner.keeper.state();
    let pausing = ExponentialBuilder::default()
        .with_min_delay(PAUSE_MIN)
        .with_max_delay(PAUSE_MAX)
        .with_jitter()
        .without_max_times();
    let mut pauses = pausing.build();
    loop {
        let client = match &*state.borrow_and_update() {
            State::Up { notices, .. } => Some(notices.clone()),
            State::Down { .. } => None,
        };
        let Some(client) = client else {
            if state.changed().await.is_err() {
                return;
            }
            continue;
        };
        let began = Instant::now();
        let heard = listen(&inner, *client).await;
        meter::subscribed(false);
        match heard {
            // The next is tried as soon as the first was.
            Ok(()) if began.elapsed() >= STEADY_AFTER => {
                pauses = pausing.build();
                continue;
            }
            // Taken, and ended soon: by a server without room, or by what stands before it.
            Ok(()) => tracing::debug!("change notices ended soon"),
            Err(error) => tracing::debug!(%error, "no change notices now"),
        }
        tokio::time::sleep(pauses.next().unwrap_or(PAUSE_MAX)).await;
    }
}

/// Listens until the connection ends.
async fn listen(inner: &Inner, client: Client) -> Result<(), RedisError> {
    let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    let subscribing = async {
        let mut subscription = client.get_async_pubsub().await?;
        subscription.subscribe(inner.keys.changes()).await?;
        Ok::<_, RedisError>(subscription)
    };
    let subscription = tokio::time::timeout(DIAL_WITHIN, subscribing)
        .await
        .map_err(|_| late())??;
    meter::subscribed(true);
    // What changed while nobody listened.
    inner.nodes_changed();
    inner.poke.notify_one();
    let (mut sink, mut notices) = subscription.split();
    loop {
        match tokio::time::timeout(PING_INTERVAL, notices.next()).await {
            Ok(Some(notice)) => {
                meter::notice();
                match notice.get_payload_bytes() {
                    b"nodes" => inner.nodes_changed(),
                    b"life" => inner.poke.notify_one(),
                    // A later version may say more.
                    _ => {}
                }
            }
            Ok(None) => return Ok(()),
            Err(_) => {
                let ping = sink.ping::<redis::Value>();
                match tokio::time::timeout(DIAL_WITHIN, ping).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(_)) | Err(_) => return Ok(()),
                }
            }
        }
    }
}
