//! What every store does, whatever it is made of.
//!
//! - [`lost`], [`runs`], [`tasks`]: one property a function, on `sample` runs.
//! - [`world`]: random histories in two stores at once; [`audit`]: what both write down of them.

pub mod audit;
pub mod lost;
pub mod mend;
pub mod planted;
pub mod reopened;
pub mod revive;
pub mod runs;
pub mod sample;
pub mod staging;
pub mod tasks;
pub mod world;
