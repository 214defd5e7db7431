//! Replies of the functions. The reader trusts nothing: what no function writes is damage.

use bytes::Bytes;

use super::super::Error;
use crate::id::{Incarnation, TaskId, WorkerIndex};
use crate::limits;
use crate::locator::Locator;
use crate::run::{
    Activated, Committed, FinishedEvent, FreedResult, Leased, OutboxId, Ready, Rearmed, Reason,
    Refused, Revived, RunStatus, TaskStatus,
};
use crate::state::{KEPT, RunState, StateByte, TaskState};
use crate::wire::{Reader, WireError};

/// Bytes of a run's header.
pub(super) const HEADER: usize = 104;
/// Tasks in one list of ready ones: those of a segment that a task has submitted, and its successors.
const READY_MAX: usize = 2 * limits::SEGMENT_TASKS_MAX;
/// The state byte of a place in a span where nothing was freed.
const NOT_FREED: u8 = 255;

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        Self::Corrupt(format!("a reply of a function: {error}"))
    }
}

/// A reply: its code and a reader of the rest.
pub(super) struct Reply<'a> {
    pub(super) code: u8,
    pub(super) rest: Reader<'a>,
}

/// Codes that mean the same in every reply.
pub(super) const DONE: u8 = 0;
pub(super) const UNKNOWN: u8 = 1;
pub(super) const NOT_OPEN: u8 = 2;
pub(super) const OTHER: u8 = 3;
pub(super) const MALFORMED: u8 = 4;
pub(super) const AGAIN: u8 = 5;
pub(super) const OTHER_LIFE: u8 = 6;
pub(super) const INCOMPLETE: u8 = 7;

impl<'a> Reply<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        let mut rest = Reader::new(bytes);
        Ok(Self { code: rest.byte("code")?, rest })
    }

    /// The error that the code stands for.
    pub(super) fn refused(mut self) -> Error {
        match self.code {
            UNKNOWN => Refused::Unknown.into(),
            NOT_OPEN => match state(&mut self.rest) {
                Ok(state) => Refused::NotOpen(state).into(),
                Err(error) => error,
            },
            OTHER => Refused::Conflict.into(),
            MALFORMED => Refused::Malformed(reason(self.rest.byte("reason").ok())).into(),
            INCOMPLETE => Refused::Incomplete.into(),
            code => Error::Corrupt(format!("a function answered with code {code}")),
        }
    }
}

fn reason(number: Option<u8>) -> &'static str {
    match number {
        Some(1) => "the columns differ in length",
        Some(2) => "the number of chunks does not fit the tasks",
        Some(3) => "it was not staged",
        Some(4) => "a slice has too many edges",
        _ => "an edge does not come from an earlier segment",
    }
}

pub(super) fn u16(reader: &mut Reader<'_>) -> Result<u16, WireError> {
    Ok(u16::from_be_bytes(reader.array("number")?))
}

pub(super) fn u32(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    Ok(u32::from_be_bytes(reader.array("number")?))
}

pub(super) fn u64(reader: &mut Reader<'_>) -> Result<u64, WireError> {
    Ok(u64::from_be_bytes(reader.array("number")?))
}

pub(super) fn task(reader: &mut Reader<'_>) -> Result<TaskId, WireError> {
    let segment = u32(reader)?;
    Ok(TaskId::new(segment, u16(reader)?))
}

pub(super) fn state(reader: &mut Reader<'_>) -> Result<RunState, Error> {
    let number = reader.byte("state of a run")?;
    RunState::from_number(number).ok_or_else(|| WireError::Invalid("state of a run").into())
}

fn locator(reader: &mut Reader<'_>) -> Result<Locator, WireError> {
    Locator::from_bytes(reader.array("locator")?)
}

/// Indexes of ready tasks, from pairs of first and last, ascending.
pub(super) fn ranges(mut reader: Reader<'_>) -> Result<Vec<u16>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        let (first, last) = (u16(&mut reader)?, u16(&mut reader)?);
        if first > last || out.last().is_some_and(|before| *before >= first) {
            return Err(WireError::Invalid("range").into());
        }
        out.extend(first..=last);
    }
    Ok(out)
}

/// Ready tasks, ascending, each once.
pub(super) fn ready(bytes: &[u8]) -> Result<Vec<Ready>, Error> {
    let mut out = Vec::new();
    if bytes.is_empty() {
        return Ok(out);
    }
    let mut reader = Reader::new(bytes);
    for _ in 0..u16(&mut reader)? {
        let id = task(&mut reader)?;
        let (generation, is_forwarded) = (reader.byte("generation")?, reader.byte("forwarded")?);
        let target = task(&mut reader)?;
        let forwarded = (is_forwarded == 1).then_some(target);
        out.push(Ready { task: id, generation, forwarded });
    }
    while !reader.rest().is_empty() {
        let (segment, count) = (u32(&mut reader)?, u16(&mut reader)?);
        for _ in 0..count & 0x7fff {
            let first = u16(&mut reader)?;
            let last = if count & 0x8000 == 0 { first } else { u16(&mut reader)? };
            if out.len() + usize::from(last.saturating_sub(first)) >= READY_MAX {
                return Err(WireError::Invalid("number of ready tasks").into());
            }
            let one = |index| Ready::first(TaskId::new(segment, index));
            out.extend((first..=last).map(one));
        }
    }
    // The stable one: it merges ascending runs, which is what groups are.
    out.sort();
    out.dedup();
    Ok(out)
}

