//! A captured graph becomes a plan: checked, without what nobody needs and what is there twice, its
//! calls in the order of their numbers.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::check::{CallError, check_args, check_class};
use super::{Captured, Node, cull, dedupe, order};
use crate::args::{Arg, BlobDigest};
use crate::descriptor::encode_class;
use crate::id::RunId;
use crate::limits;
use crate::task::{TaskClass, TaskOptions};

/// A graph that is ready to be cut into segments.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The run that `earlier` inputs belong to.
    pub run: Option<RunId>,
    /// What the calls' `class` fields index.
    pub classes: Vec<TaskClass>,
    /// The calls; inputs are places in this list, ascending and lower than their consumer's.
    pub nodes: Vec<Node>,
    /// For each call its place in the captured graph.
    pub captured: Vec<u32>,
    /// For each output that was asked for, in that order, its place in `nodes`.
    pub outputs: Vec<u32>,
    /// The large arguments that are used.
    pub blobs: HashMap<BlobDigest, Bytes>,
    /// BLAKE3 of calls, classes and outputs: equal for equal graphs, however often and whenever
    /// captured (times before and after which not to start count as given or not given).
    pub digest: [u8; 32],
}

/// A captured graph cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A call breaks a rule.
    #[error("call {place} ({task}): {reason}")]
    Call {
        /// Its place in the captured graph.
        place: u32,
        /// The task's name.
        task: String,
        /// Which rule.
        reason: CallError,
    },
    /// A call's class is not among the graph's.
    #[error("call {place} is of class {class}, and the graph has {classes}")]
    Class {
        /// The call's place in the captured graph.
        place: u32,
        /// The index.
        class: u32,
        /// Classes of the graph.
        classes: usize,
    },
    /// An input does not stand before its consumer.
    #[error("call {place} uses the result of call {input}, which does not stand before it")]
    Input {
        /// The consumer's place.
        place: u32,
        /// The input's place.
        input: u32,
    },
    /// An output is no call of the graph.
    #[error("output {output} is asked for, and the graph has {calls} calls")]
    Output {
        /// The place asked for.
        output: u32,
        /// Calls of the graph.
        calls: usize,
    },
    /// Results of earlier tasks are used, and nobody says of which run.
    #[error("a call uses tasks of a run, but the graph belongs to no run")]
    NoRun,
    /// There are too many calls for their places.
    #[error(
        "the graph has {calls} calls, more than can be captured at once; open a run and submit"
    )]
    TooManyCalls {
        /// Calls of the graph.
        calls: usize,
    },
    /// The bytes of a large argument are missing, or are not as many as they should be.
    #[error("call {place} uses a blob of {length} bytes whose bytes are not there")]
    MissingBlob {
        /// The call's place.
        place: u32,
        /// Bytes it should have.
        length: u64,
    },
    /// The large arguments are too large together.
    #[error(
        "the large arguments take {bytes} bytes together, a run may have {}; load them in tasks",
        limits::RUN_BLOB_BYTES_MAX
    )]
    Blobs {
        /// Bytes of all.
        bytes: usize,
    },
}

/// Plans a captured graph: checks it, leaves out what no output needs, merges equal calls of pure
/// tasks, and puts the rest in order.
pub fn plan(captured: Captured) -> Result<Plan, PlanError> {
    check(&captured)?;
    let Captured { run, classes, mut nodes, outputs, mut blobs } = captured;
    let stands = dedupe::dedupe(&classes, &mut nodes);
    let outputs: Vec<u32> = outputs.iter().map(|&output| stands[output as usize]).collect();
    let needed = cull::needed(&nodes, &outputs);
    let captured = order::order(&nodes, &needed, &outputs);

    let mut numbers = vec![u32::MAX; nodes.len()];
    for (&place, number) in captured.iter().zip(0_u32..) {
        numbers[place as usize] = number;
    }
    let number = |place: &u32| numbers[*place as usize];
    let mut ordered = Vec::with_capacity(captured.len());
    for &place in &captured {
        let mut node = std::mem::take(&mut nodes[place as usize]);
        node.inputs.iter_mut().for_each(|input| *input = number(input));
        dedupe::sort_inputs(&mut node);
        ordered.push(node);
    }
    drop(nodes);
    let outputs: Vec<u32> = outputs.iter().map(number).collect();
    let used = used_blobs(&captured, &ordered, &blobs)?;
    blobs.retain(|digest, _| used.contains(digest));
    let digest = digest(run, &classes, &ordered, &outputs);
    Ok(Plan { run, classes, nodes: ordered, captured, outputs, blobs, digest })
}

