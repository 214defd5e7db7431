//! What the tests of graphs share.

use std::collections::{BTreeSet, HashMap};

use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::graph::Segment;
use bolthole_broker::id::TaskId;
use bolthole_broker::limits;
use bolthole_broker::state::PINNED;
use bolthole_broker::task::TaskClass;

/// A class of this name.
pub(crate) fn class(task: &str) -> TaskClass {
    TaskClass { task: task.to_owned(), ..TaskClass::relay("default") }
}

/// All tasks of a segment with their classes.
pub(crate) fn descriptors(segment: &Segment) -> Vec<(TaskClass, Descriptor)> {
    let chunks = segment.chunks.iter().map(|bytes| Chunk::decode(bytes, segment.number).unwrap());
    let tasks = chunks.flat_map(|chunk| {
        let tasks = chunk.tasks.clone();
        tasks.into_iter().map(move |task| (chunk.class(&task).unwrap().clone(), task))
    });
    tasks.collect()
}

/// Everything a segment says of its tasks, counted again from their inputs alone.
pub(crate) fn assert_consistent(segments: &[Segment]) {
    for (number, segment) in segments.iter().enumerate() {
        assert_eq!(segment.number as usize, number);
        assert!(segment.tasks as usize <= limits::SEGMENT_TASKS_MAX);
        assert!(segment.encoded_bytes() <= limits::SEGMENT_BYTES_MAX);
        let tasks = descriptors(segment);
        assert_eq!(tasks.len(), segment.tasks as usize);
        let mut successors: HashMap<TaskId, BTreeSet<TaskId>> = HashMap::new();
        let (mut pending, mut cross, mut sources) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (_, task)) in tasks.iter().enumerate() {
            assert_eq!(task.id, TaskId::new(segment.number, u16::try_from(index).unwrap()));
            assert!(task.inputs.is_sorted_by(|a, b| a < b), "inputs ascend, each once");
            assert!(task.inputs.iter().all(|&input| input < task.id), "edges go upwards");
            let near = task.inputs.iter().filter(|input| input.segment() == segment.number);
            pending.push(u32::try_from(near.clone().count()).unwrap());
            near.for_each(|&input| _ = successors.entry(input).or_default().insert(task.id));
            let far = task.inputs.iter().filter(|input| input.segment() < segment.number);
            cross.extend(far.map(|&input| (input, task.id.index())));
            sources.extend(task.inputs.is_empty().then_some(task.id.index()));
        }
        assert_eq!(segment.pending, pending);
        assert_eq!(segment.cross, cross);
        assert_eq!(segment.sources, sources, "all of one priority");
        for ((_, task), &consumers) in tasks.iter().zip(&segment.consumers) {
            let expected = successors.remove(&task.id).unwrap_or_default();
            assert!(expected.len() <= limits::FAN_OUT_MAX);
            assert_eq!((consumers & !PINNED) as usize, expected.len());
            let longest = expected.iter().map(|next| 1 + tasks[usize::from(next.index())].1.rank);
            assert_eq!(task.rank, longest.max().unwrap_or(0), "the way to an end");
            assert_eq!(task.successors, expected.into_iter().collect::<Vec<_>>());
        }
    }
}
