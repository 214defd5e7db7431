//! The audit stream: entries as the functions write them, decoded.

use bytes::Bytes;
use redis::Value;

use super::decode::{self, DONE, OTHER, OTHER_LIFE, Reply, UNKNOWN};
use super::{Redis, bytes, list};
use crate::audit::{Call, Entry};
use crate::id::{Incarnation, TaskId};
use crate::locator::Locator;
use crate::run::{
    Activate, Commit, End, Finished, LeaseRequest, Lost, Relocation, Retried, Retry, Revive,
    Setback,
};
use crate::state::{FORWARDED, StateByte, TaskState};
use crate::store::Error;
use crate::wire::{Reader, WireError};

/// Entries read at once: each names up to 256 tasks, twice.
const PAGE: usize = 1_000;

impl Redis {
    /// Creates the stream: from now on the functions write to it. There is none in a cluster, where a
    /// function cannot write beside its run.
    pub(in crate::store) async fn start_audit(&self) -> Result<(), Error> {
        if self.servers.is_cluster() {
            let reason = "it is a cluster, which has no order of all changes".to_owned();
            return Err(Error::Unsuitable { address: self.address().to_owned(), reason });
        }
        let mut add = redis::cmd("XADD");
        add.arg(self.keys.audit()).arg("*").arg("op").arg("start");
        self.servers.ask(&0, &add).await.map(drop)
    }

    /// All that was written down so far.
    pub(in crate::store) async fn audit(&self) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let mut after = "-".to_owned();
        loop {
            let mut read = redis::cmd("XRANGE");
            read.arg(self.keys.audit()).arg(&after).arg("+").arg("COUNT").arg(PAGE);
            let page = list(self.servers.ask(&0, &read).await?)?;
            let Some(last) = page.last().cloned() else { return Ok(entries) };
            let mut id = list(last)?.into_iter();
            let id = bytes(id.next().unwrap_or(Value::Nil))?;
            after = format!("({}", String::from_utf8_lossy(&id));
            for value in page {
                entries.extend(entry(value)?);
            }
        }
    }
}

/// Calls which are decoded, but for commits and retries, whose refusals are answers.
const NAMED: [&str; 12] = [
    "activate", "rearm", "revive", "relocate", "lease", "unlease", "evict", "unpin", "close",
    "cancel", "resume", "settle",
];

/// The fields of an entry, by their places.
const FIELDS: [&str; 6] = ["op", "run", "ms", "wrote", "reply", "args"];

/// One entry; `None` for that which has begun the stream.
fn entry(value: Value) -> Result<Option<Entry>, Error> {
    let mut parts = list(value)?.into_iter().skip(1);
    let fields = list(parts.next().unwrap_or(Value::Nil))?;
    let fields: Vec<Bytes> = fields.into_iter().map(bytes).collect::<Result<_, _>>()?;
    let pairs: Vec<&[Bytes]> = fields.chunks(2).collect();
    if pairs.len() == 1 {
        return Ok(None);
    }
    let damaged = || Error::Corrupt("an entry of the audit".to_owned());
    let named = pairs.iter().map(|pair| pair[0].as_ref()).eq(FIELDS.map(str::as_bytes));
    let values: Vec<&Bytes> = pairs.iter().filter_map(|pair| pair.get(1)).collect();
    let [op, run, ms, wrote, reply, args] = values[..] else { return Err(damaged()) };
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).map_err(|_| damaged());
    let key = text(run)?;
    let run = key.split(['{', '}']).nth(1).and_then(|run| run.parse().ok());
    let (Some(run), true) = (run, named) else { return Err(damaged()) };
    let mut reader = Reader::new(args);
    let mut arguments = Vec::new();
    while !reader.rest().is_empty() {
        let length = decode::u32(&mut reader)? as usize;
        arguments.push(reader.take(length, "argument")?);
    }
    let call = call(&text(op)?, &arguments, reply)?;
    let at_ms = text(ms)?.parse().map_err(|_| damaged())?;
    Ok(Some(Entry { run, at_ms, wrote: wrote.as_ref() == b"1", call }))
}