fn check(captured: &Captured) -> Result<(), PlanError> {
    let (nodes, classes) = (&captured.nodes, &captured.classes);
    let calls = nodes.len();
    if u32::try_from(calls).is_err() {
        return Err(PlanError::TooManyCalls { calls });
    }
    let known: Vec<_> = classes.iter().map(check_class).collect();
    for (node, place) in nodes.iter().zip(0_u32..) {
        let class = node.class as usize;
        let Some(checked) = known.get(class) else {
            return Err(PlanError::Class { place, class: node.class, classes: classes.len() });
        };
        if let Some(&input) = node.inputs.iter().find(|&&input| input >= place) {
            return Err(PlanError::Input { place, input });
        }
        if captured.run.is_none() && !node.earlier.is_empty() {
            return Err(PlanError::NoRun);
        }
        let inputs = node.inputs.len() + node.earlier.len();
        let checked = checked.clone().and_then(|()| check_args(&node.args, inputs));
        if let Err(reason) = checked {
            let task = classes[class].task.clone();
            return Err(PlanError::Call { place, task, reason });
        }
    }
    match captured.outputs.iter().find(|&&output| output as usize >= calls) {
        Some(&output) => Err(PlanError::Output { output, calls }),
        None => Ok(()),
    }
}

fn used_blobs(
    captured: &[u32],
    nodes: &[Node],
    blobs: &HashMap<BlobDigest, Bytes>,
) -> Result<HashSet<BlobDigest>, PlanError> {
    let mut used = HashSet::new();
    let mut bytes = 0;
    for (node, &place) in nodes.iter().zip(captured) {
        let mut open: Vec<&Arg> = node.args.iter().collect();
        while let Some(arg) = open.pop() {
            match arg {
                Arg::List(items) => open.extend(items),
                Arg::Blob { digest, length } if used.insert(*digest) => {
                    let stored = blobs.get(digest).filter(|blob| blob.len() as u64 == *length);
                    let stored = stored.ok_or(PlanError::MissingBlob { place, length: *length })?;
                    bytes += stored.len();
                }
                Arg::Blob { .. } | Arg::Value(_) | Arg::Input(_) => {}
            }
        }
    }
    if bytes > limits::RUN_BLOB_BYTES_MAX { Err(PlanError::Blobs { bytes }) } else { Ok(used) }
}

fn digest(run: Option<RunId>, classes: &[TaskClass], nodes: &[Node], outputs: &[u32]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    let put = |hash: &mut blake3::Hasher, part: &[u8]| {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    put(&mut hash, &run.map(RunId::to_bytes).unwrap_or_default());
    for class in classes {
        // Times count from the submission: the same program started again asks for the same graph.
        let mut class = class.clone();
        let TaskOptions { not_before_ms, expires_ms, .. } = &mut class.options;
        [not_before_ms, expires_ms].into_iter().flatten().for_each(|time| *time = 0);
        // What cannot be encoded is refused when it is pushed.
        put(&mut hash, &encode_class(&class).unwrap_or_default());
    }
    let mut key = Vec::new();
    for node in nodes {
        key.clear();
        dedupe::put_key(node, &mut key);
        put(&mut hash, &key);
    }
    for output in outputs {
        hash.update(&output.to_be_bytes());
    }
    *hash.finalize().as_bytes()
}
