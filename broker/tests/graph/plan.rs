//! Plans against the captured graph: both are evaluated, a hash standing for each result.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bolthole_broker::args::Arg;
use bolthole_broker::graph::{CallError, Captured, Node, Plan, PlanError, Segment, plan};
use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::state::PINNED;
use bolthole_broker::task::{RELAY, TaskClass, TaskKind};
use bytes::Bytes;
use proptest::prelude::*;

use crate::support::{assert_consistent, class, descriptors};

type Value = [u8; 32];

/// The result of a call: a hash of its class, arguments and inputs. Calls that may not be merged
/// also have an identity.
fn value(class: &TaskClass, identity: u32, args: &[Arg], inputs: &[Value]) -> Value {
    let mut hash = blake3::Hasher::new();
    hash.update(class.task.as_bytes());
    if class.kind != TaskKind::Pure {
        hash.update(&identity.to_be_bytes());
    }
    let distinct: BTreeSet<_> = inputs.iter().collect();
    for input in distinct {
        hash.update(input);
    }
    for arg in args {
        hash_arg(&mut hash, arg, inputs);
    }
    *hash.finalize().as_bytes()
}

fn hash_arg(hash: &mut blake3::Hasher, arg: &Arg, inputs: &[Value]) {
    match arg {
        Arg::Input(number) => _ = hash.update(b"i").update(&inputs[*number as usize]),
        Arg::Value(bytes) => _ = hash.update(b"v").update(bytes),
        Arg::Blob { digest, .. } => _ = hash.update(b"b").update(digest),
        Arg::List(items) => {
            hash.update(b"[");
            for item in items {
                hash_arg(hash, item, inputs);
            }
            hash.update(b"]");
        }
    }
}

fn earlier_value(task: TaskId) -> Value {
    *blake3::hash(&task.to_bits().to_be_bytes()).as_bytes()
}

/// The results of calls in an order in which all stand behind their inputs.
fn evaluate(classes: &[TaskClass], nodes: &[Node], identity: impl Fn(usize) -> u32) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for (place, node) in nodes.iter().enumerate() {
        let near = node.inputs.iter().map(|&input| values[input as usize]);
        let inputs: Vec<_> = near.chain(node.earlier.iter().copied().map(earlier_value)).collect();
        values.push(value(&classes[node.class as usize], identity(place), &node.args, &inputs));
    }
    values
}

/// What the outputs need, by asking each call in turn for its inputs.
fn reachable(captured: &Captured) -> BTreeSet<u32> {
    let mut open = captured.outputs.clone();
    let mut found = BTreeSet::new();
    while let Some(place) = open.pop() {
        if found.insert(place) {
            open.extend(&captured.nodes[place as usize].inputs);
        }
    }
    found
}

fn assert_same_graph(captured: &Captured, plan: &Plan) {
    for (place, node) in plan.nodes.iter().enumerate() {
        assert!(node.inputs.is_sorted_by(|a, b| a < b) && node.earlier.is_sorted_by(|a, b| a < b));
        assert!(node.inputs.iter().all(|&input| (input as usize) < place), "topological");
    }
    let before =
        evaluate(&captured.classes, &captured.nodes, |place| u32::try_from(place).unwrap());
    let after = evaluate(&plan.classes, &plan.nodes, |place| plan.captured[place]);
    let needed: BTreeSet<_> =
        reachable(captured).into_iter().map(|place| before[place as usize]).collect();
    assert_eq!(after.iter().copied().collect::<BTreeSet<_>>(), needed);
    assert_eq!(after.len(), needed.len(), "every needed call once");
    let outputs = |values: &[Value], outputs: &[u32]| -> Vec<Value> {
        outputs.iter().map(|&output| values[output as usize]).collect()
    };
    assert_eq!(outputs(&before, &captured.outputs), outputs(&after, &plan.outputs));
}

