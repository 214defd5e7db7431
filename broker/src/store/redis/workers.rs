//! Workers: records that run out unless they are renewed.

use std::time::Duration;

use redis::Value;

use super::decode::{self, DONE, Reply};
use super::library::Function;
use super::{Redis, bytes, fcall, fcall_of, list, optional_bytes};
use crate::clock;
use crate::id::{Incarnation, WorkerIndex};
use crate::limits;
use crate::store::{Error, WorkerRecord};

impl Redis {
    pub(in crate::store) async fn join(
        &self,
        record: &WorkerRecord,
        hold: Duration,
    ) -> Result<WorkerIndex, Error> {
        let value = record.encode()?;
        loop {
            let [a, b, c] = clock::random_bytes::<3>();
            let index = WorkerIndex::new(u32::from_be_bytes([0, a, b, c]));
            let mut set = redis::cmd("SET");
            set.arg(self.keys.worker(index)).arg(&value[..]).arg("NX");
            set.arg("PX").arg(millis(hold));
            if self.servers.ask(&index, &set).await? != Value::Nil {
                self.note(index).await?;
                return Ok(index);
            }
        }
    }

    pub(in crate::store) async fn beat(
        &self,
        index: WorkerIndex,
        record: &WorkerRecord,
        hold: Duration,
    ) -> Result<bool, Error> {
        let value = record.encode()?;
        let mut set = redis::cmd("SET");
        set.arg(self.keys.worker(index)).arg(&value[..]).arg("PX").arg(millis(hold)).arg("GET");
        let before = match self.servers.ask(&index, &set).await {
            // What is new finds no room, but who lives must not look dead: the record there is stays.
            Err(full @ Error::Full { .. }) => {
                let stays = self.prolong(index, hold).await?;
                return if stays { Ok(true) } else { Err(full) };
            }
            answer => answer?,
        };
        // Each time: that it was a worker before does not say that the others know.
        self.note(index).await?;
        self.servers.look_at_all().await?;
        Ok(before != Value::Nil)
    }

    /// Lets a record stand for longer as it is; false when there is none.
    async fn prolong(&self, index: WorkerIndex, hold: Duration) -> Result<bool, Error> {
        let mut expire = redis::cmd("PEXPIRE");
        expire.arg(self.keys.worker(index)).arg(millis(hold));
        Ok(self.servers.ask(&index, &expire).await? == Value::Int(1))
    }

    /// Says that a worker with a record lives.
    async fn note(&self, index: WorkerIndex) -> Result<(), Error> {
        let mut add = redis::pipe();
        add.cmd("SADD").arg(self.keys.workers()).arg(index.get());
        add.cmd("ZREM").arg(self.keys.deaths()).arg(index.get());
        self.servers.ask_all(&index, &add).await.map(drop)
    }

    pub(in crate::store) async fn leave(&self, index: WorkerIndex) -> Result<(), Error> {
        let mut remove = redis::pipe();
        remove.cmd("UNLINK").arg(self.keys.worker(index));
        remove.cmd("SREM").arg(self.keys.workers()).arg(index.get());
        remove.cmd("ZREM").arg(self.keys.deaths()).arg(index.get());
        self.servers.ask_all(&index, &remove).await.map(drop)
    }

