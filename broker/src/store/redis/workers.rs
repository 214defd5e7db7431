//! Workers: records that run out unless they are renewed.

use std::time::Duration;

use redis::Value;

use super::{Redis, bytes, list, optional_bytes};
use crate::clock;
use crate::id::WorkerIndex;
use crate::store::{Error, WorkerRecord};

impl Redis {
    pub(in crate::store) async fn join(
        &self,
        record: &WorkerRecord,
        hold: Duration,
    ) -> Result<WorkerIndex, Error> {
        let value = pack(record)?;
        loop {
            let [a, b, c] = clock::random_bytes::<3>();
            let index = WorkerIndex::new(u32::from_be_bytes([0, a, b, c]));
            let mut set = redis::cmd("SET");
            set.arg(self.keys.worker(index)).arg(&value[..]).arg("NX");
            set.arg("PX").arg(millis(hold));
            if self.lanes.ask(&index, &set).await? != Value::Nil {
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
        let value = pack(record)?;
        let mut set = redis::cmd("SET");
        set.arg(self.keys.worker(index)).arg(&value[..]).arg("PX").arg(millis(hold)).arg("GET");
        let before = self.lanes.ask(&index, &set).await?;
        if before == Value::Nil {
            self.note(index).await?;
        }
        Ok(before != Value::Nil)
    }

    async fn note(&self, index: WorkerIndex) -> Result<(), Error> {
        let mut add = redis::cmd("SADD");
        add.arg(self.keys.workers()).arg(index.get());
        self.lanes.ask(&index, &add).await.map(drop)
    }

    pub(in crate::store) async fn leave(&self, index: WorkerIndex) -> Result<(), Error> {
        let mut remove = redis::pipe();
        remove.cmd("UNLINK").arg(self.keys.worker(index));
        remove.cmd("SREM").arg(self.keys.workers()).arg(index.get());
        self.lanes.ask_all(&index, &remove).await.map(drop)
    }

    pub(in crate::store) async fn worker(
        &self,
        index: WorkerIndex,
    ) -> Result<Option<WorkerRecord>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.worker(index));
        let value = optional_bytes(self.lanes.ask(&index, &get).await?)?;
        value.map(|bytes| unpack(&bytes)).transpose()
    }

    pub(in crate::store) async fn workers(
        &self,
    ) -> Result<Vec<(WorkerIndex, WorkerRecord)>, Error> {
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.keys.workers());
        let mut indexes = Vec::new();
        for member in members_of(self.lanes.ask(&0, &members).await?)? {
            let text = bytes(member)?;
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            indexes.extend(number.map(WorkerIndex::new));
        }
        indexes.sort_unstable();
        let mut read = redis::pipe();
        for index in &indexes {
            read.cmd("GET").arg(self.keys.worker(*index));
        }
        if indexes.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.lanes.ask_all(&0, &read).await?;
        let mut living = Vec::new();
        let mut dead = redis::cmd("SREM");
        dead.arg(self.keys.workers());
        let mut some_dead = false;
        for (index, record) in indexes.iter().zip(records) {
            if let Some(bytes) = optional_bytes(record)? {
                living.push((*index, unpack(&bytes)?));
            } else {
                dead.arg(index.get());
                some_dead = true;
            }
        }
        if some_dead {
            self.lanes.ask(&0, &dead).await?;
        }
        Ok(living)
    }
}

fn members_of(value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Set(values) => Ok(values),
        other => list(other),
    }
}

fn millis(hold: Duration) -> String {
    hold.as_millis().to_string()
}

fn pack(record: &WorkerRecord) -> Result<Vec<u8>, Error> {
    rmp_serde::to_vec_named(record)
        .map_err(|error| Error::Corrupt(format!("the record of a worker: {error}")))
}

fn unpack(bytes: &[u8]) -> Result<WorkerRecord, Error> {
    rmp_serde::from_slice(bytes)
        .map_err(|error| Error::Corrupt(format!("the record of a worker: {error}")))
}