fn call(op: &str, arguments: &[&[u8]], reply: &[u8]) -> Result<Call, Error> {
    let reply = Reply::new(reply)?;
    let first = Reader::new(arguments.first().copied().unwrap_or_default());
    Ok(match (op, reply.code) {
        ("commit", OTHER_LIFE) => Call::Refused(op.to_owned()),
        ("commit", _) => Call::Commit(commit(arguments)?, decode::committed(reply)?),
        ("retry", OTHER | UNKNOWN) => Call::Retry(retry(first)?, Retried::Stale),
        ("retry", DONE) => {
            let mut rest = reply.rest;
            Call::Retry(retry(first)?, Retried::Due { at_ms: decode::u64(&mut rest)? })
        }
        (op, code) if code != DONE && NAMED.contains(&op) => Call::Refused(op.to_owned()),
        ("activate", _) => Call::Activate(activate(arguments)?, decode::activated(reply.rest)?),
        ("rearm", _) => {
            let lost = arguments.iter().map(|argument| lost(argument));
            Call::Rearm(lost.collect::<Result<_, _>>()?, decode::rearmed(reply.rest)?)
        }
        ("revive", _) => {
            let tasks = arguments.iter().map(|argument| revive(argument));
            Call::Revive(tasks.collect::<Result<_, _>>()?, decode::revived(reply.rest)?)
        }
        ("relocate", _) => {
            let results = arguments.iter().map(|argument| relocation(argument));
            Call::Relocate(results.collect::<Result<_, _>>()?, decode::relocated(reply.rest)?)
        }
        ("lease", _) => {
            let (holder, requests) = (Incarnation::from_bytes(first_16(first)?), arguments.get(1));
            let requests = leases(Reader::new(requests.copied().unwrap_or_default()))?;
            Call::Lease { holder, requests, answers: decode::leased(reply.rest)? }
        }
        ("evict", _) => {
            let holder = Incarnation::from_bytes(first_16(first)?);
            Call::Evict(holder, decode::ready(reply.rest.rest())?)
        }
        ("unlease", _) => Call::Unlease(nonces(first)?),
        ("unpin", _) => {
            let tasks = groups(first)?.into_iter().map(|(task, _)| task).collect();
            Call::Unpin(tasks, decode::freed(reply.rest)?)
        }
        ("close" | "cancel" | "resume", _) => {
            let mut rest = reply.rest;
            Call::Steer(decode::state(&mut rest)?)
        }
        ("settle", _) => Call::Settle(decode::outbox_id(first.rest())?),
        _ => Call::Other(op.to_owned()),
    })
}

fn first_16(mut reader: Reader<'_>) -> Result<[u8; 16], WireError> {
    reader.array("holder")
}

fn locator(reader: &mut Reader<'_>) -> Result<Locator, WireError> {
    Locator::from_bytes(reader.array("locator")?)
}

/// A nonce, when there is one.
fn nonce(reader: &mut Reader<'_>) -> Result<Option<u64>, WireError> {
    let some = reader.byte("leased")? == 1;
    let nonce = decode::u64(reader)?;
    Ok(some.then_some(nonce))
}

/// Tasks with a count each, ascending, each once.
fn groups(mut reader: Reader<'_>) -> Result<Vec<(TaskId, u32)>, WireError> {
    let mut out: Vec<(TaskId, u32)> = Vec::new();
    while !reader.rest().is_empty() {
        let first = decode::task(&mut reader)?;
        let span = decode::u16(&mut reader)?;
        for place in 0..span {
            let count = u32::from(reader.byte("count")?);
            if count > 0 {
                let index = first.index().checked_add(place).ok_or(WireError::Invalid("group"))?;
                out.push((TaskId::new(first.segment(), index), count));
            }
        }
    }
    out.sort_unstable();
    out.dedup_by(|(task, count), (before, sum)| {
        let same = task == before;
        *sum += if same { *count } else { 0 };
        same
    });
    Ok(out)
}

fn commit(arguments: &[&[u8]]) -> Result<Commit, Error> {
    let argument = |number: usize| {
        let bytes = arguments.get(number - 1).copied();
        bytes.ok_or_else(|| Error::Corrupt("a commit in the audit".to_owned()))
    };
    let mut fixed = Reader::new(argument(1)?);
    let segment = decode::u32(&mut fixed)?;
    fixed.take(4, "counts")?;
    let (spawned, digest) = (decode::u32(&mut fixed)?, fixed.array("digest")?);
    let mut runs = Reader::new(argument(3)?);
    let mut indexes = Vec::new();
    while !runs.rest().is_empty() {
        let (first, length) = (decode::u16(&mut runs)?, decode::u16(&mut runs)?);
        indexes.extend((first..=u16::MAX).take(usize::from(length)));
    }
    let (expected, states) = (argument(4)?.iter(), argument(5)?.iter());
    let mut locators = Reader::new(argument(6)?);
    let mut finished = Vec::new();
    for ((index, expected), state) in indexes.into_iter().zip(expected).zip(states) {
        let (locator, state) = (locator(&mut locators)?, StateByte(*state));
        let end = match (state.state(), locator) {
            (TaskState::Skipped, Locator::Cause(cause)) => End::Skipped { cause },
            (TaskState::Failed, _) => End::Failed { error: Bytes::new() },
            _ => End::Done { locator, record: Bytes::new(), keep: false },
        };
        let generation = StateByte(*expected & !FORWARDED).generation();
        finished.push(Finished { index, generation, end, lease: None });
    }
    special_ends(Reader::new(argument(9)?), &mut finished)?;
    let settled = String::from_utf8_lossy(argument(11)?).into_owned();
    let settled = settled.split_whitespace().map(|field| decode::outbox_id(field.as_bytes()));
    Ok(Commit {
        segment,
        finished,
        releases: groups(Reader::new(argument(7)?))?,
        consumed: groups(Reader::new(argument(8)?))?,
        outbox: decode::outbox_id(argument(2)?)?,
        settled: settled.map(|id| Ok(id?.sequence)).collect::<Result<_, Error>>()?,
        spawn: (spawned > 0).then_some((spawned, digest)),
    })
}

