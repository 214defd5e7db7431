//! What a worker must know to run a task, 128 tasks to an immutable chunk. A chunk stands alone: it
//! carries the classes its tasks use. Parcels carry chunks of just their own tasks as a cache.
//!
//! ```text
//! "BHD2" · classes: length, MessagePack · count ·
//!   count × ( index · class · rank · inputs: n, n × id · successors: n, n × index · arguments )
//! ```
//! An input of the same segment is written as `(own index - its index) << 1`, of an earlier one as
//! `(segments back) << 1 | 1` and its index; successors (of the same segment; those in later ones
//! are known to the store) as distances from the task before. Numbers are LEB128.

use bytes::Bytes;

use crate::args::Arg;
use crate::id::TaskId;
use crate::limits;
use crate::task::TaskClass;
use crate::wire::{Reader, WireError, put_varint};

pub(crate) const MAGIC: [u8; 4] = *b"BHD2";
/// Arguments of one call: a function with more is no interface.
pub(crate) const ARGUMENTS_MAX: usize = 64;

/// One task of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Its id.
    pub id: TaskId,
    /// Its class, as an index into the chunk's classes.
    pub class: u32,
    /// Tasks on the longest way from it to an end of its segment, itself not counted: what has the
    /// longest way to go should start first.
    pub rank: u16,
    /// The tasks whose results it uses, each once, ascending.
    pub inputs: Vec<TaskId>,
    /// The tasks of the same segment that use its result, each once, ascending.
    pub successors: Vec<TaskId>,
    /// One for each parameter; `Arg::Input(k)` is the result of `inputs[k]`.
    pub args: Vec<Arg>,
}

/// Tasks of one segment with the classes they use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Chunk {
    /// What the tasks' `class` fields index.
    pub classes: Vec<TaskClass>,
    /// The tasks, ascending.
    pub tasks: Vec<Descriptor>,
}

impl Descriptor {
    /// Appends the task as it stands in a chunk in which its class has this index.
    pub(crate) fn put_as(&self, out: &mut Vec<u8>, class: u32) {
        put_head(out, self.id.index(), class, self.rank);
        put_inputs(out, self.id, &self.inputs);
        put_successors(out, self.id.index(), self.successors.iter().map(|task| task.index()));
        put_varint(out, self.args.len() as u64);
        for arg in &self.args {
            arg.put(out);
        }
    }

    fn take(reader: &mut Reader<'_>, whole: &Bytes, segment: u32) -> Result<Self, WireError> {
        let index = take_index(reader)?;
        let class = reader.bounded("class", limits::PARCEL_TASKS_MAX)?;
        let class = u32::try_from(class).map_err(|_| WireError::Invalid("class"))?;
        let rank = reader.bounded("rank", limits::SEGMENT_TASKS_MAX - 1)?;
        let rank = u16::try_from(rank).map_err(|_| WireError::Invalid("rank"))?;
        let count = reader.bounded("inputs", reader.rest().len())?;
        let mut inputs = Vec::with_capacity(count);
        for _ in 0..count {
            inputs.push(take_input(reader, segment, index)?);
        }
        let count = reader.bounded("successors", reader.rest().len())?;
        let mut successors = Vec::with_capacity(count);
        let mut last = index;
        for _ in 0..count {
            let distance = take_index(reader)?;
            last = last
                .checked_add(distance)
                .filter(|_| distance > 0)
                .ok_or(WireError::Invalid("successor"))?;
            successors.push(TaskId::new(segment, last));
        }
        let count = reader.bounded("arguments", ARGUMENTS_MAX)?;
        let mut args = Vec::with_capacity(count);
        let known = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
        for _ in 0..count {
            args.push(Arg::take(reader, whole, known)?);
        }
        Ok(Self { id: TaskId::new(segment, index), class, rank, inputs, successors, args })
    }
}

/// The first part of a task in a chunk.
pub(crate) fn put_head(out: &mut Vec<u8>, index: u16, class: u32, rank: u16) {
    put_varint(out, u64::from(index));
    put_varint(out, u64::from(class));
    put_varint(out, u64::from(rank));
}

/// The second part of a task in a chunk.
pub(crate) fn put_inputs(out: &mut Vec<u8>, id: TaskId, inputs: &[TaskId]) {
    put_varint(out, inputs.len() as u64);
    for input in inputs {
        let back = u64::from(id.segment() - input.segment());
        if back == 0 {
            put_varint(out, u64::from(id.index() - input.index()) << 1);
        } else {
            put_varint(out, (back << 1) | 1);
            put_varint(out, u64::from(input.index()));
        }
    }
}

/// The third part of a task in a chunk; its arguments follow.
pub(crate) fn put_successors(
    out: &mut Vec<u8>,
    index: u16,
    successors: impl ExactSizeIterator<Item = u16>,
) {
    put_varint(out, successors.len() as u64);
    let mut last = index;
    for successor in successors {
        put_varint(out, u64::from(successor - last));
        last = successor;
    }
}

fn take_index(reader: &mut Reader<'_>) -> Result<u16, WireError> {
    let index = reader.bounded("task index", limits::SEGMENT_TASKS_MAX - 1)?;
    u16::try_from(index).map_err(|_| WireError::Invalid("task index"))
}

fn take_input(reader: &mut Reader<'_>, segment: u32, index: u16) -> Result<TaskId, WireError> {
    let first = reader.varint("input")?;
    let distance = first >> 1;
    if first & 1 == 0 {
        let own = u64::from(index);
        let before = own.checked_sub(distance).filter(|_| distance > 0);
        let before = before.and_then(|input| u16::try_from(input).ok());
        before.map(|input| TaskId::new(segment, input)).ok_or(WireError::Invalid("input"))
    } else {
        let before = u64::from(segment).checked_sub(distance).filter(|_| distance > 0);
        let before = before.and_then(|earlier| u32::try_from(earlier).ok());
        let before = before.ok_or(WireError::Invalid("input"))?;
        Ok(TaskId::new(before, take_index(reader)?))
    }
}

