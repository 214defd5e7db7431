//! Counters and gauges, and their text exposition (the Prometheus format, version 0.0.4).
//!
//! Names are fixed in the code and begin with `bolthole_`. At most one label, whose values are
//! bounded: what comes after the first [`LABEL_VALUES_MAX`] is counted as `other`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values of one label before the rest goes by `other`.
pub const LABEL_VALUES_MAX: usize = 1_000;

/// A number that is shared with the exposition. Clones are the same number.
#[derive(Debug, Clone, Default)]
pub struct Number(Arc<AtomicU64>);

impl Number {
    /// Adds to a counter.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets a gauge, or a counter that is kept elsewhere.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// What it stands at.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number for each value of a label.
#[derive(Debug, Clone)]
pub struct Labelled {
    label: &'static str,
    values: Arc<Mutex<BTreeMap<String, Number>>>,
}

impl Labelled {
    /// The number of one value of the label.
    pub fn with(&self, value: &str) -> Number {
        let mut values = lock(&self.values);
        if let Some(number) = values.get(value) {
            return number.clone();
        }
        let value = if values.len() < LABEL_VALUES_MAX { value } else { "other" };
        values.entry(value.to_owned()).or_default().clone()
    }
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
enum Body {
    Plain(Number),
    Labelled(Labelled),
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: Kind,
    body: Body,
}

/// The metrics of a process. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    families: Arc<Mutex<BTreeMap<&'static str, Family>>>,
}

impl Metrics {
    /// A number that only grows. The same name gives the same number.
    pub fn counter(&self, name: &'static str, help: &'static str) -> Number {
        self.plain(name, help, Kind::Counter)
    }

    /// A number that goes up and down.
    pub fn gauge(&self, name: &'static str, help: &'static str) -> Number {
        self.plain(name, help, Kind::Gauge)
    }

    /// A counter for each value of `label`.
    pub fn counters(
        &self,
        name: &'static str,
        help: &'static str,
        label: &'static str,
    ) -> Labelled {
        debug_assert!(is_name(name) && is_name_part(label), "{name} {label}");
        let fresh = Labelled { label, values: Arc::default() };
        let mut families = lock(&self.families);
        let body = Body::Labelled(fresh.clone());
        let family = families.entry(name).or_insert(Family { help, kind: Kind::Counter, body });
        match &family.body {
            Body::Labelled(labelled) => labelled.clone(),
            // A name used in two ways: a number that is not shown beats a panic.
            Body::Plain(_) => fresh,
        }
    }

    fn plain(&self, name: &'static str, help: &'static str, kind: Kind) -> Number {
        debug_assert!(is_name(name), "{name}");
        let fresh = Number::default();
        let mut families = lock(&self.families);
        let body = Body::Plain(fresh.clone());
        match &families.entry(name).or_insert(Family { help, kind, body }).body {
            Body::Plain(number) => number.clone(),
            Body::Labelled(_) => fresh,
        }
    }

    /// All of them as text, in order of their names.
    pub fn render(&self) -> String {
        let mut out = String::new();
        for (name, family) in &*lock(&self.families) {
            // Writing to a string does not fail.
            let _ = family.render(name, &mut out);
        }
        out
    }
}

impl Family {
    fn render(&self, name: &str, out: &mut String) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        writeln!(out, "# HELP {name} {}", self.help)?;
        writeln!(out, "# TYPE {name} {kind}")?;
        match &self.body {
            Body::Plain(number) => writeln!(out, "{name} {}", number.get()),
            Body::Labelled(Labelled { label, values }) => {
                for (value, number) in &*lock(values) {
                    let value = escape(value);
                    writeln!(out, "{name}{{{label}=\"{value}\"}} {}", number.get())?;
                }
                Ok(())
            }
        }
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

fn is_name(name: &str) -> bool {
    name.strip_prefix("bolthole_").is_some_and(is_name_part)
}

fn is_name_part(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_a_scraper_reads() {
        let metrics = Metrics::default();
        metrics.gauge("bolthole_held_bytes", "Bytes held.").set(7);
        let tasks = metrics.counters("bolthole_tasks_total", "Tasks finished.", "task");
        tasks.with("load").add(2);
        tasks.with("a\"b\\c\nd").add(1);
        metrics.counter("bolthole_commits_total", "Commits.").add(3);
        metrics.counter("bolthole_commits_total", "Commits.").add(1);
        let expected = "\
# HELP bolthole_commits_total Commits.
# TYPE bolthole_commits_total counter
bolthole_commits_total 4
# HELP bolthole_held_bytes Bytes held.
# TYPE bolthole_held_bytes gauge
bolthole_held_bytes 7
# HELP bolthole_tasks_total Tasks finished.
# TYPE bolthole_tasks_total counter
bolthole_tasks_total{task=\"a\\\"b\\\\c\\nd\"} 1
bolthole_tasks_total{task=\"load\"} 2
";
        assert_eq!(metrics.render(), expected);
    }

    #[test]
    fn labels_are_bounded() {
        let metrics = Metrics::default();
        let tasks = metrics.counters("bolthole_tasks_total", "Tasks finished.", "task");
        for task in 0..LABEL_VALUES_MAX + 500 {
            tasks.with(&task.to_string()).add(1);
        }
        assert_eq!(tasks.with("7").get(), 1);
        assert_eq!(tasks.with("other").get(), 500);
        assert_eq!(metrics.render().lines().count(), 2 + LABEL_VALUES_MAX + 1);
    }
}
