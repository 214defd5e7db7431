//! Permits of tasks that may run only so often at once in all workers: what this worker has of them,
//! and what it could use. Pure bookkeeping; the store gives them out.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bolthole_broker::task::TaskClass;

/// Permits by the task's name, of those that are on the bench or on slots.
#[derive(Debug, Default)]
pub(crate) struct Permits(BTreeMap<String, Permit>);

#[derive(Debug, Default)]
struct Permit {
    /// How many tasks wait, by how many of all workers may run at once then: a call may be stricter
    /// than its function.
    waiting: BTreeMap<u32, u32>,
    granted: u32,
    /// How many all workers had together when these were granted. None runs on them that allows fewer.
    max: u32,
    used: u32,
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

impl Permit {
    /// The limit of the strictest task that waits, which then holds for all of them.
    fn strictest(&self) -> u32 {
        self.waiting.first_key_value().map_or(self.max, |(max, _)| *max)
    }

    /// What is wanted of how many, and what counts as granted of that.
    fn wants(&self, slots: usize) -> (u32, u32, u32) {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        let waiting = self.waiting.values().fold(0_u32, |sum, count| sum.saturating_add(*count));
        let (strictest, used) = (self.strictest(), self.used);
        let stricter = strictest < self.max;
        // What runs has its permits until its end; only then can others be asked for.
        let (max, waiting) =
            if stricter && used > 0 { (self.max, 0) } else { (strictest, waiting) };
        let wanted = used.saturating_add(waiting).min(slots).min(max).max(used);
        (wanted, max, if max < self.max { 0 } else { self.granted })
    }

    fn wish(&self, task: &str, slots: usize) -> Wish {
        let (wanted, max, granted) = self.wants(slots);
        Wish { task: task.to_owned(), max, granted, used: self.used, wanted }
    }
}

impl Permits {
    /// A task has come onto the bench.
    pub(super) fn waits(&mut self, class: &TaskClass) {
        let Some(max) = class.options.concurrency else { return };
        let new = || Permit { max, ..Permit::default() };
        let permit = self.0.entry(class.task.clone()).or_insert_with(new);
        *permit.waiting.entry(max).or_default() += 1;
    }

    /// It has left the bench, without a slot.
    pub(super) fn has_gone(&mut self, class: &TaskClass) {
        let (Some(max), Some(permit)) = (class.options.concurrency, self.0.get_mut(&class.task))
        else {
            return;
        };
        if let Entry::Occupied(mut waiting) = permit.waiting.entry(max) {
            *waiting.get_mut() -= 1;
            if *waiting.get() == 0 {
                waiting.remove();
            }
        }
    }

    /// Whether it may run now.
    pub(super) fn allow(&self, class: &TaskClass) -> bool {
        let allows =
            |permit: &Permit| permit.used < permit.granted && permit.max <= permit.strictest();
        class.options.concurrency.is_none() || self.0.get(&class.task).is_some_and(allows)
    }

    /// It has left the bench and runs; what is to be given back afterwards.
    pub(super) fn take(&mut self, class: &TaskClass) -> Option<String> {
        class.options.concurrency?;
        self.has_gone(class);
        self.0.get_mut(&class.task)?.used += 1;
        Some(class.task.clone())
    }

    pub(super) fn give_back(&mut self, task: &str) {
        if let Some(permit) = self.0.get_mut(task) {
            permit.used = permit.used.saturating_sub(1);
        }
    }

    /// The store is about to be asked for this. What it may take away is used for nothing any more.
    pub(super) fn ask(&mut self, task: &str, slots: usize) -> Option<Wish> {
        let permit = self.0.get_mut(task)?;
        let wish = permit.wish(task, slots);
        permit.granted = wish.granted.min(wish.wanted);
        Some(Wish { granted: permit.granted, ..wish })
    }

    /// What the store has given of so many; true when more may run than before.
    pub(super) fn grant(&mut self, task: &str, granted: u32, max: u32) -> bool {
        let Some(permit) = self.0.get_mut(task) else { return false };
        let more = granted > permit.granted;
        (permit.granted, permit.max) = (granted, max);
        if permit.granted == 0 && permit.used == 0 && permit.waiting.is_empty() {
            self.0.remove(task);
        }
        more
    }

    /// What so many slots could use.
    pub(super) fn wishes(&self, slots: usize) -> Vec<Wish> {
        self.0.iter().map(|(task, permit)| permit.wish(task, slots)).collect()
    }

    /// Whether the store has to be asked, or told.
    pub(super) fn have_changed(&self, slots: usize) -> bool {
        let wants = |permit: &Permit| permit.wants(slots);
        self.0.values().map(wants).any(|(wanted, _, granted)| wanted != granted)
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
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
        assert_eq!(permits.wishes(8), wish(0, 0, 3), "no more than there are");
        assert!(permits.grant(&class.task, 1, 3) && permits.allow(&class));
        let taken = permits.take(&class).unwrap();
        assert!(!permits.allow(&class));
        assert_eq!(permits.wishes(8), wish(1, 1, 3));
        permits.give_back(&taken);
        assert!(permits.allow(&class), "the next one runs without asking again");
    }

    #[test]
    fn what_is_not_needed_goes_back_and_is_forgotten() {
        let (mut permits, class) = (Permits::default(), class(Some(3)));
        permits.waits(&class);
        permits.waits(&class);
        permits.grant(&class.task, 2, 3);
        let taken = permits.take(&class).unwrap();
        permits.has_gone(&class);
        assert_eq!(permits.wishes(8), wish(2, 1, 1));
        // It was cut off, and others have them now: what runs, runs.
        assert!(!permits.grant(&class.task, 0, 3));
        assert_eq!(permits.wishes(8), wish(0, 1, 1));
        permits.give_back(&taken);
        assert!(!permits.have_changed(8) && !permits.grant(&class.task, 0, 3));
        assert!(permits.is_empty());
    }

    #[test]
    fn nothing_begins_on_what_is_being_given_back() {
        let (mut permits, class) = (Permits::default(), class(Some(3)));
        permits.waits(&class);
        permits.grant(&class.task, 3, 3);
        assert_eq!(permits.ask(&class.task, 8).as_ref(), wish(1, 0, 1).first());
        permits.waits(&class);
        assert!(permits.take(&class).is_some() && !permits.allow(&class), "the store may have it");
    }

    #[test]
    fn a_stricter_one_waits_for_those_that_run() {
        let (mut permits, loose, strict) = (Permits::default(), class(Some(3)), class(Some(1)));
        permits.waits(&loose);
        permits.waits(&loose);
        permits.grant(&loose.task, 3, 3);
        let taken = permits.take(&loose).unwrap();
        permits.waits(&strict);
        assert!(!permits.allow(&strict) && !permits.allow(&loose), "others may have two of three");
        assert_eq!(permits.wishes(8), wish(3, 1, 1));
        permits.give_back(&taken);
        let asked = permits.ask(&strict.task, 8).unwrap();
        assert_eq!((asked.max, asked.granted, asked.wanted), (1, 0, 1));
        assert!(permits.grant(&strict.task, 1, asked.max) && permits.allow(&strict));
        permits.take(&strict).unwrap();
        assert_eq!(permits.wishes(8), wish(1, 1, 2), "beside it, those that allow more");
    }

    #[test]
    fn tasks_without_a_limit_need_none() {
        let (mut permits, class) = (Permits::default(), class(None));
        permits.waits(&class);
        assert!(permits.allow(&class) && permits.take(&class).is_none());
        assert!(permits.is_empty() && !permits.have_changed(1));
    }
}
