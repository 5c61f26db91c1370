//! What follows a commit: the messages are pushed at once, and every concerned user's row is brought up to date.
//!
//! The committer calls this on its own task, so nothing here waits; what does not fit into a queue is lost here and
//! found again by its marker.

use std::sync::Arc;

use whimbrel_protocol::ids::UserId;

use crate::committed::{CommitSink, Committed};
use crate::fanout::{Fanout, message_jobs};
use crate::markers::Markers;
use crate::ticket::Ticket;
use crate::user_lane::{Lanes, RowKey};

/// The way from a commit to its recipients.
#[derive(Clone)]
pub struct Delivery {
    fanout: Fanout,
    lanes: Arc<Lanes>,
    markers: Markers,
}

impl Delivery {
    /// Pushes by `fanout`, has rows written by `lanes`, and has the marker end in `markers`.
    #[must_use]
    pub fn new(fanout: Fanout, lanes: Arc<Lanes>, markers: Markers) -> Self {
        Self {
            fanout,
            lanes,
            markers,
        }
    }
}

impl CommitSink for Delivery {
    fn committed(&self, committed: Committed) {
        for job in message_jobs(&committed) {
            self.fanout.push(job);
        }
        let Committed {
            app,
            conversation,
            recipients,
            marker,
            only_user,
            ..
        } = committed;
        let users: Vec<UserId> = match only_user {
            Some(user) => vec![user],
            None => recipients.list.iter().map(|recipient| recipient.user).collect(),
        };
        metrics::counter!("whimbrel_markers_written_total").increment(1);
        let markers = self.markers.clone();
        let tickets = Ticket::issue(users.len(), move |outcome| markers.ended(marker, 0, outcome));
        for (user, ticket) in users.into_iter().zip(tickets) {
            self.lanes.submit(
                RowKey {
                    app: app.clone(),
                    user,
                    conversation,
                },
                ticket,
            );
        }
    }

    fn left_undecided(&self) {
        self.markers.leave_some_behind();
    }
}
