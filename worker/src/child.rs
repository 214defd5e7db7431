//! Child processes: this program once more, to run bodies that may bring their process down. One
//! task at a time runs in a child, so whatever ends it was that task.
//!
//! The parent starts the program with its own arguments and a variable that names a socket, which is
//! the child's standard input. The program finds its way to [`serve`] as it finds it to being a
//! worker, says there that it is ready, and then answers one job after the other. A child whose
//! parent is gone reads the end of the socket and ends itself, with all that it has started.
//!
//! - [`entry`](serve): the child's side
//! - `frames`: what is said
//! - `process`: one child, as its parent sees it
//! - `pool`: the children of a worker

mod entry;
mod frames;
mod pool;
mod process;

pub use entry::{asked, is_possible, serve, set_possible};
pub(crate) use pool::Children;