/// What was freed, span by span.
pub(super) fn freed(mut reader: Reader<'_>) -> Result<Vec<FreedResult>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        let first = task(&mut reader)?;
        let span = u16(&mut reader)?;
        let mut states = Reader::new(reader.take(usize::from(span), "states")?);
        for offset in 0..span {
            let (byte, stored) = (states.byte("state")?, reader.array("locator")?);
            if byte == NOT_FREED {
                continue;
            }
            let index = first.index().checked_add(offset);
            let index = index.ok_or(WireError::Invalid("span"))?;
            out.push(FreedResult {
                task: TaskId::new(first.segment(), index),
                generation: StateByte(byte).generation(),
                locator: Locator::from_bytes(stored)?,
            });
        }
    }
    Ok(out)
}

/// `activate`.
pub(super) fn activated(mut reader: Reader<'_>) -> Result<Activated, Error> {
    match reader.byte("progress")? {
        0 => Ok(Activated::More { cursor: u32(&mut reader)? }),
        1 => Ok(Activated::Active { ready: ranges(reader)? }),
        _ => Ok(Activated::Already),
    }
}

/// `commit`.
pub(super) fn committed(mut reply: Reply<'_>) -> Result<Committed, Error> {
    let rest = &mut reply.rest;
    match reply.code {
        DONE => {
            let run = state(rest)?;
            let length = u32(rest)? as usize;
            let ready = ready(rest.take(length, "ready tasks")?)?;
            Ok(Committed::Written { ready, freed: freed(*rest)?, run })
        }
        UNKNOWN => Ok(Committed::NotRunning(None)),
        NOT_OPEN => Ok(Committed::NotRunning(Some(state(rest)?))),
        OTHER => {
            let mut out = Vec::new();
            while !rest.rest().is_empty() {
                out.push((StateByte(rest.byte("state")?), locator(rest)?));
            }
            Ok(Committed::Superseded(out))
        }
        _ => Err(reply.refused()),
    }
}

/// `rearm`.
pub(super) fn rearmed(mut reader: Reader<'_>) -> Result<Vec<Rearmed>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        let (code, pending) = (reader.byte("outcome")?, u32(&mut reader)?);
        out.push(match code {
            0 => Rearmed::Pending(pending),
            1 => Rearmed::Already,
            2 => Rearmed::Moved,
            3 => Rearmed::TooOften,
            5 => Rearmed::Kept,
            _ => Rearmed::NotNeeded,
        });
    }
    Ok(out)
}

/// `revive`.
pub(super) fn revived(mut reader: Reader<'_>) -> Result<Vec<Revived>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        let (code, pending) = (reader.byte("outcome")?, u32(&mut reader)?);
        out.push(match code {
            0 => Revived::Pending(pending),
            1 => Revived::Stale,
            2 => Revived::TooOften,
            _ => Revived::NotEnded,
        });
    }
    Ok(out)
}

/// `relocate`.
pub(super) fn relocated(mut reader: Reader<'_>) -> Result<Vec<bool>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        out.push(reader.byte("outcome")? == 1);
    }
    Ok(out)
}

/// Says of a task that it is no suspect.
const NO_SUSPECT: u32 = u32::MAX;

/// `lease`.
pub(super) fn leased(mut reader: Reader<'_>) -> Result<Vec<Leased>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        let mut one = Reader::new(reader.take(25, "lease")?);
        out.push(match one.byte("outcome")? {
            0 => Leased::Granted {
                attempt: u32(&mut one)?,
                crashes: Some(u32(&mut one)?).filter(|crashes| *crashes != NO_SUSPECT),
            },
            1 => Leased::Taken {
                holder: Incarnation::from_bytes(one.array("holder")?),
                nonce: u64(&mut one)?,
            },
            2 => Leased::Over,
            _ => Leased::NotDue { at_ms: u64(&mut one)? },
        });
    }
    Ok(out)
}

/// `inspect`.
pub(super) fn statuses(mut reader: Reader<'_>) -> Result<Vec<Option<TaskStatus>>, Error> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        if reader.byte("known")? == 0 {
            out.push(None);
            continue;
        }
        let state = StateByte(reader.byte("state")?);
        let (pending, consumers) = (u32(&mut reader)?, u32(&mut reader)?);
        let locator = locator(&mut reader)?;
        let (failures, recorded) = (u32(&mut reader)?, reader.byte("recorded")? == 1);
        let length = u32(&mut reader)? as usize;
        let record = Bytes::copy_from_slice(reader.take(length, "record")?);
        let record = recorded.then_some(record);
        out.push(Some(TaskStatus { state, pending, consumers, locator, record, failures }));
    }
    Ok(out)
}

