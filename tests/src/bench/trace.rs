//! Recorded executions of real workflows, in the format of `WfCommons` (`WfFormat` 1.5): each task
//! takes its time, scaled, and returns as many bytes as its output files had, scaled.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bolthole::Delayed;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;

use super::schedule::Timed;
use super::tasks::{ends, next, step};

/// The most that one task returns.
const BYTES_MAX: u64 = 64 << 20;

/// A workflow: tasks in an order in which each comes after its inputs.
#[derive(Debug, Clone)]
pub struct Trace {
    tasks: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    seconds: f64,
    bytes: usize,
    inputs: Vec<usize>,
}

#[derive(Deserialize)]
struct Document {
    workflow: Workflow,
}

#[derive(Deserialize)]
struct Workflow {
    specification: Specification,
    execution: Execution,
}

#[derive(Deserialize)]
struct Specification {
    tasks: Vec<Specified>,
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Specified {
    id: String,
    #[serde(default)]
    parents: BTreeSet<String>,
    #[serde(default)]
    output_files: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    id: String,
    #[serde(default)]
    size_in_bytes: u64,
}

#[derive(Deserialize)]
struct Execution {
    tasks: Vec<Executed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Executed {
    id: String,
    #[serde(default)]
    runtime_in_seconds: f64,
}

impl Trace {
    /// Reads a workflow, plain or compressed by gzip, with all times and all sizes scaled.
    ///
    /// # Errors
    /// When the file cannot be read, is in another format, or its tasks wait for one another.
    pub fn read(path: &Path, time_scale: f64, size_scale: f64) -> Result<Self> {
        let file =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let text = if path.extension().is_some_and(|extension| extension == "gz") {
            let mut text = Vec::new();
            MultiGzDecoder::new(&*file).read_to_end(&mut text)?;
            text
        } else {
            file
        };
        let document: Document = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not a workflow", path.display()))?;
        Self::of(&document.workflow, time_scale, size_scale)
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes of files, which a scale makes inexact anyway"
    )]
    fn of(workflow: &Workflow, time_scale: f64, size_scale: f64) -> Result<Self> {
        let times: HashMap<_, _> = workflow
            .execution
            .tasks
            .iter()
            .map(|task| (&task.id, task.runtime_in_seconds))
            .collect();
        let sizes: HashMap<_, _> = workflow
            .specification
            .files
            .iter()
            .map(|file| (&file.id, file.size_in_bytes))
            .collect();
        let mut places = HashMap::new();
        let mut tasks = Vec::new();
        let mut rest: Vec<_> = workflow.specification.tasks.iter().collect();
        while !rest.is_empty() {
            // One generation after the other.
            let known = |task: &&Specified| task.parents.iter().all(|id| places.contains_key(id));
            let (ready, later): (Vec<_>, Vec<_>) = rest.into_iter().partition(known);
            ensure!(!ready.is_empty(), "{} tasks wait for what never comes", later.len());
            for task in &ready {
                let seconds = times.get(&task.id).copied().unwrap_or_default() * time_scale;
                let bytes: u64 = task.output_files.iter().filter_map(|file| sizes.get(file)).sum();
                let bytes = ((bytes as f64 * size_scale) as u64).min(BYTES_MAX);
                let inputs = task.parents.iter().filter_map(|id| places.get(id).copied()).collect();
                tasks.push(Step { seconds, bytes: usize::try_from(bytes)?, inputs });
            }
            let first = tasks.len() - ready.len();
            places.extend(ready.iter().zip(first..).map(|(task, place)| (task.id.clone(), place)));
            rest = later;
        }
        Ok(Self { tasks })
    }

    /// The calls; the last one's result is [`Trace::expected`].
    pub fn calls(&self) -> Delayed<u64> {
        let mut calls: Vec<Delayed<Bytes>> = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            let inputs: Vec<_> = task.inputs.iter().map(|input| &calls[*input]).collect();
            calls.push(step::delayed(task.seconds, task.bytes, inputs));
        }
        ends::delayed(self.ends().map(|place| &calls[place]).collect::<Vec<_>>())
    }

    /// What the workflow computes.
    pub fn expected(&self) -> u64 {
        let mut values: Vec<u8> = Vec::with_capacity(self.tasks.len());
        for task in &self.tasks {
            values.push(next(task.inputs.iter().map(|input| u32::from(values[*input])).sum()));
        }
        self.ends().map(|place| u64::from(values[place])).sum()
    }

    /// How many tasks it has, with the one that adds up the ends.
    pub fn tasks(&self) -> usize {
        self.tasks.len() + 1
    }

    /// The same graph as durations, without its last task, which takes no time.
    pub fn timed(&self) -> Vec<Timed> {
        let timed = |task: &Step| Timed {
            time: Duration::from_secs_f64(task.seconds.max(0.0)),
            inputs: task.inputs.clone(),
        };
        self.tasks.iter().map(timed).collect()
    }

    /// The tasks whose results nobody takes.
    fn ends(&self) -> impl Iterator<Item = usize> {
        let taken: BTreeSet<_> = self.tasks.iter().flat_map(|task| &task.inputs).copied().collect();
        (0..self.tasks.len()).filter(move |place| !taken.contains(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIAMOND: &str = r#"{"workflow": {
        "specification": {
            "tasks": [
                {"id": "d", "parents": ["b", "c", "b"]},
                {"id": "b", "parents": ["a"], "outputFiles": ["x", "y", "unknown"]},
                {"id": "c", "parents": ["a"]},
                {"id": "a", "children": ["b", "c"]}
            ],
            "files": [{"id": "x", "sizeInBytes": 100}, {"id": "y", "sizeInBytes": 50}]
        },
        "execution": {"tasks": [{"id": "a", "runtimeInSeconds": 3}, {"id": "b", "runtimeInSeconds": 2}]}
    }}"#;

    fn read(text: &str) -> Result<Trace> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("workflow.json");
        std::fs::write(&path, text)?;
        Trace::read(&path, 0.5, 0.1)
    }

    #[test]
    fn a_workflow_is_put_in_order_and_scaled() {
        let trace = read(DIAMOND).unwrap();
        let times: Vec<_> = trace.timed().iter().map(|task| task.time.as_millis()).collect();
        assert_eq!(times, [1500, 1000, 0, 0]);
        let inputs: Vec<_> = trace.timed().into_iter().map(|task| task.inputs).collect();
        assert_eq!(inputs, [vec![], vec![0], vec![0], vec![1, 2]]);
        assert_eq!(trace.tasks[1].bytes, 15);
        // a gives 1, b and c 2 each, d 5.
        assert_eq!((trace.tasks(), trace.expected()), (5, 5));
    }

    #[test]
    fn a_sequential_run_gives_the_expected_answer() {
        let trace = read(DIAMOND).unwrap();
        let run = bolthole::testing::Sequential::new().virtual_time();
        assert_eq!(run.compute(&trace.calls()).unwrap(), 5);
    }

    #[test]
    fn what_is_no_workflow_is_refused() {
        let circle = DIAMOND.replace(r#""id": "a", "#, r#""id": "a", "parents": ["d"], "#);
        for text in ["", "{}", r#"{"workflow": 1}"#, &circle] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
