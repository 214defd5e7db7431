//! The verbs. Each is a structure of its flags with a function that writes to the given output.

pub(crate) mod cancel;
pub(crate) mod doctor;
pub(crate) mod du;
pub(crate) mod fsck;
pub(crate) mod gc;
pub(crate) mod ps;
mod report;
pub(crate) mod show;
pub(crate) mod version;
pub(crate) mod workers;
