//! Runs: opening, finding, ending, deleting.

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::time::Instant;

use super::decode::{self, AGAIN, DONE, OTHER, Reply, UNKNOWN};
use super::library::Function;
use super::{NONE, Redis, bytes, encode, fcall, list, optional_bytes};
use crate::id::{Incarnation, RunId};
use crate::limits;
use crate::run::{Open, Opened, OutboxId, Ready, RunStatus};
use crate::state::RunState;
use crate::store::Error;

/// What `purge` takes: about how many keys one call of it deletes, and whether only of a run that has
/// ended.
const ANY: &[&str] = &["2000"];
const ENDED: &[&str] = &["2000", "ended"];
/// Times that opening looks again because the name has changed hands meanwhile.
const NAME_ATTEMPTS: usize = 8;

/// The answer to `open`; `None` when there is something of an older run to be purged first.
pub(super) fn opened(run: RunId, answer: &Bytes) -> Result<Option<Opened>, Error> {
    let reply = Reply::new(answer)?;
    match reply.code {
        DONE => Ok(Some(Opened::Created)),
        UNKNOWN => Ok(Some(Opened::Attached(run))),
        OTHER => Ok(Some(Opened::Conflict(run))),
        AGAIN => Ok(None),
        _ => Err(reply.refused()),
    }
}

/// The answer to what may change where a run stands; `None` when it is not there.
pub(super) fn run_state(answer: &Bytes) -> Result<Option<RunState>, Error> {
    let mut reply = Reply::new(answer)?;
    match reply.code {
        DONE => Ok(Some(decode::state(&mut reply.rest)?)),
        UNKNOWN => Ok(None),
        _ => Err(reply.refused()),
    }
}

fn run_status(answer: &Bytes) -> Result<Option<RunStatus>, Error> {
    let reply = Reply::new(answer)?;
    match reply.code {
        DONE => Ok(Some(decode::status(reply.rest)?)),
        UNKNOWN => Ok(None),
        _ => Err(reply.refused()),
    }
}

impl Redis {
    pub(in crate::store) async fn open(&self, run: RunId, open: &Open) -> Result<Opened, Error> {
        let listed = Instant::now();
        self.list_run(run).await?;
        if let Some(name) = &open.name
            && let Some(other) = self.take_name(name, run, open).await?
        {
            self.unlist(run).await?;
            return Ok(other);
        }
        let opened = self.create(run, open).await?;
        if listed.elapsed() >= limits::CLIENT_LEASE / 2 {
            // Meanwhile it may have been taken for one that is never made, and unlisted.
            self.list_run(run).await?;
        }
        Ok(opened)
    }

    /// A run is listed before anything of it is there, so that nothing is left unseen.
    pub(super) async fn list_run(&self, run: RunId) -> Result<(), Error> {
        self.servers.ask(&run, &self.listing(run)).await.map(drop)
    }

    pub(super) fn listing(&self, run: RunId) -> Cmd {
        fcall(&self.keys.runs(run), Function::LIST, &[run.to_string()])
    }

    pub(super) async fn unlist(&self, run: RunId) -> Result<(), Error> {
        self.servers.ask(&run, &self.unlisting(run)).await.map(drop)
    }

    fn unlisting(&self, run: RunId) -> Cmd {
        let mut list = redis::cmd("ZREM");
        list.arg(self.keys.runs(run)).arg(run.to_string());
        list
    }

    pub(super) fn opening(&self, run: RunId, open: &Open) -> Cmd {
        fcall(&self.keys.header(run), Function::OPEN, &encode::open(open))
    }

    async fn create(&self, run: RunId, open: &Open) -> Result<Opened, Error> {
        loop {
            let answer = bytes(self.servers.ask(&run, &self.opening(run, open)).await?)?;
            match opened(run, &answer)? {
                Some(opened) => return Ok(opened),
                None => self.purge_keys(run).await?,
            }
        }
    }

    /// Binds the name to the run, or answers with the run that has it. A name whose run was listed
    /// and never made belongs to someone who is just opening it or has died: the same content
    /// finishes that for them.
    async fn take_name(
        &self,
        name: &str,
        run: RunId,
        open: &Open,
    ) -> Result<Option<Opened>, Error> {
        let key = self.keys.name(name);
        let value = [&run.to_bytes()[..], &open.digest].concat();
        for _ in 0..NAME_ATTEMPTS {
            let mut set = redis::cmd("SET");
            set.arg(&key).arg(&value[..]).arg("NX").arg("GET");
            let Some(old) = optional_bytes(self.servers.ask(&run, &set).await?)? else {
                return Ok(None);
            };
            let (owner, digest) = split_name(&old)?;
            if owner == run {
                return Ok(None);
            }
            let same = digest == open.digest;
            if self.status(owner).await?.is_some() {
                let opened = if same { Opened::Attached(owner) } else { Opened::Conflict(owner) };
                return Ok(Some(opened));
            }
            if self.is_listed(owner).await? {
                if !same {
                    return Ok(Some(Opened::Conflict(owner)));
                }
                self.create(owner, open).await?;
                return Ok(Some(Opened::Attached(owner)));
            }
            let rebind = fcall(&key, Function::REBIND, &[&old[..], &value[..]]);
            let reply = bytes(self.servers.ask(&run, &rebind).await?)?;
            if Reply::new(&reply)?.code == DONE {
                return Ok(None);
            }
        }
        Err(Error::Corrupt(format!("the name {name:?} changes hands all the time")))
    }

