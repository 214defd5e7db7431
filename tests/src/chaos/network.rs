//! Proxies between the processes of a play and whoever they talk to: only where a fault needs one,
//! for each costs time.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::time::Duration;

use super::fault::{Harm, Link, Net};
use super::schedule::Schedule;
use crate::proxy::{Proxy, Way};
use crate::servers::Pair;
use crate::servers::port::Port;

/// One end of a link: a worker's place, or the client, and who is at the other end.
pub(super) type End = (Option<usize>, Link);

/// All proxies of a play.
#[derive(Debug, Default)]
pub(super) struct Network {
    proxies: BTreeMap<End, Proxy>,
    /// Those of lost hosts: nothing passes them any more.
    lost: Vec<Proxy>,
    /// Where the data ports behind proxies are.
    ports: BTreeMap<usize, Port>,
}

impl Network {
    /// What [`Network::environment`] may set.
    pub(super) const VARIABLES: [&str; 4] =
        ["BOLTHOLE_AMQP_URL", "BOLTHOLE_REDIS_URL", "BOLTHOLE_BIND", "BOLTHOLE_ADVERTISE"];

    /// The proxies that a schedule needs before these servers.
    pub(super) async fn of(schedule: &Schedule, pair: &Pair) -> anyhow::Result<Self> {
        let mut network = Self::default();
        let ends = schedule.faults.iter().flat_map(|fault| match fault.harm {
            Harm::Net { worker, link, .. } => vec![(worker, link)],
            Harm::LoseHost { worker, .. } => Link::ALL.map(|link| (Some(worker), link)).to_vec(),
            _ => vec![],
        });
        for (worker, link) in ends {
            if network.proxies.contains_key(&(worker, link)) {
                continue;
            }
            let target = match (link, worker) {
                (Link::Rabbit, _) => pair.rabbit.port(),
                (Link::Redis, _) => pair.redis.port(),
                (Link::Data, Some(worker)) => {
                    let port = Port::reserve()?;
                    let number = port.number();
                    network.ports.insert(worker, port);
                    number
                }
                // It has no data port.
                (Link::Data, None) => continue,
            };
            network.proxies.insert((worker, link), Proxy::before(target).await?);
        }
        Ok(network)
    }

    /// Whether all that a worker says goes through here.
    pub(super) fn has(&self, worker: usize) -> bool {
        Link::ALL.iter().all(|link| self.proxies.contains_key(&(Some(worker), *link)))
    }

    /// No connection of a worker passes anything from now on, and whoever comes after it has none of
    /// its links.
    pub(super) fn lose(&mut self, worker: usize) {
        let links = Link::ALL.map(|link| self.proxies.remove(&(Some(worker), link)));
        for proxy in links.into_iter().flatten() {
            for way in Way::BOTH {
                proxy.blackhole(way, true);
            }
            self.lost.push(proxy);
        }
    }

    /// Connections of lost hosts end, without a byte of what they hold: their processes are no more.
    pub(super) fn bury(&mut self) {
        self.lost.clear();
    }

    /// Variables of the environment that lead a process through its proxies.
    pub(super) fn environment(&self, who: Option<usize>, pair: &Pair) -> Vec<(String, String)> {
        let mut environment = Vec::new();
        let [amqp, redis, bind, advertise] = Self::VARIABLES;
        let mut set = |name: &str, value| environment.push((name.to_owned(), value));
        for ((_, link), proxy) in self.proxies.iter().filter(|((end, _), _)| *end == who) {
            match link {
                Link::Rabbit => set(amqp, proxy.through(&pair.rabbit.url())),
                Link::Redis => set(redis, proxy.through(&pair.redis.url())),
                Link::Data => {
                    let port = who.and_then(|who| self.ports.get(&who)).map(Port::number);
                    set(bind, format!("127.0.0.1:{}", port.unwrap_or_default()));
                    set(advertise, format!("127.0.0.1:{}", proxy.port()));
                }
            }
        }
        environment
    }

    /// Makes a link fail; false when there is none.
    pub(super) async fn fail(&self, end: End, net: Net) -> bool {
        let Some(proxy) = self.proxies.get(&end) else { return false };
        match net {
            Net::Delay(ms) => {
                let delay = Duration::from_millis(ms);
                for way in Way::BOTH {
                    proxy.delay(way, delay);
                }
            }
            Net::Throttle(bytes) => {
                for way in Way::BOTH {
                    proxy.throttle(way, NonZeroU64::new(bytes));
                }
            }
            Net::Blackhole { up, down } => {
                proxy.blackhole(Way::Up, up);
                proxy.blackhole(Way::Down, down);
            }
            Net::Cut { up, bytes } => proxy.cut_after(way(up), bytes),
            Net::Flip { up, nth } => proxy.flip(way(up), nth),
            Net::HalfClose { up } => proxy.half_close(way(up)),
            Net::Reset => proxy.reset(),
            Net::Refuse => {
                proxy.refuse(true).await;
                proxy.reset();
            }
        }
        true
    }

    /// Whether what was asked for has happened: some of it waits for bytes.
    pub(super) fn has_failed(&self, end: End, net: Net) -> bool {
        let Some(proxy) = self.proxies.get(&end) else { return false };
        match net {
            Net::Cut { .. } | Net::Reset => proxy.faults().resets > 0,
            Net::Flip { .. } => proxy.faults().flips > 0,
            _ => proxy.connections() > 0,
        }
    }

    /// Makes a link well again.
    pub(super) async fn heal(&self, end: End) {
        if let Some(proxy) = self.proxies.get(&end) {
            proxy.heal().await;
        }
    }
}

fn way(up: bool) -> Way {
    if up { Way::Up } else { Way::Down }
}