/// `status`.
pub(super) fn status(mut reader: Reader<'_>) -> Result<RunStatus, Error> {
    let mut header = Reader::new(reader.take(HEADER, "header")?);
    header.magic(*b"BHR1", "the header of a run")?;
    let state = state(&mut header)?;
    header.take(3, "policy")?;
    let (tasks, finished, failed) = (u64(&mut header)?, u64(&mut header)?, u64(&mut header)?);
    let (spawned, segments) = (u32(&mut header)?, u32(&mut header)?);
    let mut field = || -> Result<&[u8], Error> {
        let length = u32(&mut reader)? as usize;
        Ok(reader.take(length, "field")?)
    };
    let (name, map, why) = (field()?, field()?, field()?);
    let header = rmp_serde::from_slice(map).map_err(|_| WireError::Invalid("header map"))?;
    let name = (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned());
    let reason = self::why(why)?;
    Ok(RunStatus { state, tasks, finished, failed, segments, spawned, name, header, reason })
}

fn why(bytes: &[u8]) -> Result<Option<Reason>, Error> {
    match bytes.split_first() {
        None => Ok(None),
        Some((b'T', id)) => Ok(Some(Reason::Task(task(&mut Reader::new(id))?))),
        Some((_, text)) => Ok(Some(Reason::Cancelled(String::from_utf8_lossy(text).into_owned()))),
    }
}

/// Finished tasks of one entry of the event stream.
pub(super) fn events(bytes: &[u8], out: &mut Vec<FinishedEvent>) -> Result<(), Error> {
    let mut reader = Reader::new(bytes);
    while !reader.rest().is_empty() {
        let task = task(&mut reader)?;
        let state = StateByte(reader.byte("state")?);
        out.push(FinishedEvent { task, state, locator: locator(&mut reader)? });
    }
    Ok(())
}

/// The name of an outbox entry.
pub(super) fn outbox_id(field: &[u8]) -> Result<OutboxId, Error> {
    let damaged = || Error::Corrupt("the name of an outbox entry".to_owned());
    let text = std::str::from_utf8(field).map_err(|_| damaged())?;
    let (owner, sequence) = text.split_once(':').ok_or_else(damaged)?;
    let owner = u128::from_str_radix(owner, 16).map_err(|_| damaged())?;
    let sequence = sequence.parse().map_err(|_| damaged())?;
    Ok(OutboxId { owner: Incarnation::new(owner), sequence })
}

/// States and pending counts of a segment.
pub(super) type Columns<'a> = (&'a [u8], &'a [u8]);

/// The columns of an active segment.
pub(super) fn columns(arena: &[u8]) -> Result<Option<Columns<'_>>, Error> {
    if arena.is_empty() {
        return Ok(None);
    }
    let mut reader = Reader::new(arena);
    let magic: [u8; 4] = reader.array("magic")?;
    let n = u32(&mut reader)? as usize;
    reader.take(56, "arena")?;
    match &magic {
        b"BHA0" => Ok(None),
        b"BHA1" => Ok(Some((reader.take(n, "states")?, reader.take(4 * n, "pending")?))),
        _ => Err(Error::Corrupt("the arena of a segment".to_owned())),
    }
}

/// Tasks that are pending with no pending input, by their columns.
pub(super) fn candidates(segment: u32, states: &[u8], pending: &[u8]) -> Vec<TaskId> {
    let words = pending.chunks_exact(4).zip(states).enumerate();
    let ready = words.filter(|(_, (word, byte))| {
        **word == [0; 4] && StateByte(**byte).state() == TaskState::Pending
    });
    let tasks = ready.filter_map(|(place, _)| u16::try_from(place).ok());
    tasks.map(|index| TaskId::new(segment, index)).collect()
}

/// Results of an active arena that `worker` holds and that someone still needs.
pub(super) fn held_by(
    arena: &[u8],
    segment: u32,
    worker: WorkerIndex,
) -> Result<Vec<(TaskId, Locator)>, Error> {
    let mut reader = Reader::new(arena);
    if arena.is_empty() || reader.take(4, "magic")? != b"BHA1" {
        return Ok(Vec::new());
    }
    let n = u32(&mut reader)? as usize;
    reader.take(56 + 5 * n, "states and pending counts")?;
    let consumers = reader.take(4 * n, "consumers")?.chunks_exact(4);
    let locators = reader.take(8 * n, "locators")?.chunks_exact(8);
    let mut held = Vec::new();
    for ((needed, stored), index) in consumers.zip(locators).zip(0_u16..=u16::MAX) {
        let needed = Reader::new(needed).array("consumers")?;
        let locator = Locator::from_bytes(Reader::new(stored).array("locator")?)?;
        if matches!(locator, Locator::Held { worker: holder, .. } if holder == worker)
            && u32::from_be_bytes(needed) & !KEPT != 0
        {
            held.push((TaskId::new(segment, index), locator));
        }
    }
    Ok(held)
}
