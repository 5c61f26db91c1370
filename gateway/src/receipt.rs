//! The receipt of what several have a share in: the reactors that a push's targets live on, or the pushes of one frame.
//! Whoever is done last reports the sum, without anybody waiting.

use std::sync::{Arc, OnceLock};

use whimbrel_protocol::cluster::PushResponse;

type Report = Box<dyn FnOnce(PushResponse) + Send + Sync>;

struct Receipt {
    outcomes: Box<[OnceLock<PushResponse>]>,
    report: Report,
}

/// One share. If it is dropped without being settled, nothing of it was accepted.
pub(crate) struct Share {
    receipt: Option<Arc<Receipt>>,
    index: usize,
}

impl Share {
    /// `count` shares; `report` gets the sum when the last of them is gone, at once if there is none.
    pub(crate) fn of(count: usize, report: impl FnOnce(PushResponse) + Send + Sync + 'static) -> Vec<Self> {
        let receipt = Arc::new(Receipt {
            outcomes: (0..count).map(|_| OnceLock::new()).collect(),
            report: Box::new(report),
        });
        let share = |index| Self {
            receipt: Some(Arc::clone(&receipt)),
            index,
        };
        let shares = (0..count).map(share).collect();
        // Without any other this is the last.
        drop(Self {
            receipt: Some(receipt),
            index: count,
        });
        shares
    }

    /// Says what became of it.
    pub(crate) fn settle(self, outcome: PushResponse) {
        if let Some(receipt) = &self.receipt {
            // A share is settled once, because settling consumes it.
            let _first = receipt.outcomes[self.index].set(outcome);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(receipt) = self.receipt.take().and_then(Arc::into_inner) else {
            return;
        };
        let mut sum = PushResponse::default();
        for outcome in receipt.outcomes.into_iter().filter_map(OnceLock::into_inner) {
            sum.accepted += outcome.accepted;
            sum.gone.extend(outcome.gone);
        }
        (receipt.report)(sum);
    }
}
