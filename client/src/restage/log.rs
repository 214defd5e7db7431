//! What was staged of one run, as much as is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bolthole_broker::args::BlobDigest;
use bolthole_broker::graph::Segment;
use bolthole_broker::id::TaskId;
use bolthole_broker::limits::RESTAGE_BYTES_MAX;
use bytes::Bytes;
use tokio::time::Instant;

use crate::watch::Bits;

/// A segment, and the large arguments that it was the first to need.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(super) segment: Arc<Segment>,
    pub(super) blobs: Arc<Vec<(BlobDigest, Bytes)>>,
}

impl Kept {
    fn bytes(&self) -> usize {
        let Segment { pending, chunks, cross, sources, .. } = &*self.segment;
        let chunks: usize = chunks.iter().map(Bytes::len).sum();
        let blobs: usize = self.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        let columns =
            8 * pending.len() + 2 * sources.len() + size_of::<(TaskId, u16)>() * cross.len();
        chunks + blobs + columns
    }
}

/// What was staged, the newest of it first to be kept: an older segment is on the store's disk.
pub(super) struct Log {
    kept: VecDeque<Kept>,
    bytes: usize,
    /// The number of the segment after the last.
    next: u32,
    /// Tasks that no handle names any more.
    unpinned: BTreeMap<u32, Bits>,
    pub(super) closed: bool,
    pub(super) cancelled: Option<String>,
    pub(super) deleted: bool,
    pub(super) touched: Instant,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            next: 0,
            unpinned: BTreeMap::new(),
            closed: false,
            cancelled: None,
            deleted: false,
            touched: Instant::now(),
        }
    }

    pub(super) fn keep(&mut self, kept: Kept) {
        self.touched = Instant::now();
        self.bytes += kept.bytes();
        self.next = kept.segment.number + 1;
        self.kept.push_back(kept);
        while self.bytes > RESTAGE_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { break };
            self.bytes -= oldest.bytes();
        }
    }

    /// How many segments were staged.
    pub(super) fn staged(&self) -> u32 {
        self.next
    }

    pub(super) fn unpin(&mut self, tasks: &[TaskId]) {
        self.touched = Instant::now();
        for task in tasks {
            self.unpinned.entry(task.segment()).or_default().set(task.index());
        }
    }

    /// What is to be staged again where these segments are active; `None` when one of the others is
    /// not kept.
    pub(super) fn missing(&self, active: &[u32]) -> Option<Vec<Kept>> {
        let first = self.kept.front().map_or(self.next, |kept| kept.segment.number);
        if !(0..first).all(|number| active.contains(&number)) {
            return None;
        }
        let missing = self.kept.iter().filter(|kept| !active.contains(&kept.segment.number));
        Some(missing.cloned().collect())
    }

    /// The tasks that no handle names any more.
    pub(super) fn unpinned(&self) -> Vec<TaskId> {
        let of = |(segment, bits): (&u32, &Bits)| {
            let segment = *segment;
            bits.iter().map(move |index| TaskId::new(segment, index)).collect::<Vec<_>>()
        };
        self.unpinned.iter().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use bolthole_broker::state::PINNED;

    use super::*;

    fn kept(number: u32, bytes: usize) -> Kept {
        let segment = Segment {
            number,
            tasks: 1,
            pending: vec![0],
            consumers: vec![PINNED],
            chunks: vec![Bytes::from(vec![0; bytes])],
            cross: Vec::new(),
            sources: vec![0],
            digest: [0; 16],
        };
        Kept { segment: Arc::new(segment), blobs: Arc::default() }
    }

    fn numbers(kept: &[Kept]) -> Vec<u32> {
        kept.iter().map(|kept| kept.segment.number).collect()
    }

    #[test]
    fn what_the_store_lacks_is_told_and_what_is_too_much_is_not_kept() {
        let mut log = Log::new();
        assert!(log.missing(&[]).is_some_and(|missing| missing.is_empty()), "nothing was staged");
        (0..3).for_each(|number| log.keep(kept(number, RESTAGE_BYTES_MAX / 4)));
        assert_eq!(numbers(&log.missing(&[]).unwrap()), [0, 1, 2]);
        assert_eq!(numbers(&log.missing(&[0, 2]).unwrap()), [1]);
        log.keep(kept(3, RESTAGE_BYTES_MAX / 2));
        assert!(log.missing(&[]).is_none(), "the first two are not kept");
        assert_eq!(numbers(&log.missing(&[0, 1]).unwrap()), [2, 3]);
        log.keep(kept(4, RESTAGE_BYTES_MAX + 1));
        assert!(log.missing(&[0, 1, 2, 3]).is_none());
        assert!(log.missing(&[0, 1, 2, 3, 4]).is_some());
    }

    #[test]
    fn tasks_without_handles_are_remembered() {
        let mut log = Log::new();
        let tasks = [TaskId::new(0, 3), TaskId::new(0, 200), TaskId::new(7, 0)];
        log.unpin(&tasks);
        log.unpin(&tasks[..1]);
        assert_eq!(log.unpinned(), tasks);
    }
}
