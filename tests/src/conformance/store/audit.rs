//! The audit: both stores write the same of the same history, and what was refused has left no
//! trace.

use std::mem::{Discriminant, discriminant};

use anyhow::ensure;
use bolthole_broker::audit::{Call, Entry, check};
use bolthole_broker::store::Store;

/// The kind of each call, and whether it wrote. Calls that concern no task are left out.
async fn shape(store: &Store) -> anyhow::Result<Vec<(Discriminant<Call>, bool)>> {
    let entries = store.audit().await?;
    // Tasks of such histories are finished at any time: only what was refused can be judged.
    let violations = check(&entries).err().unwrap_or_default();
    let trace = violations.iter().find(|violation| violation.what.contains("trace"));
    ensure!(trace.is_none(), "{trace:?}");
    let told = entries.iter().filter(|entry| !is_idle(entry));
    Ok(told.map(|entry| (discriminant(&entry.call), entry.wrote)).collect())
}

/// Whether nothing was asked: a store in a server is not even called then.
fn is_idle(entry: &Entry) -> bool {
    match &entry.call {
        Call::Rearm(tasks, _) => tasks.is_empty(),
        Call::Revive(tasks, _) => tasks.is_empty(),
        Call::Relocate(tasks, _) => tasks.is_empty(),
        Call::Lease { requests, .. } => requests.is_empty(),
        Call::Unlease(leases) => leases.is_empty(),
        Call::Unpin(tasks, _) => tasks.is_empty(),
        Call::Settle(_) | Call::Refused(_) => !entry.wrote,
        Call::Other(_) => true,
        _ => false,
    }
}

/// Fails unless both have written down the same.
pub async fn agree(first: &Store, second: &Store) -> anyhow::Result<()> {
    let (expected, found) = (shape(first).await?, shape(second).await?);
    for (place, (expected, found)) in expected.iter().zip(&found).enumerate() {
        ensure!(expected == found, "entry {place}: {expected:?} and {found:?}");
    }
    ensure!(expected.len() == found.len(), "{} and {} entries", expected.len(), found.len());
    ensure!(!found.is_empty(), "nothing was written down");
    Ok(())
}
