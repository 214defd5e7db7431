//! Cuts a stream of calls into segments: what the store and the broker are given. At any time only
//! the segment under construction is in memory: for each task its inputs and arguments as they will
//! be sent, 16 bytes beside, and 4 bytes for each edge inside the segment.
//!
//! Successors are known only when a segment is complete, so descriptors are put together when it is
//! taken.

use std::cmp::{Ordering, Reverse};

use bytes::Bytes;

use super::check::{CallError, check_args};
use super::classes::Classes;
use super::inputs::ascending;
use super::relay::{PINNED, Relays, Route};
use super::successors::Successors;
use crate::args::Arg;
use crate::descriptor::{CHUNK_OVERHEAD, Chunk, ChunkWriter, put_head, put_inputs, put_successors};
use crate::id::TaskId;
use crate::limits::{CHUNK_TASKS, SEGMENT_BYTES_MAX, SEGMENT_TASKS_MAX};
use crate::run::SegmentDigest;
use crate::state;
use crate::task::TaskClass;
use crate::wire::{WireError, put_varint};

/// Bytes of a descriptor beside its inputs, successors and arguments, at the most: index, class,
/// rank, three counts.
const TASK_BYTES: usize = 3 + 3 + 3 + 5 + 3 + 1;
/// Bytes of one input, at the most, and of the successor at the edge's other end.
const EDGE_BYTES: usize = 8 + 3;
/// Bytes of a relay's arguments, at the most.
const RELAY_ARGS: usize = 1 + 6;

/// A complete segment, ready to be staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its place among the run's segments.
    pub number: u32,
    /// How many tasks it has: their indexes are `0..tasks`.
    pub tasks: u32,
    /// For each task how many of its inputs are in this segment.
    pub pending: Vec<u32>,
    /// For each task how many consumers it has in this segment, and [`state::PINNED`].
    pub consumers: Vec<u32>,
    /// The descriptors: encoded [`Chunk`]s of [`CHUNK_TASKS`] tasks, the last one of fewer.
    pub chunks: Vec<Bytes>,
    /// The distinct edges from tasks of earlier segments to tasks (by index) of this one, by
    /// ascending index.
    pub cross: Vec<(TaskId, u16)>,
    /// The tasks without any input, in the order in which they are to be run.
    pub sources: Vec<u16>,
    /// The first bytes of BLAKE3 of the number and the chunks, from which all but the pins follows.
    pub digest: SegmentDigest,
}

impl Segment {
    /// The chunk that describes the task at `index`. An error means that the segment was forged.
    pub fn chunk_of(&self, index: u16) -> Result<Chunk, WireError> {
        let chunk = self.chunks.get(usize::from(index) / CHUNK_TASKS);
        Chunk::decode(chunk.ok_or(WireError::Invalid("task index"))?, self.number)
    }

    /// Bytes of all chunks together.
    pub fn encoded_bytes(&self) -> usize {
        self.chunks.iter().map(Bytes::len).sum()
    }
}

/// A call was not added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// It does not fit into the segment under construction: take that one and push again.
    #[error("the segment is full: take it and push the call again")]
    Full,
    /// It would not fit into any segment.
    #[error(
        "the call takes up to {bytes} encoded bytes with {inputs} inputs, and a segment has at \
         most {SEGMENT_BYTES_MAX}; combine the inputs in steps, or pass a blob"
    )]
    TooLarge {
        /// Its encoded bytes, at the most.
        bytes: usize,
        /// Its inputs.
        inputs: usize,
    },
    /// An input is not a task pushed before.
    #[error("the input {0} is not an earlier task of the run")]
    Input(TaskId),
    /// The call cannot be part of any graph.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Cuts calls into segments.
#[derive(Debug)]
pub struct SegmentBuilder {
    number: u32,
    bytes: usize,
    classes: Classes,
    tasks: Vec<Task>,
    /// For each task its consumers so far and [`PINNED`]; apart from `tasks`, for the relays.
    uses: Vec<u16>,
    /// For each task its inputs, then its arguments, as in a descriptor.
    body: Vec<u8>,
    /// Edges inside the segment, by ascending consumer.
    edges: Vec<(u16, u16)>,
    cross: Vec<(TaskId, u16)>,
    relays: Relays,
}

/// A task under construction.
#[derive(Debug, Clone, Copy)]
struct Task {
    class: u32,
    /// Where its inputs end in the body and its arguments begin; they end with the next one's begin.
    inputs_at: u32,
    args_at: u32,
    pending: u16,
    source: bool,
}

impl SegmentBuilder {
    /// A builder whose first segment is number `first`.
    pub fn new(first: u32) -> Self {
        Self {
            number: first,
            bytes: 0,
            classes: Classes::default(),
            tasks: Vec::new(),
            uses: Vec::new(),
            body: Vec::new(),
            edges: Vec::new(),
            cross: Vec::new(),
            relays: Relays::default(),
        }
    }

