//! What is said to a server and what it answers, without one: for fuzzing and benchmarks.

use super::decode::{self, Reply};
use super::{Error, Redis, encode};
use crate::id::WorkerIndex;
use crate::run::Commit;
use crate::wire::Reader;

/// Reads bytes as one of the answers, or as one of the stored values; `which` says as what.
pub fn reply(which: u8, bytes: &[u8]) {
    let reader = Reader::new(bytes);
    match which % 18 {
        0 => {
            let _ = Reply::new(bytes).map(Reply::refused);
        }
        1 => drop(decode::ranges(reader)),
        2 => drop(decode::ready(bytes)),
        3 => drop(decode::freed(reader)),
        4 => drop(decode::activated(reader)),
        5 => drop(Reply::new(bytes).and_then(decode::committed)),
        6 => drop(decode::rearmed(reader)),
        7 => drop(decode::revived(reader)),
        8 => drop(decode::relocated(reader)),
        9 => drop(decode::leased(reader)),
        10 => drop(decode::statuses(reader)),
        11 => drop(decode::status(reader)),
        12 => drop(decode::events(bytes, &mut Vec::new())),
        13 => {
            let _ = decode::outbox_id(bytes);
        }
        14 | 15 => {
            if let Ok(Some((states, pending))) = decode::columns(bytes) {
                let _ = decode::candidates(7, states, pending);
            }
        }
        _ => drop(decode::held_by(bytes, 7, WorkerIndex::new(0x0012_3456))),
    }
}

/// The arguments with which a commit goes to a server.
pub fn commit(commit: &Commit) -> Vec<Vec<u8>> {
    encode::commit(commit, None)
}

/// What is said of the store at a URL before anything is connected.
///
/// # Errors
/// When the URL is none.
pub fn url(url: &str) -> Result<String, Error> {
    let store = Redis::at(url, "fuzz")?;
    Ok(format!("{} {store:?}", store.address()))
}
