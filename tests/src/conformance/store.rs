//! What every store does, whatever it is made of.
//!
//! - [`world`]: random histories in two stores at once.

pub mod world;