    /// The number of the segment under construction.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Tasks in the segment under construction, relays among them.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether the segment under construction has no task.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Encoded bytes of the segment under construction, at the most.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a call of `class` and returns its id. Its inputs are tasks pushed before or tasks of
    /// earlier segments, in any order; an input named twice is one edge. A pinned task is kept until
    /// it is unpinned, whoever has consumed it. [`PushError::Full`] changes nothing: take the
    /// segment, then push again; into an empty segment it cannot occur.
    pub fn push(
        &mut self,
        class: &TaskClass,
        inputs: &[TaskId],
        args: &[Arg],
        pinned: bool,
    ) -> Result<TaskId, PushError> {
        self.push_shared(class, inputs, args, pinned, |_| false)
    }

    /// Like [`SegmentBuilder::push`]; `shared` says of an input (by its place in `inputs`) that this is
    /// not its only consumer in the segment under construction. Its consumers then share one edge.
    /// This may find even an empty segment full.
    pub(super) fn push_shared(
        &mut self,
        class: &TaskClass,
        inputs: &[TaskId],
        args: &[Arg],
        pinned: bool,
        shared: impl Fn(usize) -> bool,
    ) -> Result<TaskId, PushError> {
        let args_bytes = check_args(args, inputs.len())?;
        if let Some(&bad) = inputs.iter().find(|&&input| !self.knows(input)) {
            return Err(PushError::Input(bad));
        }
        let class_index = self.classes.intern(class)?;
        let relays = inputs
            .iter()
            .enumerate()
            .filter(|&(n, &input)| matches!(self.route(input, shared(n)), Route::NewRelay(_)))
            .count();
        let relay_class = match relays {
            0 => class_index,
            _ => self.classes.intern(&TaskClass::relay(&class.options.queue))?,
        };
        self.make_room([class_index, relay_class], inputs.len(), args_bytes, relays)?;
        let sources = inputs
            .iter()
            .enumerate()
            .map(|(n, &input)| self.source(input, shared(n), relay_class))
            .collect();
        let id = self.add(class_index, sources, args, args_bytes);
        if pinned {
            self.uses[usize::from(id.index())] |= PINNED;
        }
        Ok(id)
    }

    /// Pins a task when it is in the segment under construction, and is not pinned yet; says whether
    /// it did.
    pub(super) fn pin(&mut self, task: TaskId) -> bool {
        let here = task.segment() == self.number;
        let uses = self.uses.get_mut(usize::from(task.index())).filter(|_| here);
        let uses = uses.filter(|uses| **uses & PINNED == 0);
        uses.map(|uses| *uses |= PINNED).is_some()
    }

    /// Unpins a task when it is in the segment under construction; says whether it is.
    pub fn unpin(&mut self, task: TaskId) -> bool {
        let here = task.segment() == self.number;
        let uses = self.uses.get_mut(usize::from(task.index())).filter(|_| here);
        uses.map(|uses| *uses &= !PINNED).is_some()
    }

    /// The classes of the segment as it is now; relays are of a class of their own.
    pub fn classes(&self) -> impl Iterator<Item = &TaskClass> {
        self.classes.all()
    }

    /// The segment as it is now; the next one begins. `None` when it has no task.
    pub fn take_segment(&mut self) -> Option<Segment> {
        if self.tasks.is_empty() {
            return None;
        }
        let chunks = self.encode();
        let mut hash = blake3::Hasher::new();
        hash.update(&self.number.to_be_bytes());
        for chunk in &chunks {
            hash.update(&(chunk.len() as u64).to_be_bytes());
            hash.update(chunk);
        }
        let mut digest = SegmentDigest::default();
        hash.finalize_xof().fill(&mut digest);
        let segment = Segment {
            number: self.number,
            tasks: u32::try_from(self.tasks.len()).unwrap_or(u32::MAX),
            pending: self.tasks.iter().map(|task| u32::from(task.pending)).collect(),
            consumers: self.uses.iter().map(|&uses| consumers(uses)).collect(),
            chunks,
            cross: std::mem::take(&mut self.cross),
            sources: self.sources(),
            digest,
        };
        *self = Self::new(self.number.saturating_add(1));
        Some(segment)
    }

    fn knows(&self, task: TaskId) -> bool {
        match task.segment().cmp(&self.number) {
            Ordering::Less => true,
            Ordering::Equal => usize::from(task.index()) < self.len(),
            Ordering::Greater => false,
        }
    }

    fn route(&self, input: TaskId, shared: bool) -> Route {
        self.relays.route(self.number, &self.uses, input, shared)
    }

    /// Refuses what does not fit, with so many relays before it.
    fn make_room(
        &self,
        [class, relay_class]: [u32; 2],
        inputs: usize,
        args_bytes: usize,
        relays: usize,
    ) -> Result<(), PushError> {
        let own = TASK_BYTES + inputs * EDGE_BYTES + args_bytes;
        let classes = self.classes.bytes(class) + self.classes.bytes(relay_class);
        let chunks = (2 + relays / CHUNK_TASKS) * (CHUNK_OVERHEAD + classes);
        if own + chunks > SEGMENT_BYTES_MAX && relays == 0 {
            return Err(PushError::TooLarge { bytes: own + chunks, inputs });
        }
        let bytes = self.bytes + own + relays * (TASK_BYTES + EDGE_BYTES + RELAY_ARGS) + chunks;
        let fits = self.len() + relays < SEGMENT_TASKS_MAX && bytes <= SEGMENT_BYTES_MAX;
        if fits { Ok(()) } else { Err(PushError::Full) }
    }