    async fn is_listed(&self, run: RunId) -> Result<bool, Error> {
        let mut score = redis::cmd("ZSCORE");
        score.arg(self.keys.runs(run)).arg(run.to_string());
        Ok(self.servers.ask(&run, &score).await? != Value::Nil)
    }

    pub(in crate::store) async fn find(&self, name: &str) -> Result<Option<RunId>, Error> {
        let mut get = redis::cmd("GET");
        get.arg(self.keys.name(name));
        let Some(value) = optional_bytes(self.servers.ask(&0, &get).await?)? else {
            return Ok(None);
        };
        let (run, _) = split_name(&value)?;
        Ok(self.status(run).await?.map(|_| run))
    }

    /// Every listed run, also those of which nothing or only a part is there, and when it was
    /// listed, by the store's clock. Oldest first, by their ids.
    pub(super) async fn listed(&self) -> Result<Vec<(RunId, String)>, Error> {
        let mut ranges = redis::pipe();
        for key in self.keys.lists() {
            ranges.cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES");
        }
        let mut pairs = Vec::new();
        for some in self.servers.ask_all(&0, &ranges).await? {
            pairs.append(&mut list(some)?);
        }
        let damaged = || Error::Corrupt("the list of runs".to_owned());
        let text = |value| String::from_utf8(bytes(value)?.to_vec()).map_err(|_| damaged());
        let mut listed = Vec::with_capacity(pairs.len() / 2);
        let mut pairs = pairs.into_iter();
        while let (Some(run), Some(at)) = (pairs.next(), pairs.next()) {
            listed.push((text(run)?.parse().map_err(|_| damaged())?, text(at)?));
        }
        listed.sort_unstable();
        Ok(listed)
    }

    pub(in crate::store) async fn runs(&self) -> Result<Vec<RunId>, Error> {
        let listed = self.listed().await?;
        let mut found = Vec::with_capacity(listed.len());
        for some in listed.chunks(1_000) {
            let mut states = redis::pipe();
            for (run, _) in some {
                states.cmd("GETRANGE").arg(self.keys.header(*run)).arg(4).arg(4);
            }
            let states = self.servers.ask_all(&0, &states).await?;
            for ((run, _), state) in some.iter().zip(states) {
                let number = bytes(state)?.first().copied().and_then(RunState::from_number);
                if number.is_some_and(|state| state != RunState::Purging) {
                    found.push(*run);
                }
            }
        }
        Ok(found)
    }

    pub(in crate::store) async fn overdue(&self) -> Result<Vec<RunId>, Error> {
        let listed = self.listed().await?;
        let patience = limits::CLIENT_LEASE.as_millis().to_string();
        let mut found = Vec::new();
        for some in listed.chunks(1_000) {
            let mut calls = redis::pipe();
            for (run, at) in some {
                let arguments = [at, &patience];
                calls.add_command(fcall(&self.keys.header(*run), Function::OVERDUE, &arguments));
            }
            let answers = self.servers.ask_all(&0, &calls).await?;
            for ((run, _), answer) in some.iter().zip(answers) {
                if Reply::new(&bytes(answer)?)?.code != DONE {
                    found.push(*run);
                }
            }
        }
        Ok(found)
    }

    pub(in crate::store) async fn status(&self, run: RunId) -> Result<Option<RunStatus>, Error> {
        run_status(&self.call(run, Function::STATUS, NONE).await?)
    }

    async fn state_after<A: AsRef<[u8]>>(
        &self,
        run: RunId,
        function: Function,
        arguments: &[A],
    ) -> Result<Option<RunState>, Error> {
        run_state(&self.call(run, function, arguments).await?)
    }

    pub(in crate::store) async fn close(&self, run: RunId) -> Result<Option<RunState>, Error> {
        self.close_whole(run, 0).await
    }

    pub(in crate::store) async fn close_whole(
        &self,
        run: RunId,
        segments: u32,
    ) -> Result<Option<RunState>, Error> {
        self.state_after(run, Function::CLOSE, &[segments.to_be_bytes()]).await
    }

    pub(in crate::store) async fn cancel(
        &self,
        run: RunId,
        reason: &str,
    ) -> Result<Option<RunState>, Error> {
        self.state_after(run, Function::CANCEL, &[reason]).await
    }

    pub(in crate::store) async fn resume(&self, run: RunId) -> Result<Option<RunState>, Error> {
        self.state_after(run, Function::RESUME, NONE).await
    }