    pub(in crate::store) async fn deaths(&self) -> Result<Vec<WorkerIndex>, Error> {
        // Notes those that nobody has missed yet.
        self.workers().await?;
        let since = clock::unix_ms().saturating_sub(as_millis(limits::DEATH_MEMORY));
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.keys.deaths()).arg(since).arg("+inf").arg("BYSCORE");
        indexes(self.servers.ask(&0, &range).await?)
    }

    pub(in crate::store) async fn worker(
        &self,
        index: WorkerIndex,
    ) -> Result<Option<WorkerRecord>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.worker(index));
        let value = optional_bytes(self.servers.ask(&index, &get).await?)?;
        Ok(value.map(|bytes| WorkerRecord::decode(&bytes)).transpose()?)
    }

    pub(in crate::store) async fn workers(
        &self,
    ) -> Result<Vec<(WorkerIndex, WorkerRecord)>, Error> {
        let all = self.members().await?;
        self.living(&all).await
    }

    pub(in crate::store) async fn neighbours(
        &self,
        index: WorkerIndex,
        count: usize,
    ) -> Result<Vec<(WorkerIndex, WorkerRecord)>, Error> {
        let mut others = self.members().await?;
        let after = others.partition_point(|other| *other <= index);
        others.rotate_left(after);
        others.retain(|other| *other != index);
        let mut near = Vec::new();
        for part in others.chunks(count.max(1)) {
            near.extend(self.living(part).await?);
            if near.len() >= count {
                break;
            }
        }
        near.truncate(count);
        Ok(near)
    }

    /// The indexes of all workers that nobody has missed, in their order.
    async fn members(&self) -> Result<Vec<WorkerIndex>, Error> {
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.keys.workers());
        let mut indexes = indexes(self.servers.ask(&0, &members).await?)?;
        indexes.sort_unstable();
        Ok(indexes)
    }

    /// The records of those that have one; of the others it is noted that they are dead.
    async fn living(
        &self,
        indexes: &[WorkerIndex],
    ) -> Result<Vec<(WorkerIndex, WorkerRecord)>, Error> {
        if indexes.is_empty() {
            return Ok(Vec::new());
        }
        let mut read = redis::pipe();
        for index in indexes {
            read.cmd("GET").arg(self.keys.worker(*index));
        }
        let records = self.servers.ask_all(&0, &read).await?;
        let mut living = Vec::new();
        let mut dead = Vec::new();
        for (index, record) in indexes.iter().zip(records) {
            match optional_bytes(record)? {
                Some(bytes) => match WorkerRecord::decode(&bytes) {
                    Ok(record) => living.push((*index, record)),
                    // It lives, for it renews its record, but in another version: of it alone
                    // nothing is known here.
                    Err(error) => tracing::warn!(%index, %error, "a worker cannot be understood"),
                },
                None => dead.push(*index),
            }
        }
        if !dead.is_empty() {
            self.note_deaths(&dead).await?;
        }
        Ok(living)
    }

    pub(in crate::store) async fn admit(
        &self,
        task: &str,
        owner: Incarnation,
        wanted: u32,
        max: u32,
        hold: Duration,
    ) -> Result<u32, Error> {
        let mut wish = owner.to_bytes().to_vec();
        wish.extend(wanted.to_be_bytes());
        wish.extend(max.to_be_bytes());
        wish.extend(as_millis(hold).to_be_bytes());
        let admit = fcall(&self.keys.permits(task), Function::ADMIT, &[wish]);
        let reply = bytes(self.servers.ask(&task, &admit).await?)?;
        let mut reply = Reply::new(&reply)?;
        if reply.code == DONE { Ok(decode::u32(&mut reply.rest)?) } else { Err(reply.refused()) }
    }

    pub(in crate::store) async fn seek(
        &self,
        queues: &[String],
        hold: Duration,
    ) -> Result<(), Error> {
        let mut say = redis::pipe();
        for queue in queues {
            say.cmd("SET").arg(self.keys.sought(queue)).arg(1).arg("PX").arg(millis(hold));
        }
        self.servers.ask_all(&0, &say).await.map(drop)
    }

    pub(in crate::store) async fn sought(&self, queue: &str) -> Result<bool, Error> {
        let mut hear = redis::cmd("GETDEL");
        hear.arg(self.keys.sought(queue));
        Ok(self.servers.ask(&0, &hear).await? != Value::Nil)
    }

    pub(in crate::store) async fn bury(&self, index: WorkerIndex) -> Result<(), Error> {
        let mut remove = redis::cmd("UNLINK");
        remove.arg(self.keys.worker(index));
        self.servers.ask(&index, &remove).await?;
        self.note_deaths(&[index]).await
    }

    /// Notes that workers went without a farewell, if they have no record. When it was noticed counts,
    /// by the clock of who has noticed: it only has to be forgotten some day.
    async fn note_deaths(&self, dead: &[WorkerIndex]) -> Result<(), Error> {
        let mut words = clock::unix_ms().to_be_bytes().to_vec();
        words.extend(as_millis(limits::DEATH_MEMORY).to_be_bytes());
        let mut keys = vec![self.keys.workers(), self.keys.deaths()];
        for index in dead {
            words.extend(index.get().to_be_bytes());
            keys.push(self.keys.worker(*index));
        }
        self.servers.ask(&0, &fcall_of(&keys, Function::BURY, &[words])).await.map(drop)
    }
}

fn indexes(value: Value) -> Result<Vec<WorkerIndex>, Error> {
    let members = match value {
        Value::Set(values) => values,
        other => list(other)?,
    };
    let mut indexes = Vec::with_capacity(members.len());
    for member in members {
        let text = bytes(member)?;
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
        indexes.extend(number.map(WorkerIndex::new));
    }
    Ok(indexes)
}

fn as_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn millis(hold: Duration) -> String {
    hold.as_millis().to_string()
}
