//! A parcel: the AMQP message that says "these tasks are ready". Their descriptors and the header of
//! their run may ride along as a cache; without them the worker reads them from the store.
//!
//! ```text
//! "BHP1" · run (16 bytes) · store epoch: length, text ·
//!   count · count × difference ·
//!   n, n × ( steps · generation · forwarded: 0, or its id + 1 ) ·
//!   chunks: n, n × ( segment · length, descriptor chunk ) ·
//!   header: 0, or n + 1, n × ( length, name · length, value )
//! ```
//! Task ids stand in the order in which they are to be run, each as its difference to the one before
//! (the first to 0), folded so that small negative numbers are short. Tasks that were rearmed or
//! forwarded follow, each by its steps from the one before. Numbers are LEB128.

use std::sync::Arc;

use bytes::Bytes;

use crate::descriptor::{CHUNK_OVERHEAD, Chunk, ChunkWriter, Descriptor, encode_class};
use crate::graph::Segment;
use crate::id::{RunId, TaskId};
use crate::limits::{CHUNK_TASKS, PARCEL_BYTES_MAX, PARCEL_TASKS_MAX};
use crate::run::{Header, Ready};
use crate::store::Epoch;
use crate::task::TaskClass;
use crate::wire::{Reader, WireError, put_bytes, put_varint};

pub(crate) const MAGIC: [u8; 4] = *b"BHP1";
/// Bytes of an epoch: a Redis server's has 40.
const EPOCH_BYTES_MAX: usize = 64;
/// Bytes of a parcel beside its tasks, chunks and header: magic, run, epoch, four counts.
const HEAD_BYTES: usize = 4 + 16 + 1 + EPOCH_BYTES_MAX + 4 * 2;
/// Bytes of a run's header that ride along, with their lengths of so many bytes: enough for what
/// names a caller or a trace.
const HEADER_BYTES_MAX: usize = 512;
const LENGTH_BYTES: usize = 2;
/// Bytes of one task, at the most: the difference of ids of 48 bits, steps, generation, an id.
const TASK_BYTES: usize = 7 + 2 + 2 + 7;
/// Bytes of a chunk in a parcel beside its classes and tasks, at the most.
const CHUNK_BYTES: usize = 5 + 3 + CHUNK_OVERHEAD;

/// Ready tasks of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// The run.
    pub run: RunId,
    /// The store's epoch in which they were found ready.
    pub epoch: Epoch,
    /// 1 to [`PARCEL_TASKS_MAX`] tasks in the order in which they are to be run; they may be of
    /// several segments.
    pub tasks: Vec<Ready>,
    /// Descriptors of some or all of them by segment.
    pub chunks: Vec<(u32, Chunk)>,
    /// What travels with the run, when it is small.
    pub header: Option<Header>,
}

/// An encoded parcel and the queue it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressed {
    /// The user queue of its tasks.
    pub queue: String,
    /// How many tasks it has.
    pub tasks: usize,
    /// The encoded [`Parcel`].
    pub bytes: Bytes,
}

impl Parcel {
    /// The parcel's wire form. The descriptors are left out when they would make it larger than
    /// [`PARCEL_BYTES_MAX`].
    pub fn encode(&self) -> Result<Bytes, WireError> {
        let mut chunks = Vec::with_capacity(self.chunks.len());
        for (segment, chunk) in &self.chunks {
            chunks.push((*segment, chunk.encode()?));
        }
        encode(self.run, &self.epoch, &self.tasks, &chunks, self.header.as_ref())
    }