    pub(in crate::store) async fn keep_alive(&self, run: RunId) -> Result<Option<RunState>, Error> {
        self.state_after(run, Function::KEEP_ALIVE, NONE).await
    }

    pub(in crate::store) async fn purge(&self, run: RunId) -> Result<(), Error> {
        // What is small is gone with the second call: the first one only marks it.
        let mut all = redis::pipe();
        all.add_command(fcall(&self.keys.header(run), Function::STATUS, NONE));
        all.add_command(self.purging(run, ANY)).add_command(self.purging(run, ANY));
        let mut answers = self.servers.ask_all(&run, &all).await?.into_iter();
        let mut answer = || bytes(answers.next().unwrap_or(Value::Nil));
        // A damaged run cannot say its name, and goes all the same: who opens one of this name
        // finds that nothing is behind it.
        let status = answer().and_then(|answer| run_status(&answer)).unwrap_or_default();
        let name = status.and_then(|status| status.name);
        answer()?;
        if Reply::new(&answer()?)?.code != DONE {
            self.purge_keys(run).await?;
        }
        if let Some(name) = name {
            let owner = run.to_bytes();
            let unbind = fcall(&self.keys.name(&name), Function::UNBIND, &[owner]);
            self.servers.ask(&run, &unbind).await?;
        }
        self.unlist(run).await
    }

    pub(in crate::store) async fn reap(&self, runs: &[RunId]) -> Result<Vec<bool>, Error> {
        let Some(key) = runs.first() else { return Ok(Vec::new()) };
        let mut all = redis::pipe();
        for run in runs {
            all.add_command(self.purging(*run, ENDED));
        }
        let answers = self.servers.ask_all(key, &all).await?;
        let mut gone = Vec::with_capacity(runs.len());
        let mut unlist = redis::pipe();
        for (run, answer) in runs.iter().zip(answers) {
            let code = Reply::new(&bytes(answer)?)?.code;
            if code == AGAIN {
                self.purge_keys(*run).await?;
            }
            let is_gone = matches!(code, DONE | AGAIN);
            gone.push(is_gone);
            if is_gone {
                unlist.add_command(self.unlisting(*run));
            }
        }
        if gone.contains(&true) {
            self.servers.ask_all(key, &unlist).await?;
        }
        Ok(gone)
    }

    fn purging(&self, run: RunId, which: &[&str]) -> Cmd {
        fcall(&self.keys.header(run), Function::PURGE, which)
    }

    async fn purge_keys(&self, run: RunId) -> Result<(), Error> {
        loop {
            let reply = bytes(self.servers.ask(&run, &self.purging(run, ANY)).await?)?;
            if Reply::new(&reply)?.code == DONE {
                return Ok(());
            }
        }
    }

    pub(in crate::store) async fn outbox(
        &self,
        run: RunId,
    ) -> Result<Vec<(OutboxId, Vec<Ready>)>, Error> {
        let mut all = redis::cmd("HGETALL");
        all.arg(self.keys.of(run, "o"));
        let mut values = list(self.servers.ask(&run, &all).await?)?.into_iter();
        let mut entries = Vec::new();
        while let (Some(field), Some(value)) = (values.next(), values.next()) {
            entries.push((decode::outbox_id(&bytes(field)?)?, decode::ready(&bytes(value)?)?));
        }
        entries.sort_unstable_by_key(|(id, _)| *id);
        Ok(entries)
    }

    pub(in crate::store) async fn settle(
        &self,
        run: RunId,
        id: OutboxId,
        read: &[Ready],
    ) -> Result<bool, Error> {
        let field = encode::outbox_field(id);
        let mut get = redis::cmd("HGET");
        get.arg(self.keys.of(run, "o")).arg(&field);
        let Some(value) = optional_bytes(self.servers.ask(&run, &get).await?)? else {
            return Ok(false);
        };
        if decode::ready(&value)? != read {
            return Ok(false);
        }
        let reply = self.call(run, Function::SETTLE, &[field.as_bytes(), &value]).await?;
        Ok(Reply::new(&reply)?.code == DONE)
    }

    pub(in crate::store) async fn lock(
        &self,
        run: RunId,
        owner: Incarnation,
        hold: std::time::Duration,
    ) -> Result<bool, Error> {
        let hold = hold.as_millis().max(1).to_string();
        let arguments = [&owner.to_bytes()[..], hold.as_bytes()];
        let reply = self.call(run, Function::LOCK, &arguments).await?;
        Ok(Reply::new(&reply)?.code == DONE)
    }
}

/// The run that has a name, and the digest of its content.
pub(super) fn split_name(value: &[u8]) -> Result<(RunId, [u8; 32]), Error> {
    let (run, digest) = value
        .split_first_chunk::<16>()
        .and_then(|(run, rest)| Some((run, rest.first_chunk::<32>()?)))
        .ok_or_else(|| Error::Corrupt("the name of a run".to_owned()))?;
    Ok((RunId::from_bytes(*run), *digest))
}