    /// The task that a consumer takes `input` from; makes the relay that is missing. Asks for the
    /// route once more, because an input named twice needs only one relay.
    fn source(&mut self, input: TaskId, shared: bool, relay_class: u32) -> TaskId {
        match self.route(input, shared) {
            Route::From(source) => source,
            Route::NewRelay(source) => {
                let relay = self.add(relay_class, vec![source], &[Arg::Input(0)], RELAY_ARGS);
                self.relays.made(self.number, source, relay.index());
                relay
            }
        }
    }

    /// Adds a task for which there is room.
    fn add(&mut self, class: u32, inputs: Vec<TaskId>, args: &[Arg], args_bytes: usize) -> TaskId {
        // `make_room` keeps the index below 2^16 and the body below 2^32.
        let id = TaskId::new(self.number, u16::try_from(self.len()).unwrap_or(u16::MAX));
        if self.len().is_multiple_of(CHUNK_TASKS) {
            self.bytes += CHUNK_OVERHEAD;
        }
        self.bytes += self.classes.enter(class, self.len() / CHUNK_TASKS);
        self.bytes += TASK_BYTES + inputs.len() * EDGE_BYTES + args_bytes;

        let (inputs, numbers) = ascending(inputs);
        let mut pending = 0;
        for &input in &inputs {
            self.relays.used(self.number, input);
            if input.segment() == self.number {
                pending += 1;
                self.uses[usize::from(input.index())] += 1;
                self.edges.push((input.index(), id.index()));
            } else {
                self.cross.push((input, id.index()));
            }
        }
        let inputs_at = offset(self.body.len());
        put_inputs(&mut self.body, id, &inputs);
        let args_at = offset(self.body.len());
        put_varint(&mut self.body, args.len() as u64);
        for arg in args {
            let number_of = |number: u32| numbers.get(number as usize).copied().unwrap_or(number);
            arg.put_renumbered(&mut self.body, &number_of);
        }
        self.tasks.push(Task { class, inputs_at, args_at, pending, source: inputs.is_empty() });
        self.uses.push(0);
        id
    }

    fn sources(&self) -> Vec<u16> {
        let tasks = (0..=u16::MAX).zip(&self.tasks);
        let mut sources: Vec<(u16, u32)> = tasks
            .filter(|(_, task)| task.source)
            .map(|(index, task)| (index, task.class))
            .collect();
        sources.sort_by_key(|&(_, class)| Reverse(self.classes.priority(class)));
        sources.into_iter().map(|(index, _)| index).collect()
    }

    /// For each task how many more there are on the longest way to an end of the segment: the rank
    /// by which a list scheduler takes the critical path first (Kwok and Ahmad 1999), every task
    /// taken to last as long as any other.
    fn ranks(&self) -> Vec<u16> {
        let mut ranks = vec![0_u16; self.len()];
        // By descending consumer: its own rank is known when it is counted.
        for &(input, consumer) in self.edges.iter().rev() {
            let through = ranks[usize::from(consumer)].saturating_add(1);
            let rank = &mut ranks[usize::from(input)];
            *rank = through.max(*rank);
        }
        ranks
    }

    fn encode(&self) -> Vec<Bytes> {
        let successors = Successors::of(self.len(), &self.edges);
        let ranks = self.ranks();
        let mut places = vec![(usize::MAX, 0); self.classes.len()];
        let mut chunks = Vec::with_capacity(self.len().div_ceil(CHUNK_TASKS));
        for (number, tasks) in self.tasks.chunks(CHUNK_TASKS).enumerate() {
            let mut writer = ChunkWriter::default();
            for (place, task) in tasks.iter().enumerate() {
                let index = number * CHUNK_TASKS + place;
                let class = &mut places[task.class as usize];
                if class.0 != number {
                    *class = (number, writer.class(self.classes.encoded(task.class)));
                }
                let end = self
                    .tasks
                    .get(index + 1)
                    .map_or(self.body.len(), |next| next.inputs_at as usize);
                let (from, middle) = (task.inputs_at as usize, task.args_at as usize);
                let id = u16::try_from(index).unwrap_or(u16::MAX);
                let out = writer.task();
                put_head(out, id, class.1, ranks[index]);
                out.extend_from_slice(&self.body[from..middle]);
                put_successors(out, id, successors.after(index));
                out.extend_from_slice(&self.body[middle..end]);
            }
            chunks.push(Bytes::from(writer.finish()));
        }
        chunks
    }
}

fn consumers(uses: u16) -> u32 {
    let pinned = if uses & PINNED == 0 { 0 } else { state::PINNED };
    u32::from(uses & !PINNED) | pinned
}

fn offset(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
