//! All of a run, read key by key: not at one moment, so only for runs that stand still.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::Value;

use super::{Redis, bytes, decode, list};
use crate::id::{RunId, TaskId};
use crate::run::{RunDump, SegmentDump, TaskDump};
use crate::state::StateByte;
use crate::store::Error;
use crate::wire::Reader;

impl Redis {
    pub(in crate::store) async fn dump(&self, run: RunId) -> Result<Option<RunDump>, Error> {
        let Some(status) = self.status(run).await? else { return Ok(None) };
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.keys.of(run, "s")).arg(0).arg(-1);
        let mut segments = BTreeMap::new();
        for number in list(self.servers.ask(&run, &range).await?)? {
            let number = text(number)?.parse().map_err(|_| damaged())?;
            segments.insert(number, self.segment(run, number).await?);
        }
        let (failures, suspects) = (self.counts(run, "f").await?, self.counts(run, "c").await?);
        let outbox = self.outbox(run).await?.into_iter().collect();
        Ok(Some(RunDump { status, segments, outbox, failures, suspects }))
    }

    async fn counts(&self, run: RunId, key: &str) -> Result<BTreeMap<TaskId, u32>, Error> {
        let mut counts = BTreeMap::new();
        for (task, count) in self.hash(run, key).await? {
            let task = decode::task(&mut Reader::new(&task))?;
            counts.insert(task, text_of(&count)?.parse().map_err(|_| damaged())?);
        }
        Ok(counts)
    }

    async fn segment(&self, run: RunId, number: u32) -> Result<SegmentDump, Error> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.arena(run, number));
        let arena = bytes(self.servers.ask(&run, &get).await?)?;
        let mut reader = Reader::new(&arena);
        let active = reader.take(4, "magic")? == b"BHA1";
        let n = decode::u32(&mut reader)? as usize;
        let cursor = decode::u32(&mut reader)?;
        reader.take(52, "head")?;
        let (states, pending) = (reader.take(n, "states")?, reader.take(4 * n, "pending")?);
        let (consumers, locators) = (reader.take(4 * n, "users")?, reader.take(8 * n, "where")?);
        reader.finish()?;
        let (mut pending, mut consumers) = (Reader::new(pending), Reader::new(consumers));
        let mut locators = Reader::new(locators);
        let mut tasks = Vec::with_capacity(n);
        for state in states {
            tasks.push(TaskDump {
                state: StateByte(*state),
                pending: decode::u32(&mut pending)?,
                consumers: decode::u32(&mut consumers)?,
                locator: locators.array("locator")?,
                record: None,
                later: Vec::new(),
            });
        }
        for (index, list) in self.hash(run, &format!("x:{number}")).await? {
            let mut list = Reader::new(&list);
            let task = tasks.get_mut(place(&index)?).ok_or_else(damaged)?;
            while !list.rest().is_empty() {
                task.later.push(decode::task(&mut list)?);
            }
        }
        for bucket in 0..n.div_ceil(64) {
            for (index, record) in self.hash(run, &format!("r:{number}:{bucket}")).await? {
                tasks.get_mut(place(&index)?).ok_or_else(damaged)?.record = Some(record);
            }
        }
        Ok(SegmentDump { active, cursor, tasks })
    }

    async fn hash(&self, run: RunId, rest: &str) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let mut all = redis::cmd("HGETALL");
        all.arg(self.keys.of(run, rest));
        let mut values = list(self.servers.ask(&run, &all).await?)?.into_iter();
        let mut pairs = Vec::new();
        while let (Some(field), Some(value)) = (values.next(), values.next()) {
            pairs.push((bytes(field)?, bytes(value)?));
        }
        Ok(pairs)
    }
}

fn damaged() -> Error {
    Error::Corrupt("a key of a run".to_owned())
}

fn text(value: Value) -> Result<String, Error> {
    text_of(&bytes(value)?)
}

fn text_of(bytes: &[u8]) -> Result<String, Error> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged())
}

fn place(index: &[u8]) -> Result<usize, Error> {
    Ok(TaskId::new(0, text_of(index)?.parse().map_err(|_| damaged())?).index().into())
}