/// The calls, but for outputs, that later segments use, and the last of these segments.
fn used_later(plan: &Plan, ids: &[TaskId]) -> BTreeMap<TaskId, u32> {
    let mut last = BTreeMap::new();
    for (place, node) in plan.nodes.iter().enumerate() {
        for input in &node.inputs {
            let (input, segment) = (ids[*input as usize], ids[place].segment());
            if input.segment() < segment {
                last.insert(input, segment);
            }
        }
    }
    for output in &plan.outputs {
        last.remove(&ids[*output as usize]);
    }
    last
}

/// All segments of a plan, checked: consistent, and every call computes what it does in the plan.
fn cut(plan: &Plan, first: u32) -> (Vec<Segment>, Vec<TaskId>) {
    let mut cut = plan.cut(first);
    let mut segments = Vec::new();
    let mut spent = Vec::new();
    while let Some(segment) = cut.next_segment().unwrap() {
        let number = segment.number;
        segments.push(segment);
        spent.extend(cut.take_spent().into_iter().map(|task| (task, number)));
    }
    let ids = cut.into_ids();
    let later = used_later(plan, &ids);
    assert_eq!(spent.len(), later.len(), "each once");
    assert_eq!(spent.into_iter().collect::<BTreeMap<_, _>>(), later);
    let places: HashMap<TaskId, usize> =
        ids.iter().enumerate().map(|(place, id)| (*id, place)).collect();
    let planned = evaluate(&plan.classes, &plan.nodes, |place| plan.captured[place]);
    let outputs: BTreeSet<_> = plan.outputs.iter().map(|&output| ids[output as usize]).collect();
    let mut values: HashMap<TaskId, Value> = HashMap::new();
    for segment in &segments {
        for ((class, task), consumers) in descriptors(segment).into_iter().zip(&segment.consumers) {
            let input = |id: &TaskId| values.get(id).copied().unwrap_or_else(|| earlier_value(*id));
            let inputs: Vec<_> = task.inputs.iter().map(input).collect();
            let kept = outputs.contains(&task.id) || later.contains_key(&task.id);
            assert_eq!(consumers & PINNED != 0, kept);
            let own = if class.task == RELAY {
                assert_eq!(task.args, [Arg::Input(0)]);
                assert_ne!(*consumers, 0, "a relay has consumers");
                inputs[0]
            } else {
                let place = places[&task.id];
                let own = value(&class, plan.captured[place], &task.args, &inputs);
                assert_eq!(own, planned[place]);
                own
            };
            values.insert(task.id, own);
        }
    }
    assert!(ids.iter().all(|id| values.contains_key(id)));
    (segments, ids)
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap()
}

fn node(class: u32, inputs: Vec<u32>) -> Node {
    let args = vec![Arg::List((0..number(inputs.len())).map(Arg::Input).collect())];
    Node { class, inputs, earlier: vec![], args }
}

fn graph(nodes: Vec<Node>, outputs: Vec<u32>) -> Captured {
    let kind = |task: &str, kind| TaskClass { kind, ..class(task) };
    let classes = vec![kind("plain", TaskKind::Repeatable), kind("pure", TaskKind::Pure)];
    Captured { run: None, classes, nodes, outputs, blobs: HashMap::new() }
}

