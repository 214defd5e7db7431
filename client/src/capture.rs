//! From calls to a graph: everything that the outputs need, inputs first.

use std::collections::HashMap;
use std::sync::Arc;

use bolthole_broker::args::EncodeError;
use bolthole_broker::clock;
use bolthole_broker::graph::{Captured, Node};
use bolthole_broker::id::TaskId;
use bolthole_broker::registry::TaskEntry;
use bolthole_broker::task::{TaskClass, TaskOptions};

use crate::delayed::{AnyDelayed, CallNode, Extras};
use crate::options::CallOptions;

/// Calls that make no graph. Repeating the same calls fails the same way.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// A value given to a call could not be encoded.
    #[error("argument {number} of a call of {task}")]
    Argument {
        /// The task's registered name.
        task: &'static str,
        /// The argument's place, from 0.
        number: usize,
        /// Why.
        source: EncodeError,
    },
    /// The calls use handles of two runs.
    #[error("a call of {task} uses a task of another run; gather its result and pass the value")]
    OtherRun {
        /// The task's registered name.
        task: &'static str,
    },
    /// More calls than a graph can count.
    #[error("the graph has more than {} calls; submit it in parts to an open run", u32::MAX)]
    TooManyCalls,
}

/// The graph of `outputs` and of everything they need, each call once.
pub fn capture(outputs: &[&dyn AnyDelayed]) -> Result<Captured, CaptureError> {
    let mut capture = Capture {
        graph: Captured::default(),
        places: HashMap::new(),
        classes: HashMap::new(),
        bases: HashMap::new(),
        now_ms: clock::unix_ms(),
    };
    for output in outputs {
        let place = capture.place_of(output.node())?;
        capture.graph.outputs.push(place);
    }
    Ok(capture.graph)
}

struct Capture<'a> {
    graph: Captured,
    /// Calls by address: all of them are alive while they are captured.
    places: HashMap<*const CallNode, u32>,
    classes: HashMap<(*const TaskEntry, Option<&'a CallOptions>), u32>,
    /// The attribute's options, which name times relative to now, asked for once.
    bases: HashMap<*const TaskEntry, TaskOptions>,
    now_ms: u64,
}

impl<'a> Capture<'a> {
    /// The call's place, after it and all that it needs are there. Walks with a stack of its own:
    /// a chain may have a million links.
    fn place_of(&mut self, root: &'a Arc<CallNode>) -> Result<u32, CaptureError> {
        let mut path = vec![(&**root, root.inputs.iter())];
        while let Some((node, rest)) = path.last_mut() {
            if self.places.contains_key(&std::ptr::from_ref(*node)) {
                path.pop();
            } else if let Some(input) = rest.find(|&input| !self.has(input)) {
                path.push((input, input.inputs.iter()));
            } else {
                let node = *node;
                self.add(node)?;
                path.pop();
            }
        }
        Ok(self.places[&Arc::as_ptr(root)])
    }

    fn has(&self, node: &Arc<CallNode>) -> bool {
        self.places.contains_key(&Arc::as_ptr(node))
    }

    /// Adds a call whose inputs are there.
    fn add(&mut self, node: &'a CallNode) -> Result<(), CaptureError> {
        let class = self.class(node);
        let inputs = node.inputs.iter().map(|input| self.places[&Arc::as_ptr(input)]).collect();
        let earlier = match &node.extras {
            Some(extras) => self.extras(node.entry.name, extras)?,
            None => Vec::new(),
        };
        let place =
            u32::try_from(self.graph.nodes.len()).map_err(|_| CaptureError::TooManyCalls)?;
        self.graph.nodes.push(Node { class, inputs, earlier, args: node.args.to_vec() });
        self.places.insert(node, place);
        Ok(())
    }

    fn extras(&mut self, task: &'static str, extras: &Extras) -> Result<Vec<TaskId>, CaptureError> {
        if let Some((number, source)) = &extras.error {
            return Err(CaptureError::Argument { task, number: *number, source: source.clone() });
        }
        let blobs = extras.blobs.iter().map(|(digest, bytes)| (*digest, bytes.clone()));
        self.graph.blobs.extend(blobs);
        let mut earlier = Vec::with_capacity(extras.earlier.len());
        for (run, id) in &extras.earlier {
            if *self.graph.run.get_or_insert(*run) != *run {
                return Err(CaptureError::OtherRun { task });
            }
            earlier.push(*id);
        }
        Ok(earlier)
    }

    fn class(&mut self, node: &'a CallNode) -> u32 {
        let entry = node.entry;
        let options = node.extras.as_ref().map(|extras| &extras.options);
        let options = options.filter(|options| **options != CallOptions::default());
        if let Some(class) = self.classes.get(&(std::ptr::from_ref(entry), options)) {
            return *class;
        }
        let base = self.bases.entry(entry).or_insert_with(|| (entry.options)()).clone();
        let number = u32::try_from(self.graph.classes.len()).unwrap_or(u32::MAX);
        self.graph.classes.push(TaskClass {
            task: entry.name.to_owned(),
            signature: entry.signature.to_owned(),
            kind: entry.kind,
            options: match options {
                Some(options) => options.over(base, self.now_ms),
                None => base,
            },
        });
        self.classes.insert((entry, options), number);
        number
    }
}
