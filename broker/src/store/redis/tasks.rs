//! Segments and tasks: staging, committing, looking.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};

use super::decode::{self, DONE, OTHER_LIFE, Reply, UNKNOWN};
use super::library::Function;
use super::runs::{opened, run_state};
use super::{NONE, Redis, bytes, encode, fcall, list, optional_bytes};
use crate::args::BlobDigest;
use crate::id::{Incarnation, RunId, TaskId, WorkerIndex};
use crate::limits;
use crate::locator::Locator;
use crate::run::{
    Activate, Activated, Commit, Committed, FreedResult, LeaseRequest, Leased, Lost, Mend, Open,
    Opened, Ready, Rearmed, Refused, Relocation, Retried, Retry, Revive, Revived, Stage, Tally,
    TaskStatus,
};
use crate::store::{Epoch, Error};

/// Tasks of one call of a reader or of `unpin`.
const TASKS_PER_CALL: usize = 1_000;
/// Tasks of one call of `rearm` or `revive`.
const LOST_PER_CALL: usize = 64;
/// Bytes of a large argument sent at once: no other request waits long behind them.
const BLOB_PIECE: usize = 1 << 20;

/// The answer to `stage`.
fn staged(answer: &Bytes) -> Result<(), Error> {
    let reply = Reply::new(answer)?;
    if reply.code == DONE { Ok(()) } else { Err(reply.refused()) }
}

/// The answer to `activate`.
fn activated(answer: &Bytes) -> Result<Activated, Error> {
    let reply = Reply::new(answer)?;
    if reply.code == DONE { decode::activated(reply.rest) } else { Err(reply.refused()) }
}

impl Redis {
    pub(in crate::store) async fn stage(&self, run: RunId, stage: &Stage) -> Result<(), Error> {
        staged(&bytes(self.servers.ask(&run, &self.staging(run, stage)).await?)?)
    }

    fn staging(&self, run: RunId, stage: &Stage) -> Cmd {
        let fixed = encode::stage(stage);
        let mut arguments: Vec<&[u8]> = fixed.iter().map(Vec::as_slice).collect();
        arguments.extend(stage.chunks.iter().map(Bytes::as_ref));
        fcall(&self.keys.header(run), Function::STAGE, &arguments)
    }

    /// One pipeline: each function runs whatever became of the one before. What was refused to be staged
    /// is not activated all the same, for nothing of this digest is there; nor is there another run of
    /// this id, which whoever opens it has drawn; nor is one closed whose last segment is another one.
    pub(in crate::store) async fn begin(
        &self,
        run: RunId,
        open: Option<&Open>,
        stage: &Stage,
        activate: &Activate,
        close: bool,
    ) -> Result<Activated, Error> {
        let mut all = redis::pipe();
        if let Some(open) = open {
            all.add_command(self.listing(run));
            all.add_command(self.opening(run, open));
        }
        all.add_command(self.staging(run, stage));
        let header = self.keys.header(run);
        all.add_command(fcall(&header, Function::ACTIVATE, &encode::activate(activate)));
        if close {
            let segments = stage.segment + 1;
            let last: [&[u8]; 2] = [&segments.to_be_bytes(), &stage.digest];
            all.add_command(fcall(&header, Function::CLOSE, &last));
        }
        let mut answers = self.servers.ask_all(&run, &all).await?.into_iter();
        let mut answer = || bytes(answers.next().unwrap_or(Value::Nil));
        if open.is_some() {
            // Of the list.
            answer()?;
            match opened(run, &answer()?)? {
                Some(Opened::Created | Opened::Attached(_)) => {}
                Some(Opened::Conflict(_)) => return Err(Refused::Conflict.into()),
                // Something of an older run was in the way.
                None => return Err(Refused::Unknown.into()),
            }
        }
        staged(&answer()?)?;
        let activated = activated(&answer()?)?;
        if close {
            run_state(&answer()?)?.ok_or(Refused::Unknown)?;
        }
        Ok(activated)
    }

