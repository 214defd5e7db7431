//! Permits of tasks that may run only so often at once in all workers: what this worker has of them,
//! and what it could use. Pure bookkeeping; the store gives them out.

use std::collections::BTreeMap;

use bolthole_broker::task::TaskClass;

/// Permits by the task's name, of those that are on the bench or on slots.
#[derive(Debug, Default)]
pub(crate) struct Permits(BTreeMap<String, Permit>);

#[derive(Debug, Default)]
struct Permit {
    /// How many there are for all workers, as the last task said that came.
    max: u32,
    granted: u32,
    used: u32,
    waiting: u32,
}

/// What a worker would have of one task's permits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) task: String,
    pub(crate) max: u32,
    pub(crate) granted: u32,
    pub(crate) used: u32,
    pub(crate) wanted: u32,
}

impl Permits {
    /// A task has come onto the bench.
    pub(super) fn waits(&mut self, class: &TaskClass) {
        let Some(max) = class.options.concurrency else { return };
        let permit = self.0.entry(class.task.clone()).or_default();
        permit.max = max;
        permit.waiting += 1;
    }

    /// It has left the bench, without a slot.
    pub(super) fn has_gone(&mut self, class: &TaskClass) {
        if let Some(permit) = self.of(class) {
            permit.waiting = permit.waiting.saturating_sub(1);
        }
    }

    /// Whether it may run now.
    pub(super) fn allow(&self, class: &TaskClass) -> bool {
        class.options.concurrency.is_none()
            || self.0.get(&class.task).is_some_and(|permit| permit.used < permit.granted)
    }

    /// It has left the bench and runs; what is to be given back afterwards.
    pub(super) fn take(&mut self, class: &TaskClass) -> Option<String> {
        let permit = self.of(class)?;
        permit.waiting = permit.waiting.saturating_sub(1);
        permit.used += 1;
        Some(class.task.clone())
    }

    pub(super) fn give_back(&mut self, task: &str) {
        if let Some(permit) = self.0.get_mut(task) {
            permit.used = permit.used.saturating_sub(1);
        }
    }

    /// What the store has given; true when more may run than before.
    pub(super) fn grant(&mut self, task: &str, granted: u32) -> bool {
        let Some(permit) = self.0.get_mut(task) else { return false };
        let more = granted > permit.granted;
        permit.granted = granted;
        if permit.granted == 0 && permit.used == 0 && permit.waiting == 0 {
            self.0.remove(task);
        }
        more
    }

    /// What so many slots could use.
    pub(super) fn wishes(&self, slots: usize) -> Vec<Wish> {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let wish = |(task, permit): (&String, &Permit)| Wish {
            task: task.clone(),
            max: permit.max,
            granted: permit.granted,
            used: permit.used,
            wanted: permit.used.saturating_add(permit.waiting).min(slots.max(permit.used)),
        };
        self.0.iter().map(wish).collect()
    }

    /// Whether the store has to be asked, or told.
    pub(super) fn have_changed(&self, slots: usize) -> bool {
        !self.0.is_empty() && self.wishes(slots).iter().any(|wish| wish.wanted != wish.granted)
    }

    fn of(&mut self, class: &TaskClass) -> Option<&mut Permit> {
        class.options.concurrency?;
        self.0.get_mut(&class.task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(concurrency: Option<u32>) -> TaskClass {
        let mut class = TaskClass::relay("default");
        class.task = "etl::load".to_owned();
        class.options.concurrency = concurrency;
        class
    }

    fn wish(granted: u32, used: u32, wanted: u32) -> Vec<Wish> {
        vec![Wish { task: "etl::load".into(), max: 3, granted, used, wanted }]
    }

    #[test]
    fn as_many_run_as_were_granted() {
        let (mut permits, class) = (Permits::default(), class(Some(3)));
        (0..5).for_each(|_| permits.waits(&class));
        assert!(!permits.allow(&class) && permits.have_changed(2));
        assert_eq!(permits.wishes(2), wish(0, 0, 2), "no more than slots");
        assert!(permits.grant(&class.task, 1) && permits.allow(&class));
        let taken = permits.take(&class).unwrap();
        assert!(!permits.allow(&class));
        assert_eq!(permits.wishes(8), wish(1, 1, 5));
        permits.give_back(&taken);
        assert!(permits.allow(&class), "the next one runs without asking again");
    }

    #[test]
    fn what_is_not_needed_goes_back_and_is_forgotten() {
        let (mut permits, class) = (Permits::default(), class(Some(3)));
        permits.waits(&class);
        permits.waits(&class);
        permits.grant(&class.task, 2);
        let taken = permits.take(&class).unwrap();
        permits.has_gone(&class);
        assert_eq!(permits.wishes(8), wish(2, 1, 1));
        // It was cut off, and others have them now: what runs, runs.
        assert!(!permits.grant(&class.task, 0));
        assert_eq!(permits.wishes(8), wish(0, 1, 1));
        permits.give_back(&taken);
        assert!(!permits.have_changed(8) && !permits.grant(&class.task, 0));
        assert_eq!(permits.wishes(8), []);
    }

    #[test]
    fn tasks_without_a_limit_need_none() {
        let (mut permits, class) = (Permits::default(), class(None));
        permits.waits(&class);
        assert!(permits.allow(&class) && permits.take(&class).is_none());
        assert!(!permits.have_changed(1));
    }
}
