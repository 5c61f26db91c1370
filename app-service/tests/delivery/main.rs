//! What follows a commit, end to end over the memory store: pushes, rows, notices, sync, and making up for crashes. Gateways
//! and links are replaced by a switch in memory, time is tokio's paused clock.

mod bad_inputs;
mod calls;
mod clock;
mod crashes;
mod device;
mod faulty;
mod http;
mod one_store;
mod role;
mod rooms;
mod silence;
mod switch;
mod sync_laws;
mod two_nodes;
mod whole_way;
mod world;