    pub(in crate::store) async fn activate(
        &self,
        run: RunId,
        activate: &Activate,
    ) -> Result<Activated, Error> {
        activated(&self.call(run, Function::ACTIVATE, &encode::activate(activate)).await?)
    }

    pub(in crate::store) async fn reserve(&self, run: RunId) -> Result<u32, Error> {
        let reply = self.call(run, Function::RESERVE, NONE).await?;
        let mut reply = Reply::new(&reply)?;
        if reply.code == DONE { Ok(decode::u32(&mut reply.rest)?) } else { Err(reply.refused()) }
    }

    pub(in crate::store) async fn unstage(&self, run: RunId, segment: u32) -> Result<(), Error> {
        self.call(run, Function::UNSTAGE, &[segment.to_be_bytes()]).await.map(drop)
    }

    pub(in crate::store) async fn commit(
        &self,
        run: RunId,
        commit: &Commit,
    ) -> Result<Committed, Error> {
        let reply = self.call(run, Function::COMMIT, &encode::commit(commit, None)).await?;
        decode::committed(Reply::new(&reply)?)
    }

    pub(in crate::store) async fn commit_in(
        &self,
        run: RunId,
        life: &Epoch,
        commit: &Commit,
    ) -> Result<Option<Committed>, Error> {
        let life = self.servers.life_at(&self.keys.header(run), life);
        let reply = self.call(run, Function::COMMIT, &encode::commit(commit, Some(&life))).await?;
        let reply = Reply::new(&reply)?;
        (reply.code != OTHER_LIFE).then(|| decode::committed(reply)).transpose()
    }

    pub(in crate::store) async fn retry(
        &self,
        run: RunId,
        retry: &Retry,
    ) -> Result<Retried, Error> {
        let reply = self.call(run, Function::RETRY, &[encode::retry(retry)]).await?;
        let mut reply = Reply::new(&reply)?;
        if reply.code == DONE {
            Ok(Retried::Due { at_ms: decode::u64(&mut reply.rest)? })
        } else {
            Ok(Retried::Stale)
        }
    }

