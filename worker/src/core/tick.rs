//! What time brings: leases, time limits, deliveries held for too long.

use std::collections::{BTreeMap, HashMap};

use bolthole_broker::id::RunId;
use bolthole_broker::limits;
use bolthole_broker::run::{LeaseRequest, Leased, Ready};
use tokio::time::Instant;

use super::{Core, Effect, ParcelId, Stage};
use crate::flight::{Doubt, Key};

/// An attempt that is on a slot, and since when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OnSlot {
    pub(crate) key: Key,
    pub(crate) nonce: u64,
    pub(crate) since: Instant,
    /// Whether its body's own time has begun: it waits for no process to start.
    pub(crate) begun: bool,
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
        for attempt in on_slots {
            let Some(flight) = self.flights.get(&attempt.key) else { continue };
            if flight.nonce != attempt.nonce || flight.stage != Stage::Running {
                continue;
            }
            let limit = flight.info.as_ref().and_then(|info| info.class().options.timeout);
            if attempt.begun && limit.is_some_and(|limit| now >= attempt.since + limit) {
                self.time_out(attempt.key, random, now, &mut effects);
            }
        }
        self.life.age(now);
        self.let_go(now, &mut effects);
        let overdue = self.parcels.overdue(now, limits::DELIVERY_HOLD_MAX);
        self.ask_for_leases(on_slots, renew, &overdue, now, &mut effects);
        for id in overdue {
            self.hand_over(id, on_slots, &mut effects);
        }
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
            let granted = matches!(leased, Leased::Granted { .. });
            let Some(flight) = self.flights.get_mut(&key) else {
                // Let go meanwhile; when it was committed instead, the store says so.
                if granted && self.draining {
                    let LeaseRequest { task, generation, nonce, .. } = request;
                    let ready = Ready { generation, ..Ready::first(task) };
                    effects.push(Self::end_lease(run, ready, nonce));
                }
                continue;
            };
            if flight.nonce != request.nonce || flight.stage != Stage::Running {
                continue;
            }
            if granted {
                flight.leased = true;
            } else {
                self.drop_result(key, &mut effects);
            }
        }
        self.settle_deliveries(now, &mut effects);
        effects
    }

    /// Leases for attempts that run for long or whose delivery is to be settled; with `renew` those
    /// that have one ask again, also while they wait for a slot.
    fn ask_for_leases(
        &self,
        on_slots: &[OnSlot],
        renew: bool,
        overdue: &[ParcelId],
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let since: HashMap<u64, Instant> =
            on_slots.iter().map(|attempt| (attempt.nonce, attempt.since)).collect();
        let mut leases: BTreeMap<RunId, Vec<LeaseRequest>> = BTreeMap::new();
        for ((run, task), flight) in &self.flights {
            if flight.stage != Stage::Running || flight.void {
                continue;
            }
            let since = since.get(&flight.nonce);
            let long = since.is_some_and(|since| now >= *since + limits::TASK_LEASE_AFTER);
            let late = flight.parcel.is_some_and(|parcel| overdue.contains(&parcel));
            let first = !flight.leased && (long || late && since.is_some());
            if first || renew && flight.leased {
                leases.entry(*run).or_default().push(flight.lease_request(*task));
            }
        }
        effects.extend(leases.into_iter().map(|(run, requests)| Effect::Lease { run, requests }));
    }

    /// A delivery held for too long is settled before any broker's timeout, as soon as its tasks
    /// that run have leases; those that have not begun are rung for again.
    fn hand_over(&mut self, id: ParcelId, on_slots: &[OnSlot], effects: &mut Vec<Effect>) {
        let members: Vec<Key> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.parcel == Some(id))
            .map(|(key, _)| *key)
            .collect();
        let mut unstarted = Vec::new();
        for key in members {
            let Some(flight) = self.flights.get_mut(&key) else { continue };
            let on_slot = on_slots.iter().any(|attempt| attempt.nonce == flight.nonce);
            match flight.stage {
                Stage::Preparing if !flight.void => self.give_away(key, Doubt::Old, effects),
                Stage::Running if !flight.void && !on_slot => unstarted.push(key),
                Stage::Running if !flight.void && !flight.leased => {}
                _ => {
                    flight.parcel = None;
                    self.parcels.task_over(id);
                }
            }
        }
        if !unstarted.is_empty() {
            effects.push(Effect::TakeBack(unstarted));
        }
    }
}
