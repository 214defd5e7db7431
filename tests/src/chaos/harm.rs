//! Carrying out faults, and undoing what lasts.

use std::time::Duration;

use bolthole_broker::id::TaskId;
use bolthole_broker::parcel::Parcel;
use bolthole_broker::queue::{QueueName, Route};
use bolthole_broker::run::Ready;
use bolthole_broker::state::TaskState;
use bolthole_broker::store::Epoch;
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::fault::{Harm, Rabbit, Redis};
use super::network::End;
use super::play::{Play, Servers};
use crate::servers::Pair;

/// Ends something that lasts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Undo {
    /// Lets a worker go on.
    Worker(usize),
    /// Lets the client go on.
    Client,
    /// Makes a link well again.
    Net(End),
    /// Starts RabbitMQ.
    RabbitDown,
    /// Ends RabbitMQ's memory alarm.
    Memory,
    /// Ends RabbitMQ's disk alarm.
    Disk,
    /// Starts Redis.
    RedisDown,
    /// Lets Redis go on.
    RedisStopped,
    /// Gives Redis memory.
    Full,
}

impl Play<'_> {
    /// Causes a fault; false when there is nothing now that it could harm.
    pub(super) async fn cause(&mut self, harm: &Harm) -> anyhow::Result<bool> {
        let after = |ms: u64| Duration::from_millis(ms);
        Ok(match *harm {
            Harm::Kill { worker, back_ms } => self.crew.kill(worker, back_ms.map(after)),
            Harm::KillAll { back_ms } => self.crew.kill_all(after(back_ms)),
            Harm::Stop { worker, ms } => {
                let stopped = self.crew.signal(worker, "STOP");
                self.later(stopped, ms, Undo::Worker(worker))
            }
            Harm::LoseHost { worker, back_ms } => {
                let lost = self.network.has(worker) && self.crew.lose(worker, back_ms.map(after));
                if lost {
                    self.network.lose(worker);
                }
                lost
            }
            Harm::Leave { worker, back_ms } => self.crew.leave(worker, back_ms.map(after)),
            Harm::KillClient { back_ms } => self.crew.kill_client(after(back_ms)),
            Harm::StopClient { ms } => {
                let stopped = self.crew.signal_client("STOP");
                self.later(stopped, ms, Undo::Client)
            }
            // Its process was started with it.
            Harm::Point { .. } => true,
            Harm::Net { worker, link, net, ms } => {
                let failed = self.network.fail((worker, link), net).await;
                self.later(failed, ms, Undo::Net((worker, link)))
            }
            Harm::DeleteQueues => {
                self.cluster.queue().await?.delete_all(&[QueueName::default()]).await?;
                true
            }
            Harm::PurgeQueues => {
                self.cluster.queue().await?.purge_all(&[QueueName::default()]).await?;
                true
            }
            Harm::Repeat { tasks, fresh } => self.repeat(tasks, fresh).await?,
            Harm::Rabbit(rabbit) => {
                let undo = block_in_place(|| harm_rabbit(self.servers.own()?, rabbit))?;
                self.undo.extend(undo.map(|(ms, undo)| (Instant::now() + after(ms), undo)));
                true
            }
            Harm::Redis(redis) => {
                let undo = block_in_place(|| harm_redis(self.servers.own()?, redis))?;
                self.undo.extend(undo.map(|(ms, undo)| (Instant::now() + after(ms), undo)));
                true
            }
        })
    }

    fn later(&mut self, done: bool, ms: u64, undo: Undo) -> bool {
        if done {
            self.undo.push((Instant::now() + Duration::from_millis(ms), undo));
        }
        done
    }

    /// Rings for the first tasks of the run once more: with a message of today only for those that
    /// were ready once, as a repeated message would.
    async fn repeat(&self, count: u16, fresh: bool) -> anyhow::Result<bool> {
        let Some(seen) = self.seen() else { return Ok(false) };
        let store = self.cluster.store().await?;
        let ids: Vec<TaskId> = (0..count).map(|index| TaskId::new(0, index)).collect();
        let mut tasks = Vec::new();
        for (task, status) in ids.iter().zip(store.inspect(seen.run, &ids).await?) {
            let Some(status) = status else { continue };
            let generation = status.state.generation();
            let once = status.state.state() != TaskState::Pending || status.pending == 0;
            if !fresh || (once && generation == 0 && !status.state.is_forwarded()) {
                tasks.push(Ready::first(*task));
            }
        }
        if tasks.is_empty() {
            return Ok(false);
        }
        let epoch = if fresh { store.epoch().await? } else { Epoch("another".to_owned()) };
        let queue = self.cluster.queue().await?;
        for body in Parcel::pack(seen.run, &epoch, &tasks, |_| None, 3)? {
            queue.publish(&Route::hi(&QueueName::default()), body).await?;
        }
        queue.close().await;
        Ok(true)
    }

    /// Undoes what has lasted long enough; whether there was any.
    pub(super) async fn undo_due(&mut self, now: Instant) -> anyhow::Result<bool> {
        let (due, rest): (Vec<_>, Vec<_>) = self.undo.drain(..).partition(|(at, _)| *at <= now);
        self.undo = rest;
        for (_, undo) in &due {
            self.undo_one(*undo).await?;
        }
        Ok(!due.is_empty())
    }

    /// Makes everything good.
    pub(super) async fn undo_all(&mut self) -> anyhow::Result<()> {
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo_one(undo).await?;
        }
        self.crew.heal();
        Ok(())
    }

    async fn undo_one(&mut self, undo: Undo) -> anyhow::Result<()> {
        match undo {
            Undo::Worker(worker) => drop(self.crew.signal(worker, "CONT")),
            Undo::Client => drop(self.crew.signal_client("CONT")),
            Undo::Net(end) => self.network.heal(end).await,
            server => block_in_place(|| heal(self.servers.own()?, server))?,
        }
        Ok(())
    }
}