    pub(in crate::store) async fn rearm(
        &self,
        run: RunId,
        lost: &[Lost],
    ) -> Result<Vec<Rearmed>, Error> {
        let mut all = Vec::with_capacity(lost.len());
        for some in lost.chunks(LOST_PER_CALL) {
            let arguments: Vec<Vec<u8>> = some.iter().map(encode::lost).collect();
            let reply = self.call(run, Function::REARM, &arguments).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(decode::rearmed(reply.rest)?),
                UNKNOWN => all.extend(some.iter().map(|_| Rearmed::NotNeeded)),
                _ => return Err(reply.refused()),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn revive(
        &self,
        run: RunId,
        tasks: &[Revive],
    ) -> Result<Vec<Revived>, Error> {
        let mut all = Vec::with_capacity(tasks.len());
        for some in tasks.chunks(LOST_PER_CALL) {
            let arguments: Vec<Vec<u8>> = some.iter().map(encode::revive).collect();
            let reply = self.call(run, Function::REVIVE, &arguments).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(decode::revived(reply.rest)?),
                UNKNOWN => all.extend(some.iter().map(|_| Revived::NotEnded)),
                _ => return Err(reply.refused()),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn mend(
        &self,
        run: RunId,
        tasks: &[Mend],
    ) -> Result<Vec<bool>, Error> {
        let mut all = Vec::with_capacity(tasks.len());
        for some in tasks.chunks(LOST_PER_CALL) {
            let reply = self.call(run, Function::MEND, &[encode::mends(some)]).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(reply.rest.rest().iter().map(|done| *done == 1)),
                _ => all.extend(some.iter().map(|_| false)),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn recount(
        &self,
        run: RunId,
        found: Tally,
        right: Tally,
    ) -> Result<bool, Error> {
        let reply = self.call(run, Function::RECOUNT, &[encode::tallies(found, right)]).await?;
        Ok(Reply::new(&reply)?.code == DONE)
    }

    pub(in crate::store) async fn lease(
        &self,
        run: RunId,
        holder: Incarnation,
        hold: Duration,
        requests: &[LeaseRequest],
    ) -> Result<Vec<Leased>, Error> {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let fixed = [&holder.to_bytes()[..], &hold_ms.to_be_bytes()].concat();
        let mut all = Vec::with_capacity(requests.len());
        for some in requests.chunks(TASKS_PER_CALL) {
            let arguments = [fixed.clone(), encode::leases(some)];
            let reply = self.call(run, Function::LEASE, &arguments).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(decode::leased(reply.rest)?),
                UNKNOWN => all.extend(some.iter().map(|_| Leased::Over)),
                _ => return Err(reply.refused()),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn unlease(
        &self,
        run: RunId,
        leases: &[(TaskId, u64)],
    ) -> Result<(), Error> {
        for some in leases.chunks(TASKS_PER_CALL) {
            self.call(run, Function::UNLEASE, &[encode::nonces(some)]).await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn relocate(
        &self,
        run: RunId,
        relocations: &[Relocation],
    ) -> Result<Vec<bool>, Error> {
        let mut all = Vec::with_capacity(relocations.len());
        for some in relocations.chunks(LOST_PER_CALL) {
            let arguments: Vec<Vec<u8>> = some.iter().map(encode::relocation).collect();
            let reply = self.call(run, Function::RELOCATE, &arguments).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(decode::relocated(reply.rest)?),
                UNKNOWN => all.extend(some.iter().map(|_| false)),
                _ => return Err(reply.refused()),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn evict(
        &self,
        run: RunId,
        holder: Incarnation,
    ) -> Result<Vec<Ready>, Error> {
        let reply = self.call(run, Function::EVICT, &[holder.to_bytes().to_vec()]).await?;
        let reply = Reply::new(&reply)?;
        match reply.code {
            DONE => decode::ready(reply.rest.rest()),
            UNKNOWN => Ok(Vec::new()),
            _ => Err(reply.refused()),
        }
    }

    pub(in crate::store) async fn inspect(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> Result<Vec<Option<TaskStatus>>, Error> {
        let mut all = Vec::with_capacity(tasks.len());
        for some in tasks.chunks(TASKS_PER_CALL) {
            let reply = self.call(run, Function::INSPECT, &[encode::tasks(some)]).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(decode::statuses(reply.rest)?),
                UNKNOWN => all.extend(some.iter().map(|_| None)),
                _ => return Err(reply.refused()),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn chunks(
        &self,
        run: RunId,
        which: &[(u32, u32)],
    ) -> Result<Vec<Option<Bytes>>, Error> {
        if which.is_empty() {
            return Ok(Vec::new());
        }
        let mut get = redis::cmd("MGET");
        for (segment, number) in which {
            get.arg(self.keys.chunk(run, *segment, *number));
        }
        let values = list(self.servers.ask(&run, &get).await?)?;
        values.into_iter().map(optional_bytes).collect()
    }

    /// The head of an arena with its states and pending counts.
    async fn columns(&self, run: RunId, segment: u32) -> Result<Bytes, Error> {
        let end = 63 + 5 * limits::SEGMENT_TASKS_MAX;
        let mut get = redis::cmd("GETRANGE");
        get.arg(self.keys.arena(run, segment)).arg(0).arg(end);
        bytes(self.servers.ask(&run, &get).await?)
    }

    pub(in crate::store) async fn held_by(
        &self,
        run: RunId,
        segment: u32,
        worker: WorkerIndex,
    ) -> Result<Vec<(TaskId, Locator)>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.arena(run, segment));
        let arena = optional_bytes(self.servers.ask(&run, &get).await?)?;
        decode::held_by(&arena.unwrap_or_default(), segment, worker)
    }

    pub(in crate::store) async fn states(
        &self,
        run: RunId,
        segment: u32,
    ) -> Result<Option<Bytes>, Error> {
        let arena = self.columns(run, segment).await?;
        Ok(decode::columns(&arena)?.map(|(states, _)| arena.slice_ref(states)))
    }

    pub(in crate::store) async fn segments(&self, run: RunId) -> Result<Vec<u32>, Error> {
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.keys.of(run, "s")).arg(0).arg("+inf").arg("BYSCORE");
        let numbers = list(self.servers.ask(&run, &range).await?)?;
        let number = |value| {
            let text = bytes(value)?;
            let number = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| Error::Corrupt("the list of segments".to_owned()))
        };
        numbers.into_iter().map(number).collect()
    }

    pub(in crate::store) async fn ready(
        &self,
        run: RunId,
        segment: u32,
    ) -> Result<Vec<Ready>, Error> {
        let arena = self.columns(run, segment).await?;
        let Some((states, pending)) = decode::columns(&arena)? else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        for some in decode::candidates(segment, states, pending).chunks(TASKS_PER_CALL) {
            let reply = self.call(run, Function::READY, &[encode::tasks(some)]).await?;
            let reply = Reply::new(&reply)?;
            if reply.code == DONE {
                all.extend(decode::ready(reply.rest.rest())?);
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn unpin(
        &self,
        run: RunId,
        tasks: &[TaskId],
    ) -> Result<Vec<FreedResult>, Error> {
        let mut tasks = tasks.to_vec();
        tasks.sort_unstable();
        tasks.dedup();
        let mut all = Vec::new();
        for some in tasks.chunks(TASKS_PER_CALL) {
            let named: Vec<(TaskId, u32)> = some.iter().map(|task| (*task, 1)).collect();
            let reply = self.call(run, Function::UNPIN, &[encode::groups(&named)]).await?;
            let reply = Reply::new(&reply)?;
            match reply.code {
                DONE => all.extend(decode::freed(reply.rest)?),
                UNKNOWN => {}
                _ => return Err(reply.refused()),
            }
        }
        Ok(all)
    }

    pub(in crate::store) async fn put_blob(
        &self,
        run: RunId,
        digest: BlobDigest,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let name = hex(&digest);
        let mut offset = 0;
        loop {
            let end = (offset + BLOB_PIECE).min(bytes.len());
            let last = end == bytes.len();
            let length = if last { end.to_string() } else { String::new() };
            let at = offset.to_string();
            let arguments =
                [name.as_bytes(), at.as_bytes(), &bytes[offset..end], length.as_bytes()];
            let reply = self.call(run, Function::PUT_BLOB, &arguments).await?;
            let reply = Reply::new(&reply)?;
            if reply.code != DONE {
                return Err(match reply.code {
                    UNKNOWN => Refused::Unknown.into(),
                    _ => reply.refused(),
                });
            }
            if last {
                return Ok(());
            }
            offset = end;
        }
    }

    pub(in crate::store) async fn blob(
        &self,
        run: RunId,
        digest: BlobDigest,
    ) -> Result<Option<Bytes>, Error> {
        let name = hex(&digest);
        let mut get = redis::cmd("HGET");
        get.arg(self.keys.of(run, "bs")).arg(&name);
        let length = optional_bytes(self.servers.ask(&run, &get).await?)?;
        let length = length.and_then(|text| std::str::from_utf8(&text).ok()?.parse().ok());
        let Some(length) = length.filter(|length: &usize| *length <= limits::BLOB_BYTES_MAX) else {
            return Ok(None);
        };
        let mut whole = Vec::with_capacity(length);
        while whole.len() < length {
            let mut piece = redis::cmd("GETRANGE");
            piece.arg(self.keys.of(run, &format!("b:{name}")));
            piece.arg(whole.len()).arg(whole.len() + BLOB_PIECE - 1);
            let piece = bytes(self.servers.ask(&run, &piece).await?)?;
            if piece.is_empty() {
                return Ok(None);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(Some(whole.into()))
    }
}

fn hex(digest: &BlobDigest) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}
