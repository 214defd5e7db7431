//! The data port: results handed directly from worker to worker, and to clients.
//!
//! - [`frame`]: the messages and their bytes; pure, decoding never panics nor allocates beyond a bound
//! - [`auth`]: the handshake, which proves the cluster secret both ways and names the incarnation
//! - [`socket`]: TCP, or what is faster between processes of one machine
//! - [`wire`]: frames over a stream, with deadlines that measure progress
//! - `link`: one connection to one peer, shared by all who fetch from it
//! - [`fetch`]: the [`Fetcher`]: links by peer, batches, the receive budget
//! - [`budget`]: how many bytes may be on their way at once
//! - [`pack`]: fewer bytes over slow links
//! - [`buffers`]: memory of large results that are gone, for those that come
//! - [`ports`]: data ports in memory, for simulations
//!
//! The serving half is the worker's. After the handshake the bytes travel in the clear: what is
//! fetched is checked against the digest that the store holds, so it cannot be forged, but it can
//! be read by whoever can read the network.

pub mod auth;
pub mod budget;
pub mod buffers;
mod digest;
pub mod fetch;
pub mod frame;
mod link;
pub mod pack;
pub mod ports;
pub mod socket;
pub mod wire;

pub use auth::{ClusterSecret, EmptySecret, HandoffKey};
pub use budget::Budget;
pub use digest::{Digest, Digester};
pub use fetch::{FetchError, Fetcher, Peer, Pushed, Want, is_shortage};
pub use frame::Frame;
pub use ports::{Port, Ports};
