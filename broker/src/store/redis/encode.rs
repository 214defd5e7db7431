//! Arguments of the functions: packed strings, numbers big-endian.

use std::collections::BTreeMap;

use crate::id::TaskId;
use crate::locator::Locator;
use crate::run::{
    Activate, Commit, End, Finished, LeaseRequest, Lost, Mend, Open, OutboxId, Relocation, Retry,
    Revive, Setback, Stage, Tally,
};
use crate::state::{FORWARDED, StateByte, TaskState};
use crate::store::Epoch;

/// Places of a group between two tasks that are named; reading them costs less than a new group.
const GAP_MAX: u16 = 32;
/// Places of one group: the functions unpack a group at once.
const SPAN_MAX: u16 = 1_024;
/// Results in one bucket.
const BUCKET: u16 = 64;

/// The six bytes of a task.
pub(super) fn task(task: TaskId) -> [u8; 6] {
    let [_, _, six @ ..] = task.to_bits().to_be_bytes();
    six
}

/// Tasks of six bytes each.
pub(super) fn tasks(tasks: &[TaskId]) -> Vec<u8> {
    tasks.iter().flat_map(|id| task(*id)).collect()
}

/// The name of an outbox entry.
pub(super) fn outbox_field(id: OutboxId) -> String {
    format!("{}:{}", id.owner, id.sequence)
}

