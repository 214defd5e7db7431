//! Segments against a naive recount of what was pushed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail")]

use std::collections::{BTreeSet, HashMap};

use bolthole_broker::args::Arg;
use bolthole_broker::descriptor::{Chunk, Descriptor};
use bolthole_broker::graph::{PushError, Segment, SegmentBuilder};
use bolthole_broker::id::TaskId;
use bolthole_broker::limits;
use bolthole_broker::state::PINNED;
use bolthole_broker::task::{RELAY, TaskClass};
use bytes::Bytes;

fn class(task: &str) -> TaskClass {
    TaskClass { task: task.to_owned(), ..TaskClass::relay("default") }
}

/// Pushes, and takes a segment whenever the builder asks for it.
struct Stream {
    builder: SegmentBuilder,
    segments: Vec<Segment>,
}

impl Stream {
    fn new() -> Self {
        Self { builder: SegmentBuilder::new(0), segments: Vec::new() }
    }

    fn push(&mut self, task: &str, inputs: &[TaskId], args: &[Arg], pinned: bool) -> TaskId {
        let class = class(task);
        match self.builder.push(&class, inputs, args, pinned) {
            Err(PushError::Full) => {
                self.segments.extend(self.builder.take_segment());
                self.builder.push(&class, inputs, args, pinned).unwrap()
            }
            pushed => pushed.unwrap(),
        }
    }

    fn finish(mut self) -> Vec<Segment> {
        self.segments.extend(self.builder.take_segment());
        self.segments
    }
}

fn descriptors(segment: &Segment) -> Vec<(TaskClass, Descriptor)> {
    let chunks = segment.chunks.iter().map(|bytes| Chunk::decode(bytes, segment.number).unwrap());
    let tasks = chunks.flat_map(|chunk| {
        let tasks = chunk.tasks.clone();
        tasks.into_iter().map(move |task| (chunk.class(&task).unwrap().clone(), task))
    });
    tasks.collect()
}

/// Everything a segment says of its tasks, counted again from their inputs alone.
fn assert_consistent(segments: &[Segment]) {
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
            assert_eq!(task.successors, expected.into_iter().collect::<Vec<_>>());
        }
    }
}

#[test]
fn a_wide_task_serves_its_consumers_through_relays_of_its_segment() {
    let mut stream = Stream::new();
    let source = stream.push("source", &[], &[], true);
    for _ in 0..100_000 {
        stream.push("use", &[source], &[Arg::Input(0)], false);
    }
    let segments = stream.finish();
    assert_eq!(segments.len(), 2);
    assert_consistent(&segments);
    assert_eq!(segments[0].consumers[0] & PINNED, PINNED);
    assert_eq!(segments[1].cross.len(), 2, "the first consumer, and the relay of all others");
    let used = segments.iter().flat_map(descriptors).filter(|(class, _)| class.task == "use");
    assert_eq!(used.count(), 100_000);
    let relays = segments.iter().flat_map(descriptors).filter(|(class, _)| class.task == RELAY);
    assert!(relays.count() < 100_000 / 500);
}

#[test]
fn a_segment_is_cut_by_its_bytes() {
    let mut stream = Stream::new();
    let argument = Arg::Value(Bytes::from(vec![1; 60_000]));
    let mut last = None;
    for _ in 0..300 {
        let inputs: Vec<_> = last.into_iter().collect();
        last = Some(stream.push("heavy", &inputs, std::slice::from_ref(&argument), false));
    }
    let segments = stream.finish();
    assert_consistent(&segments);
    assert_eq!(segments.len(), 3);
    assert!(segments[0].encoded_bytes() > limits::SEGMENT_BYTES_MAX - 2 * 60_000);
    assert_eq!(
        segments[1].cross,
        [(TaskId::new(0, u16::try_from(segments[0].tasks - 1).unwrap()), 0)]
    );
}

#[test]
fn classes_of_many_options_count_as_bytes() {
    let mut builder = SegmentBuilder::new(0);
    let mut segments = Vec::new();
    for number in 0..60_000 {
        let class = class(&format!("{number:0>100}"));
        if builder.push(&class, &[], &[], false) == Err(PushError::Full) {
            segments.extend(builder.take_segment());
            builder.push(&class, &[], &[], false).unwrap();
        }
    }
    segments.extend(builder.take_segment());
    assert!(segments.len() > 1);
    assert_consistent(&segments);
}

#[test]
fn a_fan_in_of_two_segments_keeps_its_arguments() {
    let mut stream = Stream::new();
    let inputs: Vec<_> = (0..70_000).map(|_| stream.push("leaf", &[], &[], false)).collect();
    let backwards: Vec<_> = inputs.iter().rev().copied().collect();
    let numbers = (0..70_000).map(Arg::Input).collect();
    stream.push("sum", &backwards, &[Arg::List(numbers)], true);
    let segments = stream.finish();
    assert_consistent(&segments);
    let (_, sum) = descriptors(&segments[1]).pop().unwrap();
    let Arg::List(numbers) = &sum.args[0] else { panic!("{:?}", sum.args) };
    let named = numbers.iter().map(|number| match number {
        Arg::Input(number) => sum.inputs[*number as usize],
        other => panic!("{other:?}"),
    });
    assert!(named.eq(backwards));
}

#[test]
fn what_cannot_be_pushed_is_refused_and_changes_nothing() {
    let mut builder = SegmentBuilder::new(3);
    let id = |segment, index| TaskId::new(segment, index);
    let push = |builder: &mut SegmentBuilder, inputs: &[TaskId]| {
        builder.push(&class("task"), inputs, &[], false)
    };
    assert_eq!(push(&mut builder, &[id(3, 0)]), Err(PushError::Input(id(3, 0))));
    assert_eq!(push(&mut builder, &[id(4, 0)]), Err(PushError::Input(id(4, 0))));
    assert_eq!(push(&mut builder, &[id(2, 65_535)]), Ok(id(3, 0)));
    let huge = vec![Arg::Value(Bytes::from(vec![0; limits::SEGMENT_BYTES_MAX]))];
    let refused = builder.push(&class("task"), &[], &huge, false);
    assert!(matches!(refused, Err(PushError::TooLarge { .. })), "{refused:?}");
    assert!(matches!(
        builder.push(&class("task"), &[], &[Arg::Input(0)], false),
        Err(PushError::Call(_))
    ));
    assert!(matches!(builder.push(&class(""), &[], &[], false), Err(PushError::Call(_))));
    assert_eq!(builder.len(), 1);
    assert!(builder.unpin(id(3, 0)) && !builder.unpin(id(3, 1)) && !builder.unpin(id(2, 0)));
    assert_eq!(builder.take_segment().map(|segment| segment.number), Some(3));
    assert_eq!((builder.take_segment(), builder.number()), (None, 4));
}

#[test]
fn sources_run_by_priority_and_then_in_order() {
    let mut builder = SegmentBuilder::new(0);
    for priority in [0, 5, -1, 5] {
        let mut class = class("task");
        class.options.priority = priority;
        builder.push(&class, &[], &[], false).unwrap();
    }
    assert_eq!(builder.take_segment().unwrap().sources, [1, 3, 0, 2]);
}
