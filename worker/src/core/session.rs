//! What a lost session with the queue means for the tasks here, and what comes from workers that are
//! gone.

use std::collections::BTreeMap;

use bolthole_broker::id::{RunId, TaskId};
use bolthole_broker::limits;
use bolthole_broker::queue::Epoch;
use bolthole_broker::run::{LeaseRequest, Ready};
use tokio::time::Instant;

use super::{Core, Effect, Flight, Publish, Stage, Ticket};
use crate::flight::{Doubt, Wanted};

/// The session with the queue, as far as it says whether deliveries may be repetitions that are not
/// marked as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    First,
    /// It was lost, and there is no other yet.
    Lost,
    /// Another after one that was lost, doubtful until then.
    Renewed(Instant),
}

impl Session {
    pub(super) fn is_doubtful(self, now: Instant) -> bool {
        match self {
            Self::First => false,
            Self::Lost => true,
            Self::Renewed(end) => now < end,
        }
    }
}

impl Flight {
    pub(super) fn lease_request(&self, task: TaskId) -> LeaseRequest {
        let (generation, nonce) = (self.ready.generation, self.nonce);
        LeaseRequest { task, generation, nonce, over: None }
    }
}

impl Core {
    /// A session with the queue ended: its deliveries come again. What runs here runs on, and takes
    /// leases, so that nobody begins it once more; what is still being prepared asks the store before
    /// it runs.
    pub(crate) fn on_session_lost(&mut self, epoch: Epoch) -> Vec<Effect> {
        self.parcels.forget_session(epoch);
        self.session = Session::Lost;
        let mut leases: BTreeMap<RunId, Vec<LeaseRequest>> = BTreeMap::new();
        for ((run, task), flight) in &mut self.flights {
            flight.doubtful |= flight.stage == Stage::Preparing;
            if flight.stage == Stage::Running && !flight.void && !flight.leased {
                leases.entry(*run).or_default().push(flight.lease_request(*task));
            }
        }
        leases.into_iter().map(|(run, requests)| Effect::Lease { run, requests }).collect()
    }

    /// The next session has begun.
    pub(crate) fn on_session_started(&mut self, now: Instant) {
        if self.session == Session::Lost {
            self.session = Session::Renewed(now + limits::SESSION_DOUBT);
        }
    }

    /// Tasks of a worker that is gone: as many run here as the slots are short of, because what is
    /// published may reach another worker that does not take part any more. The store is asked first.
    pub(crate) fn on_inherited(&mut self, run: RunId, ready: Vec<Ready>) -> Vec<Effect> {
        let mut room = self.room();
        let (mut tasks, mut published) = (Vec::new(), Vec::new());
        for ready in ready {
            if let Some(flight) = self.flights.get_mut(&(run, ready.task)) {
                flight.rung = true;
            } else if room > 0 {
                room -= 1;
                let wanted = Wanted { ready, info: None, doubt: Doubt::DEADLY, lazy: None };
                self.take_off(run, &wanted, None, None, 0);
                tasks.push(wanted);
            } else {
                published.push(ready);
            }
        }
        let mut effects = Vec::new();
        if !tasks.is_empty() {
            effects.push(Effect::Prepare { run, tasks });
        }
        if !published.is_empty() {
            let (doubt, ticket) = (Doubt::DEADLY, Ticket::default());
            let leases = Vec::new();
            effects.push(Effect::Publish(Publish { run, ready: published, doubt, ticket, leases }));
        }
        effects
    }
}