/// Groups of neighbouring tasks with a count for each place. A count above 255 is split.
pub(super) fn groups(counts: &[(TaskId, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = Vec::new();
    let mut start = 0;
    for place in 1..=counts.len() {
        let joined = counts.get(place).is_some_and(|(next, _)| {
            let (first, last) = (counts[start].0, counts[place - 1].0);
            next.segment() == first.segment()
                && next.index() - last.index() <= GAP_MAX
                && next.index() - first.index() < SPAN_MAX
        });
        if !joined {
            put_group(&mut out, &counts[start..place], &mut rest);
            start = place;
        }
    }
    if !rest.is_empty() {
        out.extend(groups(&rest));
    }
    out
}

fn put_group(out: &mut Vec<u8>, group: &[(TaskId, u32)], rest: &mut Vec<(TaskId, u32)>) {
    let [(first, _), ..] = group else { return };
    let last = group.last().map_or(*first, |(last, _)| *last);
    let span = last.index() - first.index() + 1;
    out.extend(first.segment().to_be_bytes());
    out.extend(first.index().to_be_bytes());
    out.extend(span.to_be_bytes());
    let start = out.len();
    out.resize(start + usize::from(span), 0);
    for (task, count) in group {
        let small = u8::try_from(*count).unwrap_or(u8::MAX);
        out[start + usize::from(task.index() - first.index())] = small;
        if *count > u32::from(small) {
            rest.push((*task, count - u32::from(small)));
        }
    }
}

/// `open`: what is fixed, the name, the header map.
pub(super) fn open(open: &Open) -> [Vec<u8>; 3] {
    let mut fixed = vec![open.policy as u8];
    fixed.extend(open.client_lease_ms.to_be_bytes());
    fixed.extend(open.retention_ms.to_be_bytes());
    fixed.extend(open.digest);
    let name = open.name.clone().unwrap_or_default().into_bytes();
    let header = rmp_serde::to_vec_named(&open.header).unwrap_or_default();
    [fixed, name, header]
}

/// `stage`: what is fixed and the two columns; the chunks follow as they are.
pub(super) fn stage(stage: &Stage) -> [Vec<u8>; 3] {
    let mut fixed = stage.segment.to_be_bytes().to_vec();
    fixed.extend(u32::try_from(stage.pending.len()).unwrap_or(u32::MAX).to_be_bytes());
    fixed.extend(stage.digest);
    let column = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect();
    [fixed, column(&stage.pending), column(&stage.consumers)]
}

/// `activate`: what is fixed, the edges.
pub(super) fn activate(activate: &Activate) -> [Vec<u8>; 2] {
    let mut fixed = activate.segment.to_be_bytes().to_vec();
    fixed.extend(activate.cursor.to_be_bytes());
    fixed.push(u8::from(activate.last));
    fixed.extend(activate.digest);
    let mut edges = Vec::with_capacity(8 * activate.edges.len());
    for (input, index) in &activate.edges {
        edges.extend(task(*input));
        edges.extend(index.to_be_bytes());
    }
    [fixed, edges]
}

/// `commit`: all arguments.
pub(super) fn commit(commit: &Commit, life: Option<&Epoch>) -> Vec<Vec<u8>> {
    let failed = commit.finished.iter().filter(|one| matches!(one.end, End::Failed { .. })).count();
    let mut fixed = commit.segment.to_be_bytes().to_vec();
    fixed.extend(small(commit.finished.len()));
    fixed.extend(small(failed));
    let (spawned, digest) = commit.spawn.unwrap_or_default();
    fixed.extend(spawned.to_be_bytes());
    fixed.extend(digest);
    fixed.extend(life.map(|life| life.0.as_bytes()).unwrap_or_default());
    let settled = commit
        .settled
        .iter()
        .map(|sequence| outbox_field(OutboxId { owner: commit.outbox.owner, sequence: *sequence }));
    let mut arguments = vec![fixed, outbox_field(commit.outbox).into_bytes()];
    arguments.extend(finished(commit));
    arguments.push(groups(&commit.releases));
    arguments.push(groups(&commit.consumed));
    arguments.push(special_ends(commit));
    arguments.push(segments(commit));
    arguments.push(settled.collect::<Vec<_>>().join(" ").into_bytes());
    arguments.extend(records(commit));
    arguments
}

fn small(count: usize) -> [u8; 2] {
    u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes()
}

/// Runs, expected state bytes, state bytes to write, locators.
fn finished(commit: &Commit) -> [Vec<u8>; 4] {
    let (mut runs, mut expected, mut states, mut locators) = (vec![], vec![], vec![], vec![]);
    let all = commit.finished.as_slice();
    let mut start = 0;
    for place in 1..=all.len() {
        let follows = all
            .get(place)
            .is_some_and(|next| all[place - 1].index.checked_add(1) == Some(next.index));
        if !follows {
            runs.extend(all[start].index.to_be_bytes());
            runs.extend(small(place - start));
            start = place;
        }
    }
    for one in all {
        let (state, locator) = match &one.end {
            End::Done { locator, .. } => (TaskState::Done, *locator),
            End::Failed { .. } => {
                (TaskState::Failed, Locator::Cause(TaskId::new(commit.segment, one.index)))
            }
            End::Skipped { cause } => (TaskState::Skipped, Locator::Cause(*cause)),
            End::Forwarded { .. } => (TaskState::Pending, Locator::Empty),
        };
        let forwarded = if matches!(one.end, End::Forwarded { .. }) { FORWARDED } else { 0 };
        expected.push(StateByte::new(TaskState::Pending, one.generation).0);
        states.push(StateByte::new(state, one.generation).0 | forwarded);
        locators.extend(locator.to_bytes());
    }
    [runs, expected, states, locators]
}

fn special_ends(commit: &Commit) -> Vec<u8> {
    let mut out = Vec::new();
    for (place, one) in commit.finished.iter().enumerate() {
        let (kind, target) = match &one.end {
            End::Failed { .. } => (1, [0; 6]),
            End::Done { keep: true, .. } => (2, [0; 6]),
            End::Forwarded { to } => (3, task(*to)),
            End::Done { keep: false, .. } | End::Skipped { .. } => continue,
        };
        out.extend(small(place));
        out.push(kind);
        put_nonce(&mut out, one.lease);
        out.extend(target);
    }
    out
}

fn put_nonce(out: &mut Vec<u8>, nonce: Option<u64>) {
    out.push(u8::from(nonce.is_some()));
    out.extend(nonce.unwrap_or(0).to_be_bytes());
}

/// Segments named by releases and inputs, so that the function looks at them before it writes.
fn segments(commit: &Commit) -> Vec<u8> {
    let named = commit.releases.iter().chain(&commit.consumed);
    let mut numbers: Vec<u32> = named.map(|(task, _)| task.segment()).collect();
    numbers.dedup();
    numbers.sort_unstable();
    numbers.dedup();
    numbers.retain(|number| *number != commit.segment);
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn records(commit: &Commit) -> Vec<Vec<u8>> {
    let mut buckets: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for one in &commit.finished {
        if let Some(record) = record(one) {
            let fields = buckets.entry(one.index / BUCKET).or_default();
            fields.push(one.index.to_string().into_bytes());
            fields.push(record);
        }
    }
    let mut out = Vec::new();
    for (number, fields) in buckets {
        out.push(number.to_string().into_bytes());
        out.push((fields.len() / 2).to_string().into_bytes());
        out.extend(fields);
    }
    out
}

fn record(one: &Finished) -> Option<Vec<u8>> {
    let record = match &one.end {
        End::Done { record, .. } => record,
        End::Failed { error } => error,
        End::Skipped { .. } | End::Forwarded { .. } => return None,
    };
    (!record.is_empty()).then(|| record.to_vec())
}

/// `retry`: its only argument.
pub(super) fn retry(retry: &Retry) -> Vec<u8> {
    let mut out = task(retry.task).to_vec();
    out.push(retry.generation);
    out.push(match retry.setback {
        Setback::Failed => 0,
        Setback::Stuck => 1,
        Setback::Crashed => 2,
    });
    out.extend(retry.attempt.to_be_bytes());
    put_nonce(&mut out, retry.lease);
    out.extend(retry.delay_ms.to_be_bytes());
    out
}

/// `rearm`: the argument of one lost result.
pub(super) fn lost(lost: &Lost) -> Vec<u8> {
    let mut out = task(lost.task).to_vec();
    out.extend(lost.locator.to_bytes());
    out.extend(count(&lost.inputs));
    out.extend(count(&lost.successors));
    out.extend(tasks(&lost.inputs));
    out.extend(tasks(&lost.successors));
    out
}

/// `revive`: one task.
pub(super) fn revive(revive: &Revive) -> Vec<u8> {
    let mut out = task(revive.task).to_vec();
    out.push(revive.generation);
    out.extend(count(&revive.inputs));
    out.extend(count(&revive.successors));
    out.extend(tasks(&revive.inputs));
    out.extend(tasks(&revive.successors));
    out
}

/// `relocate`: one result.
pub(super) fn relocation(relocation: &Relocation) -> Vec<u8> {
    let mut out = task(relocation.task).to_vec();
    out.push(relocation.generation);
    out.extend(relocation.from.to_bytes());
    out.extend(relocation.to.to_bytes());
    out.extend(&relocation.record);
    out
}

/// `unlease`: tasks with the nonces of their leases.
pub(super) fn nonces(leases: &[(TaskId, u64)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(14 * leases.len());
    for (id, nonce) in leases {
        out.extend(task(*id));
        out.extend(nonce.to_be_bytes());
    }
    out
}

/// `mend`: tasks.
pub(super) fn mends(tasks: &[Mend]) -> Vec<u8> {
    let mut out = Vec::with_capacity(23 * tasks.len());
    for Mend { task: id, found, right } in tasks {
        out.extend(task(*id));
        out.push(found.state.0);
        for number in [found.pending, found.consumers, right.pending, right.consumers] {
            out.extend(number.to_be_bytes());
        }
    }
    out
}

/// `recount`: what was found and what is right.
pub(super) fn tallies(found: Tally, right: Tally) -> Vec<u8> {
    let of = |tally: Tally| [tally.tasks, tally.finished, tally.failed];
    [of(found), of(right)].concat().into_iter().flat_map(u64::to_be_bytes).collect()
}

fn count(list: &[TaskId]) -> [u8; 4] {
    u32::try_from(list.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// `lease`: the requests.
pub(super) fn leases(requests: &[LeaseRequest]) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 * requests.len());
    for request in requests {
        out.extend(task(request.task));
        out.push(request.generation);
        out.push(u8::from(request.over.is_some()));
        out.extend(request.nonce.to_be_bytes());
        out.extend(request.over.unwrap_or(0).to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_group_and_large_counts_are_split() {
        let id = |index| TaskId::new(2, index);
        let packed = groups(&[(id(5), 1), (id(7), 300), (id(100), 2)]);
        let expected: &[&[u8]] = &[
            &[0, 0, 0, 2, 0, 5, 0, 3, 1, 0, 255],
            &[0, 0, 0, 2, 0, 100, 0, 1, 2],
            &[0, 0, 0, 2, 0, 7, 0, 1, 45],
        ];
        assert_eq!(packed, expected.concat());
        assert!(groups(&[]).is_empty());
    }
}