impl Servers<'_> {
    fn own(&mut self) -> anyhow::Result<&mut Pair> {
        match self {
            Self::Own(pair) => Ok(pair),
            Self::Shared(_) => anyhow::bail!("others use these servers: no harm may come to them"),
        }
    }
}

type Lasting = Option<(u64, Undo)>;

fn harm_rabbit(pair: &mut Pair, harm: Rabbit) -> anyhow::Result<Lasting> {
    let rabbit = &mut pair.rabbit;
    Ok(match harm {
        Rabbit::Restart => {
            rabbit.restart()?;
            None
        }
        Rabbit::Kill(ms) => {
            rabbit.kill();
            Some((ms, Undo::RabbitDown))
        }
        Rabbit::Wipe => {
            rabbit.wipe()?;
            None
        }
        Rabbit::CloseConnections => {
            rabbit.ctl(["close_all_connections", "told to"])?;
            None
        }
        Rabbit::MemoryAlarm(ms) => {
            rabbit.ctl(["set_vm_memory_high_watermark", "0.0001"])?;
            Some((ms, Undo::Memory))
        }
        Rabbit::DiskAlarm(ms) => {
            rabbit.ctl(["set_disk_free_limit", "999999999999999"])?;
            Some((ms, Undo::Disk))
        }
    })
}

fn harm_redis(pair: &mut Pair, harm: Redis) -> anyhow::Result<Lasting> {
    let redis = &mut pair.redis;
    Ok(match harm {
        Redis::FlushFunctions => {
            redis.cli(["FUNCTION", "FLUSH"])?;
            None
        }
        Redis::Restart => {
            redis.restart()?;
            None
        }
        Redis::Kill(ms) => {
            redis.kill();
            Some((ms, Undo::RedisDown))
        }
        Redis::RollBack(commands) => {
            redis.roll_back(commands)?;
            None
        }
        Redis::Stop(ms) => {
            redis.signal("STOP")?;
            Some((ms, Undo::RedisStopped))
        }
        Redis::Full(ms) => {
            redis.cli(["CONFIG", "SET", "maxmemory", "1mb"])?;
            Some((ms, Undo::Full))
        }
    })
}

fn heal(pair: &mut Pair, undo: Undo) -> anyhow::Result<()> {
    match undo {
        Undo::Worker(_) | Undo::Client | Undo::Net(_) => {}
        Undo::RabbitDown => pair.rabbit.restart()?,
        Undo::Memory => drop(pair.rabbit.ctl(["set_vm_memory_high_watermark", "0.4"])?),
        Undo::Disk => drop(pair.rabbit.ctl(["set_disk_free_limit", "50MB"])?),
        Undo::RedisDown => pair.redis.restart()?,
        Undo::RedisStopped => pair.redis.signal("CONT")?,
        Undo::Full => drop(pair.redis.cli(["CONFIG", "SET", "maxmemory", "0"])?),
    }
    Ok(())
}
