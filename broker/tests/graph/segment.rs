//! Segments against a naive recount of what was pushed.

use bolthole_broker::args::Arg;
use bolthole_broker::graph::{PushError, Segment, SegmentBuilder};
use bolthole_broker::id::TaskId;
use bolthole_broker::limits;
use bolthole_broker::state::PINNED;
use bolthole_broker::task::RELAY;
use bytes::Bytes;
use proptest::prelude::*;

use crate::support::{assert_consistent, class, descriptors};

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
    for number in 0..40_000 {
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Tasks with up to four inputs from anywhere before, cut at any place.
    #[test]
    fn any_stream_is_cut_consistently(
        calls in prop::collection::vec((prop::collection::vec(any::<u32>(), 0..4), 0_u8..40), 1..800),
    ) {
        let mut builder = SegmentBuilder::new(0);
        let (mut segments, mut ids) = (Vec::new(), Vec::<TaskId>::new());
        let mut named = Vec::new();
        for (picks, dice) in calls {
            // Small numbers come often: some tasks get many consumers.
            let spread = if dice % 2 == 0 { 3 } else { usize::MAX };
            let pick = |pick: &u32| ids.get(*pick as usize % ids.len().min(spread)).copied();
            let inputs: Vec<_> = match ids.len() {
                0 => vec![],
                _ => picks.iter().filter_map(pick).collect(),
            };
            let args: Vec<_> = (0..inputs.len()).map(|n| Arg::Input(u32::try_from(n).unwrap())).collect();
            ids.push(builder.push(&class("task"), &inputs, &args, dice == 7).unwrap());
            named.push(inputs);
            if dice == 0 {
                segments.extend(builder.take_segment());
            }
        }
        segments.extend(builder.take_segment());
        assert_consistent(&segments);
        let all: Vec<_> = segments.iter().flat_map(descriptors).collect();
        let find = |id: TaskId| &all[all.binary_search_by_key(&id, |(_, task)| task.id).unwrap()];
        for (id, inputs) in ids.iter().zip(named) {
            let task = &find(*id).1;
            for (arg, meant) in task.args.iter().zip(inputs) {
                let Arg::Input(number) = arg else { panic!("{arg:?}") };
                let mut found = task.inputs[*number as usize];
                while find(found).0.task == RELAY {
                    found = find(found).1.inputs[0];
                }
                prop_assert_eq!(found, meant);
            }
        }
        for segment in &segments {
            let mut sources: Vec<_> = segment.cross.iter().map(|(source, _)| source).collect();
            sources.sort_unstable();
            prop_assert!(sources.windows(3).all(|uses| uses[0] != uses[2]), "two edges at the most");
        }
    }
}