    /// Reads a parcel; trusts none of its bytes.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        limit("bytes of a parcel", bytes.len(), PARCEL_BYTES_MAX)?;
        let mut reader = Reader::new(bytes);
        reader.magic(MAGIC, "a parcel")?;
        let run = RunId::from_bytes(reader.array("run")?);
        let epoch = take_epoch(&mut reader)?;
        let tasks = take_tasks(&mut reader)?;
        let count = reader.bounded("chunks", tasks.len())?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            let segment = u32::try_from(reader.varint("segment")?);
            let segment = segment.map_err(|_| WireError::Invalid("segment"))?;
            let chunk = bytes.slice_ref(reader.bytes("descriptor chunk")?);
            chunks.push((segment, Chunk::decode(&chunk, segment)?));
        }
        let header = take_header(&mut reader)?;
        reader.finish()?;
        Ok(Self { run, epoch, tasks, chunks, header })
    }

    /// The class and descriptor of a task, when the parcel carries them.
    pub fn describe(&self, task: TaskId) -> Option<(&TaskClass, &Descriptor)> {
        let of_segment = self.chunks.iter().filter(|(segment, _)| *segment == task.segment());
        let mut found = of_segment.filter_map(|(_, chunk)| {
            let descriptor = chunk.task(task.index())?;
            Some((chunk.class(descriptor)?, descriptor))
        });
        found.next()
    }

    /// Parcels of up to `max_tasks` tasks (1 to [`PARCEL_TASKS_MAX`]) for `ready` in its order.
    /// `describe` gives the descriptors that are at hand; as many ride along as fit.
    pub fn pack<'a>(
        run: RunId,
        epoch: &Epoch,
        ready: &[Ready],
        mut describe: impl FnMut(TaskId) -> Option<(&'a TaskClass, &'a Descriptor)>,
        max_tasks: usize,
    ) -> Result<Vec<Bytes>, WireError> {
        let max_tasks = max_tasks.clamp(1, PARCEL_TASKS_MAX);
        let parcels = ready.chunks(max_tasks).map(|tasks| {
            let described: Vec<_> = tasks.iter().filter_map(|ready| describe(ready.task)).collect();
            encode(run, epoch, tasks, &pack_chunks(tasks.len(), described)?, None)
        });
        parcels.collect()
    }
}

/// A task of a segment, by index, and the chunk that describes it.
type Described = (u16, Arc<Chunk>);

impl Segment {
    /// Parcels with descriptors for ready tasks of this segment, by index in the order in which
    /// they are to be run, and with the header of their run; each parcel is for one queue, of up to
    /// `max_tasks` tasks.
    pub fn parcels(
        &self,
        run: RunId,
        epoch: &Epoch,
        header: &Header,
        ready: &[u16],
        max_tasks: usize,
    ) -> Result<Vec<Addressed>, WireError> {
        let max_tasks = max_tasks.clamp(1, PARCEL_TASKS_MAX);
        let mut chunk: Option<(usize, Arc<Chunk>)> = None;
        // Few queues, so a list is enough.
        let mut open: Vec<(String, Vec<Described>)> = Vec::new();
        let mut parcels = Vec::new();
        for &index in ready {
            let number = usize::from(index) / CHUNK_TASKS;
            let chunk = match &chunk {
                Some((loaded, chunk)) if *loaded == number => Arc::clone(chunk),
                _ => Arc::clone(&chunk.insert((number, Arc::new(self.chunk_of(index)?))).1),
            };
            let class = chunk.task(index).and_then(|task| chunk.class(task));
            let queue = &class.ok_or(WireError::Invalid("task index"))?.options.queue;
            let known = open.iter().position(|(other, _)| other == queue);
            let place = known.unwrap_or_else(|| {
                open.push((queue.clone(), Vec::new()));
                open.len() - 1
            });
            let (queue, tasks) = &mut open[place];
            tasks.push((index, chunk));
            if tasks.len() == max_tasks {
                parcels.push(self.address((run, epoch, header), queue, &std::mem::take(tasks))?);
            }
        }
        for (queue, tasks) in open.iter().filter(|(_, tasks)| !tasks.is_empty()) {
            parcels.push(self.address((run, epoch, header), queue, tasks)?);
        }
        Ok(parcels)
    }

    fn address(
        &self,
        (run, epoch, header): (RunId, &Epoch, &Header),
        queue: &str,
        tasks: &[Described],
    ) -> Result<Addressed, WireError> {
        let id = |index| Ready::first(TaskId::new(self.number, index));
        let ids: Vec<_> = tasks.iter().map(|(index, _)| id(*index)).collect();
        let described = tasks.iter().filter_map(|(index, chunk)| {
            let task = chunk.task(*index)?;
            Some((chunk.class(task)?, task))
        });
        let chunks = pack_chunks(ids.len(), described.collect())?;
        let bytes = encode(run, epoch, &ids, &chunks, Some(header))?;
        Ok(Addressed { queue: queue.to_owned(), tasks: ids.len(), bytes })
    }

    /// The parcels of the segment's sources.
    pub fn source_parcels(
        &self,
        run: RunId,
        epoch: &Epoch,
        header: &Header,
        max_tasks: usize,
    ) -> Result<Vec<Addressed>, WireError> {
        self.parcels(run, epoch, header, &self.sources, max_tasks)
    }
}