/// A chunk being written: classes that are encoded already, tasks one after the other.
#[derive(Debug, Default)]
pub(crate) struct ChunkWriter {
    classes: Vec<u8>,
    class_count: u16,
    tasks: Vec<u8>,
    task_count: usize,
}

impl ChunkWriter {
    /// Adds a class by its [`encode_class`] form; returns its index in the chunk.
    pub(crate) fn class(&mut self, encoded: &[u8]) -> u32 {
        self.classes.extend_from_slice(encoded);
        self.class_count += 1;
        u32::from(self.class_count) - 1
    }

    /// Where the next task is to be written.
    pub(crate) fn task(&mut self) -> &mut Vec<u8> {
        self.task_count += 1;
        &mut self.tasks
    }

    /// The chunk's wire form.
    pub(crate) fn finish(&self) -> Vec<u8> {
        let classes = 3 + self.classes.len();
        let mut out = Vec::with_capacity(CHUNK_OVERHEAD + self.classes.len() + self.tasks.len());
        out.extend_from_slice(&MAGIC);
        put_varint(&mut out, classes as u64);
        // A MessagePack array: its 16-bit head, then its items.
        out.push(0xdc);
        out.extend_from_slice(&self.class_count.to_be_bytes());
        out.extend_from_slice(&self.classes);
        put_varint(&mut out, self.task_count as u64);
        out.extend_from_slice(&self.tasks);
        out
    }
}

/// Bytes of a chunk beside its classes and tasks, at the most.
pub(crate) const CHUNK_OVERHEAD: usize = 24;

/// A class as it stands in a chunk.
pub(crate) fn encode_class(class: &TaskClass) -> Result<Vec<u8>, WireError> {
    rmp_serde::to_vec_named(class).map_err(|_| WireError::Invalid("a task's class"))
}

/// Where the store has a task's descriptor: the segment, and the number of the chunk in it.
pub fn chunk_of(task: TaskId) -> (u32, u32) {
    let chunk = usize::from(task.index()) / limits::CHUNK_TASKS;
    (task.segment(), u32::try_from(chunk).unwrap_or(u32::MAX))
}

impl Chunk {
    /// The chunk's wire form.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let mut writer = ChunkWriter::default();
        for class in &self.classes {
            writer.class(&encode_class(class)?);
        }
        for task in &self.tasks {
            task.put_as(writer.task(), task.class);
        }
        Ok(writer.finish())
    }

    /// Reads a chunk of `segment`. Edges that do not go from a lower id to a higher one, classes
    /// that are not there and lengths beyond the buffer are errors.
    pub fn decode(bytes: &Bytes, segment: u32) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC, "a descriptor chunk")?;
        let classes: Vec<TaskClass> = rmp_serde::from_slice(reader.bytes("classes")?)
            .map_err(|_| WireError::Invalid("classes of a chunk"))?;
        let count = reader.bounded("tasks", limits::PARCEL_TASKS_MAX)?;
        let mut tasks = Vec::with_capacity(count);
        for _ in 0..count {
            let task = Descriptor::take(&mut reader, bytes, segment)?;
            if task.class as usize >= classes.len() {
                return Err(WireError::Invalid("class"));
            }
            tasks.push(task);
        }
        reader.finish()?;
        Ok(Self { classes, tasks })
    }

    /// The task with this index in the segment, when the chunk has it.
    pub fn task(&self, index: u16) -> Option<&Descriptor> {
        let place = self.tasks.binary_search_by_key(&index, |task| task.id.index()).ok()?;
        self.tasks.get(place)
    }

    /// The class of one of the chunk's tasks.
    pub fn class(&self, task: &Descriptor) -> Option<&TaskClass> {
        self.classes.get(task.class as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Chunk {
        let class = |task: &str| TaskClass { task: task.to_owned(), ..TaskClass::relay("default") };
        let id = |index| TaskId::new(3, index);
        Chunk {
            classes: vec![class("a"), class("b")],
            tasks: vec![
                Descriptor {
                    id: id(128),
                    class: 0,
                    rank: 300,
                    inputs: vec![TaskId::new(0, 9), TaskId::new(2, 0), id(127)],
                    successors: vec![id(129), id(65_535)],
                    args: vec![Arg::Input(2), Arg::List(vec![Arg::Input(0), Arg::Input(1)])],
                },
                Descriptor {
                    id: id(129),
                    class: 1,
                    rank: 0,
                    inputs: vec![id(128)],
                    successors: vec![],
                    args: vec![Arg::Value(Bytes::from_static(b"\xc0"))],
                },
            ],
        }
    }

    #[test]
    fn a_chunk_reads_back() {
        let chunk = sample();
        let bytes = Bytes::from(chunk.encode().unwrap());
        assert_eq!(Chunk::decode(&bytes, 3), Ok(chunk.clone()));
        assert_eq!(chunk.task(129).map(|task| task.class), Some(1));
        assert_eq!(chunk.task(130), None);
        assert!(Chunk::decode(&bytes, 1).is_err(), "inputs would lie before segment 0");
    }

    proptest! {
        #[test]
        fn damage_is_an_error_or_another_chunk_but_never_a_panic(at: usize, byte: u8, cut: usize) {
            let mut bytes = sample().encode().unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut % (bytes.len() + 1));
            let _ = Chunk::decode(&Bytes::from(bytes), 3);
        }
    }
}
