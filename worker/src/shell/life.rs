//! The store has begun another life: what is here is compared with it, beside the loop.

use std::sync::Arc;

use bolthole_broker::store::Epoch;
use tokio::time::{Instant, sleep};

use super::requests::STORE_WAIT;
use super::{Answer, Shell};
use crate::compare::compare;
use crate::core::{Compared, Effect};

impl Shell {
    /// Until the answer nothing is committed; what a message says is checked.
    pub(super) async fn begin_life(&mut self) {
        let epoch = self.life.borrow_and_update().clone();
        self.compared.clone_from(&epoch);
        let (effects, inputs, recent) = self.core().on_new_life();
        self.perform(effects).await;
        let preparer = Arc::clone(&self.preparer);
        let answers = self.answers.clone();
        self.tracker.spawn(async move {
            let mut wait = STORE_WAIT.0;
            let compared = loop {
                let inputs = inputs.clone();
                match compare(&preparer.store, &preparer.values, inputs, &recent).await {
                    Ok(compared) => break compared,
                    Err(error) if error.is_retryable() && !preparer.stop.is_cancelled() => {
                        tracing::warn!(%error, "cannot compare what is here with the store yet");
                        sleep(wait).await;
                        wait = (wait * 2).min(STORE_WAIT.1);
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot compare what is here with the store");
                        break Compared::default();
                    }
                }
            };
            let _ = answers.send(Answer::Compared(epoch, compared)).await;
        });
    }

    /// From now on messages of this life are believed, unless there is yet another one.
    pub(super) fn on_compared(
        &mut self,
        epoch: Epoch,
        compared: Compared,
        now: Instant,
    ) -> Vec<Effect> {
        let effects = self.core().on_compared(compared, now);
        let (publisher, life) = (Arc::clone(&self.publisher), self.life.clone());
        self.tracker.spawn(async move {
            let mut known = publisher.epoch.write().await;
            if *life.borrow() == epoch {
                *known = epoch;
            }
        });
        effects
    }
}
