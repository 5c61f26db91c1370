//! The core against the rules of a server, under a virtual clock.
