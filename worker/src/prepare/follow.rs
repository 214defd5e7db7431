//! Running on: what needs nothing but the result of the attempt that has just ended on a slot starts
//! there at once. The core is told of both together, and has the last word.

use bolthole_broker::run::Ready;
use bolthole_broker::task::TaskKind;

use super::{Preparer, is_relay};
use crate::flight::{Doubt, Lead, Prepared, Runnable, Wanted};

impl Preparer {
    /// The task with which a slot runs on after `ended`, an attempt with a result that nobody has
    /// committed yet.
    pub(crate) fn next_of(&self, ended: &Runnable) -> Option<Runnable> {
        let run = ended.key.0;
        let plain = ended.ready == Ready::first(ended.key.1)
            && ended.suspect == 0
            && !ended.isolated
            && ended.info.class().kind != TaskKind::Effect
            && !ended.cancel.is_cancelled();
        if !plain {
            return None;
        }
        let depth = ended.depth + 1;
        for successor in &ended.info.descriptor().successors {
            let ready = Ready::first(*successor);
            let Some(info) = self.known.describe(run, *successor) else { continue };
            let served = self.queues.contains(&info.class().options.queue);
            // Whether a task that uses several results may run ahead is the core's to say.
            let joins = info.descriptor().inputs.len() > 1;
            if !served || joins || !info.may_continue(depth) || is_relay(ready, &info) {
                continue;
            }
            let lazy = Some(Lead { nonce: ended.nonce, others: Vec::new(), depth });
            let wanted = Wanted { ready, info: Some(info), doubt: Doubt::None, lazy };
            if let Some(Prepared::Run(next)) = self.at_once(run, &wanted) {
                return Some(*next);
            }
        }
        None
    }
}