/// Chunks by segment with as many of the descriptors as fit into a parcel of so many tasks.
fn pack_chunks(
    tasks: usize,
    mut described: Vec<(&TaskClass, &Descriptor)>,
) -> Result<Vec<(u32, Vec<u8>)>, WireError> {
    described.sort_unstable_by_key(|(_, task)| task.id);
    let mut room = PARCEL_BYTES_MAX - HEAD_BYTES - HEADER_BYTES_MAX - TASK_BYTES * tasks;
    let mut chunks = Vec::new();
    let mut scratch = Vec::new();
    for of_segment in described.chunk_by(|(_, a), (_, b)| a.id.segment() == b.id.segment()) {
        let mut writer = ChunkWriter::default();
        let mut classes: Vec<&TaskClass> = Vec::new();
        for (class, task) in of_segment {
            let known =
                classes.iter().position(|other| std::ptr::eq(*other, *class) || other == class);
            let new_class = if known.is_some() { Vec::new() } else { encode_class(class)? };
            let new_chunk = if classes.is_empty() { CHUNK_BYTES } else { 0 };
            let place = known.unwrap_or(classes.len());
            scratch.clear();
            task.put_as(&mut scratch, u32::try_from(place).unwrap_or(u32::MAX));
            let Some(rest) = room.checked_sub(new_chunk + new_class.len() + scratch.len()) else {
                continue;
            };
            room = rest;
            if known.is_none() {
                writer.class(&new_class);
                classes.push(class);
            }
            writer.task().extend_from_slice(&scratch);
        }
        if let Some((_, task)) = of_segment.first().filter(|_| !classes.is_empty()) {
            chunks.push((task.id.segment(), writer.finish()));
        }
    }
    Ok(chunks)
}

fn encode(
    run: RunId,
    epoch: &Epoch,
    tasks: &[Ready],
    chunks: &[(u32, Vec<u8>)],
    header: Option<&Header>,
) -> Result<Bytes, WireError> {
    limit("tasks of a parcel", tasks.len(), PARCEL_TASKS_MAX)?;
    limit("bytes of a store epoch", epoch.0.len(), EPOCH_BYTES_MAX)?;
    if tasks.is_empty() {
        return Err(WireError::Invalid("a parcel without tasks"));
    }
    let bytes: usize = chunks.iter().map(|(_, chunk)| CHUNK_BYTES + chunk.len()).sum();
    let fits = HEAD_BYTES + HEADER_BYTES_MAX + TASK_BYTES * tasks.len() + bytes <= PARCEL_BYTES_MAX;
    let chunks = if fits { chunks } else { &[] };
    let mut out = Vec::with_capacity(HEAD_BYTES + 2 * tasks.len() + bytes);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&run.to_bytes());
    put_bytes(&mut out, epoch.0.as_bytes());
    put_tasks(&mut out, tasks);
    put_varint(&mut out, chunks.len() as u64);
    for (segment, chunk) in chunks {
        put_varint(&mut out, u64::from(*segment));
        put_bytes(&mut out, chunk);
    }
    put_header(&mut out, header);
    Ok(Bytes::from(out))
}

/// A header that is too large is left out: it is in the store.
fn put_header(out: &mut Vec<u8>, header: Option<&Header>) {
    let pair = |(name, value): (&String, &String)| 2 * LENGTH_BYTES + name.len() + value.len();
    let small = |header: &&Header| header.iter().map(pair).sum::<usize>() <= HEADER_BYTES_MAX;
    let Some(header) = header.filter(small) else { return out.push(0) };
    put_varint(out, header.len() as u64 + 1);
    for text in header.iter().flat_map(|(name, value)| [name, value]) {
        put_bytes(out, text.as_bytes());
    }
}

fn take_header(reader: &mut Reader<'_>) -> Result<Option<Header>, WireError> {
    let count = reader.bounded("header of a run", HEADER_BYTES_MAX)?;
    let Some(count) = count.checked_sub(1) else { return Ok(None) };
    let mut header = Header::new();
    let mut text = || {
        let bytes = reader.bytes("header of a run")?;
        let text = std::str::from_utf8(bytes).map_err(|_| WireError::Invalid("header of a run"))?;
        Ok(text.to_owned())
    };
    for _ in 0..count {
        header.insert(text()?, text()?);
    }
    Ok(Some(header))
}

fn put_tasks(out: &mut Vec<u8>, tasks: &[Ready]) {
    put_varint(out, tasks.len() as u64);
    let mut last = 0;
    for ready in tasks {
        let bits = ready.task.to_bits();
        put_varint(out, fold(bits.wrapping_sub(last)));
        last = bits;
    }
    let special = |ready: &Ready| *ready != Ready::first(ready.task);
    put_varint(out, tasks.iter().filter(|ready| special(ready)).count() as u64);
    let mut last = 0;
    for (place, ready) in tasks.iter().enumerate().filter(|(_, ready)| special(ready)) {
        put_varint(out, (place - last) as u64);
        last = place;
        put_varint(out, u64::from(ready.generation));
        put_varint(out, ready.forwarded.map_or(0, |task| task.to_bits() + 1));
    }
}

