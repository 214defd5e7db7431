//! What time brings: leases, time limits, deliveries held for too long.

use std::collections::HashMap;

use bolthole_broker::id::RunId;
use bolthole_broker::limits;
use bolthole_broker::run::{LeaseRequest, Leased};
use tokio::time::Instant;

use super::{Core, Effect, Stage};
use crate::flight::Key;

/// An attempt that is on a slot, and since when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnSlot {
    pub(crate) key: Key,
    pub(crate) nonce: u64,
    pub(crate) since: Instant,
}

impl Core {
    /// Time has passed; `on_slots` are the attempts that run. `renew` when leases are to be
    /// prolonged too.
    pub(crate) fn on_tick(
        &mut self,
        on_slots: &[OnSlot],
        renew: bool,
        random: u64,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut leases: HashMap<RunId, Vec<LeaseRequest>> = HashMap::new();
        for attempt in on_slots {
            let Some(flight) = self.flights.get(&attempt.key) else { continue };
            if flight.nonce != attempt.nonce || flight.stage != Stage::Running {
                continue;
            }
            let limit = flight.info.as_ref().and_then(|info| info.class().options.timeout);
            if limit.is_some_and(|limit| now >= attempt.since + limit) {
                self.time_out(attempt.key, random, now, &mut effects);
                continue;
            }
            let long = now >= attempt.since + limits::TASK_LEASE_AFTER;
            if long && (renew || !flight.leased) {
                leases.entry(attempt.key.0).or_default().push(LeaseRequest {
                    task: attempt.key.1,
                    generation: flight.ready.generation,
                    nonce: flight.nonce,
                    over: None,
                });
            }
        }
        effects.extend(leases.into_iter().map(|(run, requests)| Effect::Lease { run, requests }));
        self.hand_over(on_slots, now, &mut effects);
        let settled = self.batches.take_idle_settled();
        effects
            .extend(settled.into_iter().map(|(run, sequences)| Effect::Settle { run, sequences }));
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// Leases were answered: an attempt that did not get its lease is void.
    pub(crate) fn on_leased(
        &mut self,
        run: RunId,
        answers: Vec<(LeaseRequest, Leased)>,
        now: Instant,
    ) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (request, leased) in answers {
            let key = (run, request.task);
            let Some(flight) = self.flights.get_mut(&key) else { continue };
            if flight.nonce != request.nonce || flight.stage != Stage::Running {
                continue;
            }
            if matches!(leased, Leased::Granted { .. }) {
                flight.leased = true;
            } else {
                self.drop_result(key, &mut effects);
            }
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// Deliveries held for too long: tasks that run are protected by their leases, those that have
    /// not begun are rung for again, and the delivery is settled before any broker's timeout.
    fn hand_over(&mut self, on_slots: &[OnSlot], now: Instant, effects: &mut Vec<Effect>) {
        for id in self.parcels.overdue(now, limits::DELIVERY_HOLD_MAX) {
            let members: Vec<Key> = self
                .flights
                .iter()
                .filter(|(_, flight)| flight.parcel == Some(id))
                .map(|(key, _)| *key)
                .collect();
            let running = |key: &Key| on_slots.iter().any(|attempt| attempt.key == *key);
            let unprotected = members.iter().any(|key| {
                let flight = self.flights.get(key);
                running(key) && flight.is_some_and(|flight| !flight.leased)
            });
            if unprotected {
                continue;
            }
            for key in members {
                let waiting = self.flights.get(&key).is_some_and(|f| f.stage != Stage::Finished);
                if waiting && !running(&key) {
                    self.give_away(key, true, effects);
                } else if let Some(flight) = self.flights.get_mut(&key) {
                    flight.parcel = None;
                }
            }
            effects.extend(self.parcels.release(id).map(Effect::Ack));
        }
    }
}
