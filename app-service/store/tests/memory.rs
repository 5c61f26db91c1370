//! The memory backend under the conformance suite.

use std::sync::Arc;

use whimbrel_store::conformance::Subject;
use whimbrel_store::{Epoch, MemoryStore};

whimbrel_store::conformance_tests!(async { Subject::new(Arc::new(MemoryStore::new(Epoch([7; 16]))), "") });