fn take_epoch(reader: &mut Reader<'_>) -> Result<Epoch, WireError> {
    let bytes = reader.bytes("store epoch")?;
    limit("bytes of a store epoch", bytes.len(), EPOCH_BYTES_MAX)?;
    let text = std::str::from_utf8(bytes).map_err(|_| WireError::Invalid("store epoch"))?;
    Ok(Epoch(text.to_owned()))
}

fn take_tasks(reader: &mut Reader<'_>) -> Result<Vec<Ready>, WireError> {
    let count = reader.bounded("tasks of a parcel", PARCEL_TASKS_MAX)?;
    if count == 0 {
        return Err(WireError::Invalid("a parcel without tasks"));
    }
    let mut tasks = Vec::with_capacity(count);
    let mut last = 0_u64;
    for _ in 0..count {
        last = last.wrapping_add(unfold(reader.varint("task")?));
        tasks.push(Ready::first(TaskId::from_bits(last).ok_or(WireError::Invalid("task"))?));
    }
    let mut place = 0;
    for _ in 0..reader.bounded("rearmed tasks", count)? {
        place += reader.bounded("steps", count)?;
        let ready = tasks.get_mut(place).ok_or(WireError::Invalid("steps"))?;
        ready.generation = u8::try_from(reader.bounded("generation", usize::from(u8::MAX))?)
            .map_err(|_| WireError::Invalid("generation"))?;
        let forwarded = reader.varint("forwarded task")?.checked_sub(1).map(TaskId::from_bits);
        ready.forwarded =
            forwarded.map(|task| task.ok_or(WireError::Invalid("forwarded task"))).transpose()?;
    }
    Ok(tasks)
}

fn limit(what: &'static str, found: usize, limit: usize) -> Result<(), WireError> {
    if found <= limit {
        return Ok(());
    }
    Err(WireError::Limit { what, found: found as u64, limit: limit as u64 })
}

/// A difference in two's complement as a number that is small when the difference is: 0, -1, 1, …
/// become 0, 1, 2, …
fn fold(difference: u64) -> u64 {
    let sign = (difference >> 63).wrapping_neg();
    (difference << 1) ^ sign
}