fn special_ends(mut reader: Reader<'_>, finished: &mut [Finished]) -> Result<(), WireError> {
    while !reader.rest().is_empty() {
        let (place, kind) = (decode::u16(&mut reader)?, reader.byte("kind")?);
        let (lease, to) = (nonce(&mut reader)?, decode::task(&mut reader)?);
        let one = finished.get_mut(usize::from(place)).ok_or(WireError::Invalid("place"))?;
        one.lease = lease;
        match (kind, &mut one.end) {
            (2, End::Done { keep, .. }) => *keep = true,
            (3, end) => *end = End::Forwarded { to },
            _ => {}
        }
    }
    Ok(())
}

fn activate(arguments: &[&[u8]]) -> Result<Activate, WireError> {
    let mut fixed = Reader::new(arguments.first().copied().unwrap_or_default());
    let (segment, cursor) = (decode::u32(&mut fixed)?, decode::u32(&mut fixed)?);
    let last = fixed.byte("last")? == 1;
    let digest = fixed.array("digest")?;
    let mut reader = Reader::new(arguments.get(1).copied().unwrap_or_default());
    let mut edges = Vec::new();
    while !reader.rest().is_empty() {
        edges.push((decode::task(&mut reader)?, decode::u16(&mut reader)?));
    }
    Ok(Activate { segment, digest, cursor, edges, last })
}

fn retry(mut reader: Reader<'_>) -> Result<Retry, WireError> {
    let (task, generation) = (decode::task(&mut reader)?, reader.byte("generation")?);
    let setback = match reader.byte("setback")? {
        0 => Setback::Failed,
        1 => Setback::Stuck,
        _ => Setback::Crashed,
    };
    let (attempt, lease) = (decode::u32(&mut reader)?, nonce(&mut reader)?);
    Ok(Retry { task, generation, setback, attempt, lease, delay_ms: decode::u64(&mut reader)? })
}

/// Inputs and successors.
fn edges(reader: &mut Reader<'_>) -> Result<(Vec<TaskId>, Vec<TaskId>), WireError> {
    let (inputs, successors) = (decode::u32(reader)?, decode::u32(reader)?);
    let mut some = |count| (0..count).map(|_| decode::task(reader)).collect();
    let inputs: Result<_, _> = some(inputs);
    Ok((inputs?, some(successors)?))
}

fn lost(argument: &[u8]) -> Result<Lost, WireError> {
    let mut reader = Reader::new(argument);
    let (task, locator) = (decode::task(&mut reader)?, locator(&mut reader)?);
    let (inputs, successors) = edges(&mut reader)?;
    Ok(Lost { task, locator, inputs, successors })
}

fn revive(argument: &[u8]) -> Result<Revive, WireError> {
    let mut reader = Reader::new(argument);
    let (task, generation) = (decode::task(&mut reader)?, reader.byte("generation")?);
    let (inputs, successors) = edges(&mut reader)?;
    Ok(Revive { task, generation, inputs, successors })
}

fn relocation(argument: &[u8]) -> Result<Relocation, WireError> {
    let mut reader = Reader::new(argument);
    let (task, generation) = (decode::task(&mut reader)?, reader.byte("generation")?);
    let (from, to) = (locator(&mut reader)?, locator(&mut reader)?);
    Ok(Relocation { task, generation, from, to, record: Bytes::new() })
}

fn leases(mut reader: Reader<'_>) -> Result<Vec<LeaseRequest>, WireError> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        let (task, generation) = (decode::task(&mut reader)?, reader.byte("generation")?);
        let some = reader.byte("over")? == 1;
        let (nonce, over) = (decode::u64(&mut reader)?, decode::u64(&mut reader)?);
        out.push(LeaseRequest { task, generation, nonce, over: some.then_some(over) });
    }
    Ok(out)
}

fn nonces(mut reader: Reader<'_>) -> Result<Vec<(TaskId, u64)>, WireError> {
    let mut out = Vec::new();
    while !reader.rest().is_empty() {
        out.push((decode::task(&mut reader)?, decode::u64(&mut reader)?));
    }
    Ok(out)
}
