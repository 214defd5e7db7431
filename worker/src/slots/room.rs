//! A body has ended and there is no memory for its result: it waits, and its slot goes on with
//! another task, which may be the one that frees some.

use std::sync::Arc;

use bolthole_broker::call::Value;
use bolthole_broker::error::TaskErrorKind;
use bolthole_broker::task::TaskKind;

use super::{Shared, Slots, cancelled, failed};
use crate::flight::{Ended, Runnable};
use crate::values;

impl Shared {
    /// Waits until there is memory for a value; how its attempt ends when there is none.
    pub(super) fn make_room(
        self: &Arc<Self>,
        number: usize,
        runnable: &Runnable,
        value: Option<&mut Value>,
    ) -> Result<(), Ended> {
        let Some(value) = value else { return Ok(()) };
        // What an effect has done is done: not to say so would be worse than too much memory.
        let effect = runnable.info.class().kind == TaskKind::Effect;
        let bytes = value.bytes.len() as u64;
        let held = self.preparer.values.held();
        let frees = !runnable.info.inputs(&runnable.ready).is_empty();
        if effect || !values::is_large(value.bytes.len()) || held.has_room(2 * bytes, frees) {
            return Ok(());
        }
        // The same value twice, as itself and encoded, is a luxury.
        value.typed = None;
        if held.has_room(bytes, frees) {
            return Ok(());
        }
        tracing::warn!(run = %runnable.key.0, task = %runnable.key.1, bytes, "waits for memory");
        let slots = Slots { shared: Arc::clone(self) };
        if self.bench().set_aside(number)
            && let Err(error) = slots.add()
        {
            tracing::error!(%error, "cannot start a thread for a slot");
            self.bench().set_back(number);
        }
        self.wake_all();
        let room = held.room(bytes, frees, self.memory_wait);
        match self.spawner.io.block_on(runnable.cancel.run_until_cancelled(room)) {
            None => Err(cancelled()),
            Some(Ok(())) => Ok(()),
            Some(Err(none)) => Err(failed(TaskErrorKind::OutOfMemory, &none.to_string(), true)),
        }
    }
}
