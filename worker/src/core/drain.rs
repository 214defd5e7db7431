//! Leaving: what has not begun is given back, what does not finish in time is let go. Whoever gets
//! it must find no lease of ours, or would wait until that runs out.

use std::collections::{BTreeMap, BTreeSet};

use bolthole_broker::id::RunId;
use bolthole_broker::run::Ready;
use tokio::time::Instant;

use super::{Core, Effect, Flight, ParcelId, Publish, Stage, Ticket};
use crate::flight::{Doubt, Key};

impl Core {
    /// No new work. Deliveries of which nothing has begun return to the queue as they are; what has
    /// not begun of the others is rung for. `benched` were waiting for a slot and will not get one.
    pub(crate) fn on_drain(&mut self, benched: &[Key], now: Instant) -> Vec<Effect> {
        self.draining = true;
        let preparing = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.stage == Stage::Preparing && !flight.void);
        let mut idle: BTreeSet<Key> = preparing.map(|(key, _)| *key).collect();
        idle.extend(benched);
        // The next receiver of a delivery checks what it names, and would meet our leases.
        let begun =
            self.flights.iter().filter(|(key, flight)| flight.leased || !idle.contains(key));
        let begun: BTreeSet<ParcelId> = begun.filter_map(|(_, flight)| flight.parcel).collect();
        let mut effects = Vec::new();
        for key in &idle {
            let Some(flight) = self.flights.get(key) else { continue };
            let whole = flight.parcel.filter(|id| !begun.contains(id));
            match whole {
                Some(id) if flight.outbox.is_none() && !flight.void => {
                    effects.extend(self.parcels.give_back(id).map(Effect::GiveBack));
                    self.put_down(*key);
                }
                _ if flight.is_ahead() => self.put_down(*key),
                _ if flight.void => self.leave(*key, &mut effects),
                _ => self.give_away(*key, Doubt::Old, &mut effects),
            }
        }
        self.settle_deliveries(now, &mut effects);
        together(effects)
    }

    /// Time is up: what runs still is anyone's. Its bodies are told, and their ends dropped; what has
    /// ended and waits for its commit stays.
    pub(crate) fn on_let_go(&mut self, now: Instant) -> Vec<Effect> {
        let unfinished = self.flights.iter().filter(|(_, flight)| {
            matches!(flight.stage, Stage::Preparing | Stage::Running) && !flight.void
        });
        let unfinished: Vec<Key> = unfinished.map(|(key, _)| *key).collect();
        let mut effects = Vec::new();
        for key in unfinished {
            match self.flights.get(&key) {
                Some(flight) if flight.is_ahead() => self.put_down(key),
                _ => self.give_away(key, Doubt::Old, &mut effects),
            }
        }
        self.settle_deliveries(now, &mut effects);
        together(effects)
    }

    /// A task leaves with its delivery, or because its time has not come. While it is being prepared
    /// its place is kept.
    fn put_down(&mut self, key: Key) {
        let Some(flight) = self.flights.get_mut(&key) else { return };
        if let Some(cancel) = flight.cancel.take() {
            cancel.cancel();
        }
        if let Some(parcel) = flight.parcel.take() {
            self.parcels.task_over(parcel);
        }
        if flight.stage == Stage::Preparing {
            flight.void = true;
        } else {
            self.flights.remove(&key);
        }
    }

    /// A task that was given away has a lease of ours all the same, taken while it was on its way:
    /// whoever was rung for has met it.
    pub(super) fn end_lease(run: RunId, ready: Ready, nonce: u64) -> Effect {
        let leases = vec![(ready.task, nonce)];
        let ticket = Ticket::default();
        Effect::Publish(Publish { run, ready: vec![ready], doubt: Doubt::Old, ticket, leases })
    }
}

impl Flight {
    /// Whether it continues a task whose commit is to come, which will release it: to ring for it as
    /// well would be to ring twice, the second time without doubt.
    pub(super) fn is_ahead(&self) -> bool {
        self.depth > 0 && self.outbox.is_none() && !self.rung && !self.void
    }
}

/// The same effects, with one publication for all that waits for the same.
pub(super) fn together(effects: Vec<Effect>) -> Vec<Effect> {
    let mut others = Vec::new();
    let mut publishes: BTreeMap<(RunId, Ticket, Doubt), Publish> = BTreeMap::new();
    for effect in effects {
        match effect {
            Effect::Publish(mut publish) => {
                let place = (publish.run, publish.ticket, publish.doubt);
                match publishes.get_mut(&place) {
                    Some(first) => {
                        first.ready.append(&mut publish.ready);
                        first.leases.append(&mut publish.leases);
                    }
                    None => drop(publishes.insert(place, publish)),
                }
            }
            other => others.push(other),
        }
    }
    others.extend(publishes.into_values().map(Effect::Publish));
    others
}