prop_compose! {
    /// Any graph: few classes, of which two are equal, and few values, so that many calls are equal.
    fn any_graph()(
        calls in prop::collection::vec(
            (
                0_u32..5,
                prop::collection::btree_set(any::<u32>(), 0..4),
                prop::option::weighted(0.1, 0_u16..3),
                0_u8..3,
                any::<bool>(),
            ),
            1..60,
        ),
        near in any::<bool>(),
        outputs in prop::collection::vec(any::<u32>(), 0..5),
    ) -> Captured {
        let mut nodes: Vec<Node> = Vec::new();
        for (class, picks, earlier, argument, backwards) in calls {
            let place = number(nodes.len());
            let reach = if near { place.min(4) } else { place };
            let picks = picks.into_iter().filter(|_| place > 0);
            let inputs: BTreeSet<u32> = picks.map(|pick| place - 1 - pick % reach).collect();
            let mut inputs: Vec<u32> = inputs.into_iter().collect();
            if backwards {
                inputs.reverse();
            }
            let earlier: Vec<_> = earlier.map(|index| TaskId::new(0, index)).into_iter().collect();
            let all = number(inputs.len() + earlier.len());
            let list = Arg::List((0..all).rev().map(Arg::Input).collect());
            let args = vec![Arg::Value(Bytes::from(vec![argument])), list];
            nodes.push(Node { class, inputs, earlier, args });
        }
        let kind = |task: &str, kind| TaskClass { kind, ..class(task) };
        let classes = vec![
            kind("pure", TaskKind::Pure),
            kind("other", TaskKind::Pure),
            kind("pure", TaskKind::Pure),
            kind("plain", TaskKind::Repeatable),
            kind("effect", TaskKind::Effect),
        ];
        let outputs = outputs.iter().map(|output| output % number(nodes.len())).collect();
        Captured { run: Some(RunId::new(1, 2)), classes, nodes, outputs, blobs: HashMap::new() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_computes_what_was_captured(captured in any_graph()) {
        let planned = plan(captured.clone()).unwrap();
        assert_same_graph(&captured, &planned);
        prop_assert_eq!(plan(captured).unwrap().digest, planned.digest);
        let (segments, ids) = cut(&planned, 1);
        prop_assert!(ids.is_sorted());
        prop_assert!(segments.len() <= 1);
    }
}

#[test]
fn a_chain_of_a_million_needs_no_stack() {
    const LENGTH: u32 = 1_000_000;
    let nodes = (0..LENGTH).map(|place| node(0, (0..place).last().into_iter().collect())).collect();
    let planned = plan(graph(nodes, vec![LENGTH - 1])).unwrap();
    assert!(planned.captured.iter().copied().eq(0..LENGTH));
    let (segments, _) = cut(&planned, 0);
    assert_eq!(segments.len(), 16);
    assert!(segments[1..].iter().all(|segment| segment.cross.len() == 1));
}

#[test]
fn a_wide_result_is_relayed_with_one_edge_into_each_segment() {
    let leaves = 100_000;
    let mut nodes = vec![node(0, vec![])];
    nodes.extend((0..leaves).map(|_| node(0, vec![0])));
    nodes.push(node(0, (1..=leaves).collect()));
    let planned = plan(graph(nodes, vec![leaves + 1])).unwrap();
    let (segments, _) = cut(&planned, 0);
    assert_consistent(&segments);
    assert_eq!(segments.len(), 2);
    let source = TaskId::new(0, 0);
    let uses = segments[1].cross.iter().filter(|(from, _)| *from == source);
    assert_eq!(uses.count(), 1);
}

#[test]
fn equal_pure_calls_become_one_and_what_uses_them_too() {
    // 0, 1: equal; 2, 3: equal once 0 and 1 are; 4 uses both, in either order; 5, 6 may act twice.
    let nodes = vec![
        node(1, vec![]),
        node(1, vec![]),
        node(1, vec![0]),
        node(1, vec![1]),
        node(1, vec![3, 2]),
        node(0, vec![2]),
        node(0, vec![3]),
    ];
    let captured = graph(nodes, vec![4, 5, 6, 4]);
    let planned = plan(captured.clone()).unwrap();
    assert_same_graph(&captured, &planned);
    assert_eq!(planned.nodes.len(), 5);
    let both = &planned.nodes[planned.outputs[0] as usize];
    assert_eq!(both.inputs.len(), 1);
    assert_eq!(both.args, [Arg::List(vec![Arg::Input(0), Arg::Input(0)])]);
    assert_eq!(planned.outputs[0], planned.outputs[3]);
}

#[test]
fn one_output_is_finished_before_the_next_and_shared_inputs_are_used_up() {
    // Ten loads; a mean and a deviation of all: what reads a load comes right behind it.
    let mut nodes: Vec<_> = (0..10).map(|_| node(0, vec![])).collect();
    nodes.extend((0..10).map(|load| node(0, vec![load])));
    nodes.extend((0..10).map(|load| node(0, vec![load])));
    nodes.push(node(0, (10..20).collect()));
    nodes.push(node(0, (20..30).collect()));
    let planned = plan(graph(nodes, vec![30, 31])).unwrap();
    let far = planned.nodes.iter().enumerate().filter(|(_, node)| node.inputs.len() == 1);
    for (place, node) in far {
        assert!(place - node.inputs[0] as usize <= 2, "{:?}", planned.captured);
    }

    // Separate cones: the second one starts behind the first output.
    let cone = |from: u32| vec![node(0, vec![]), node(0, vec![]), node(0, vec![from, from + 1])];
    let planned = plan(graph([cone(0), cone(3)].concat(), vec![5, 2])).unwrap();
    assert_eq!(planned.captured, [3, 4, 5, 0, 1, 2]);
}

#[test]
fn bad_graphs_are_refused_with_the_reason() {
    let refused = |nodes, outputs| plan(graph(nodes, outputs)).unwrap_err();
    let place = |place, input| PlanError::Input { place, input };
    assert_eq!(refused(vec![node(0, vec![0])], vec![0]), place(0, 0));
    assert_eq!(refused(vec![node(0, vec![1]), node(0, vec![])], vec![0]), place(0, 1));
    assert!(matches!(refused(vec![node(2, vec![])], vec![]), PlanError::Class { class: 2, .. }));
    assert!(matches!(refused(vec![], vec![0]), PlanError::Output { output: 0, calls: 0 }));
    let missing = Node { args: vec![Arg::Input(0)], ..Node::default() };
    let reason = CallError::InputNumber { number: 0, inputs: 0 };
    let task = "plain".to_owned();
    assert_eq!(refused(vec![missing], vec![0]), PlanError::Call { place: 0, task, reason });
    let earlier = Node { earlier: vec![TaskId::new(0, 0)], ..Node::default() };
    assert_eq!(refused(vec![earlier], vec![0]), PlanError::NoRun);
}

#[test]
fn only_used_blobs_are_kept_and_all_must_be_there() {
    let blob = |byte: u8, length: usize| {
        let bytes = Bytes::from(vec![byte; length]);
        (*blake3::hash(&bytes).as_bytes(), bytes)
    };
    let user = |digest, length| Node {
        args: vec![Arg::List(vec![Arg::Blob { digest, length }])],
        ..Node::default()
    };
    let (needed, spare) = (blob(1, 10), blob(2, 10));
    let mut captured = graph(vec![user(needed.0, 10), user(spare.0, 10)], vec![0]);
    captured.blobs = HashMap::from([needed.clone(), spare.clone()]);
    let planned = plan(captured.clone()).unwrap();
    assert_eq!(planned.blobs, HashMap::from([needed]));
    captured.outputs = vec![1];
    captured.blobs.remove(&spare.0);
    let missing = PlanError::MissingBlob { place: 1, length: 10 };
    assert_eq!(plan(captured).unwrap_err(), missing);

    let large: Vec<_> = (0..5).map(|byte| blob(byte, limits::BLOB_BYTES_MAX)).collect();
    let nodes = large.iter().map(|(digest, bytes)| user(*digest, bytes.len() as u64)).collect();
    let mut captured = graph(nodes, vec![0, 1, 2, 3, 4]);
    captured.blobs = large.into_iter().collect();
    assert!(matches!(plan(captured.clone()), Err(PlanError::Blobs { .. })));
    captured.outputs.pop();
    assert!(plan(captured).is_ok());
}