fn unfold(folded: u64) -> u64 {
    (folded >> 1) ^ (folded & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::args::Arg;

    fn task(segment: u32, index: u16, argument: usize) -> Descriptor {
        Descriptor {
            id: TaskId::new(segment, index),
            class: 0,
            rank: 0,
            inputs: vec![],
            successors: vec![],
            args: vec![Arg::Value(Bytes::from(vec![0; argument]))],
        }
    }

    fn epoch() -> Epoch {
        Epoch("0123456789abcdef0123456789abcdef01234567".to_owned())
    }

    fn ready() -> impl Strategy<Value = Ready> {
        let id = || (0_u64..1 << 48).prop_filter_map("48 bits", TaskId::from_bits);
        let special = prop::option::weighted(0.2, (any::<u8>(), prop::option::of(id())));
        (id(), special).prop_map(|(task, special)| {
            let (generation, forwarded) = special.unwrap_or_default();
            Ready { task, generation, forwarded }
        })
    }

    proptest! {
        #[test]
        fn a_parcel_reads_back(
            run: u128,
            tasks in prop::collection::vec(ready(), 1..=PARCEL_TASKS_MAX),
            header in prop::option::of(prop::collection::btree_map(".{0,9}", ".{0,90}", 0..9)),
        ) {
            let run = RunId::from_bytes(run.to_be_bytes());
            let mut parcel = Parcel { run, epoch: epoch(), tasks, chunks: vec![], header };
            let bytes = parcel.encode().unwrap();
            let most = HEAD_BYTES + HEADER_BYTES_MAX + parcel.tasks.len() * TASK_BYTES;
            prop_assert!(bytes.len() <= most);
            let size = |header: &Header| -> usize {
                header.iter().map(|(name, value)| 4 + name.len() + value.len()).sum()
            };
            parcel.header = parcel.header.filter(|header| size(header) <= HEADER_BYTES_MAX);
            prop_assert_eq!(Parcel::decode(&bytes), Ok(parcel));
        }

        #[test]
        fn damage_is_an_error_or_another_parcel_but_never_a_panic(
            at: usize, byte: u8, cut: usize,
        ) {
            let class = TaskClass::relay("q");
            let tasks = [task(0, 1, 3), task(2, 0, 9)];
            let ids = [Ready { generation: 3, ..Ready::first(tasks[1].id) }, Ready::first(tasks[0].id)];
            let describe = |id| tasks.iter().find(|task| task.id == id).map(|task| (&class, task));
            let packed = Parcel::pack(RunId::new(1, 2), &epoch(), &ids, describe, 9);
            let mut bytes = packed.unwrap().remove(0).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut % (bytes.len() + 1));
            let _ = Parcel::decode(&Bytes::from(bytes));
        }

        #[test]
        fn any_bytes_are_no_panic(bytes: Vec<u8>) {
            let mut whole = MAGIC.to_vec();
            whole.extend_from_slice(&[0; 17]);
            whole.extend_from_slice(&bytes);
            let _ = Parcel::decode(&Bytes::from(whole));
        }
    }

    #[test]
    fn as_many_descriptors_ride_along_as_fit() {
        let class = TaskClass::relay("q");
        let tasks: Vec<_> = (0..200).map(|index| task(index / 100, 7, 1_000)).collect();
        let tasks: Vec<_> = tasks
            .into_iter()
            .zip(0_u16..)
            .map(|(task, index)| Descriptor { id: TaskId::new(task.id.segment(), index), ..task })
            .collect();
        let ids: Vec<_> = tasks.iter().rev().map(|task| Ready::first(task.id)).collect();
        let describe = |id| tasks.iter().find(|task| task.id == id).map(|task| (&class, task));
        let packed = Parcel::pack(RunId::new(1, 2), &epoch(), &ids, describe, 150).unwrap();
        let parcels: Vec<_> = packed.iter().map(|bytes| Parcel::decode(bytes).unwrap()).collect();
        assert_eq!(parcels.iter().map(|parcel| parcel.tasks.len()).collect::<Vec<_>>(), [150, 50]);
        assert_eq!([&parcels[0].tasks[..], &parcels[1].tasks[..]].concat(), ids);
        let described = |parcel: &Parcel| {
            let found = parcel.tasks.iter().filter_map(|ready| {
                let (found, descriptor) = parcel.describe(ready.task)?;
                assert_eq!((found, descriptor.id), (&class, ready.task));
                Some(())
            });
            found.count()
        };
        assert_eq!(described(&parcels[1]), 50);
        assert!((60..66).contains(&described(&parcels[0])), "{}", described(&parcels[0]));
        assert!(packed.iter().all(|bytes| bytes.len() <= PARCEL_BYTES_MAX));
    }

    #[test]
    fn every_task_of_a_parcel_may_be_of_a_class_of_its_own() {
        let class = |index: u16| TaskClass { task: index.to_string(), ..TaskClass::relay("") };
        let tasks: Vec<_> = (0..200).map(|index| (class(index), task(0, index, 0))).collect();
        let ids: Vec<_> = tasks.iter().map(|(_, task)| Ready::first(task.id)).collect();
        let describe = |id: TaskId| {
            let (class, task) = tasks.get(usize::from(id.index()))?;
            Some((class, task))
        };
        let packed = Parcel::pack(RunId::new(1, 2), &epoch(), &ids, describe, 200).unwrap();
        let parcel = Parcel::decode(&packed[0]).unwrap();
        let found = ids.iter().filter(|ready| {
            let described = parcel.describe(ready.task);
            described.is_none_or(|(found, _)| *found == class(ready.task.index()))
        });
        assert_eq!(found.count(), ids.len());
        assert!(parcel.chunks[0].1.classes.len() > CHUNK_TASKS, "not all fit");
    }

    #[test]
    fn descriptors_are_left_out_of_a_parcel_that_they_would_make_too_large() {
        let classes = vec![TaskClass::relay("q")];
        let chunk = Chunk { classes, tasks: vec![task(0, 0, PARCEL_BYTES_MAX)] };
        let tasks = vec![Ready::first(TaskId::new(0, 0))];
        let (run, chunks) = (RunId::new(1, 2), vec![(0, chunk)]);
        let parcel = Parcel { run, epoch: epoch(), tasks, chunks, header: None };
        let bytes = parcel.encode().unwrap();
        assert_eq!(Parcel::decode(&bytes), Ok(Parcel { chunks: vec![], ..parcel.clone() }));
        assert!(Parcel { tasks: vec![], ..parcel.clone() }.encode().is_err());
        assert!(Parcel { tasks: vec![parcel.tasks[0]; 257], ..parcel }.encode().is_err());
    }
}
