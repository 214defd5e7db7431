//! The message queue.
