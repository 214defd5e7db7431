//! Who uses a task's result, inside its segment.

/// The successors of each task of a segment.
#[derive(Debug)]
pub(super) struct Successors {
    /// Where each task's begin in `tasks`; one more at the end.
    starts: Vec<u32>,
    tasks: Vec<u16>,
}

impl Successors {
    /// From edges by ascending consumer, so that each task's successors ascend too.
    pub(super) fn of(tasks: usize, edges: &[(u16, u16)]) -> Self {
        let mut starts = vec![0_u32; tasks + 1];
        for (source, _) in edges {
            starts[usize::from(*source) + 1] += 1;
        }
        for index in 0..tasks {
            starts[index + 1] += starts[index];
        }
        let mut next = starts.clone();
        let mut sorted = vec![0; edges.len()];
        for &(source, consumer) in edges {
            let place = &mut next[usize::from(source)];
            sorted[*place as usize] = consumer;
            *place += 1;
        }
        Self { starts, tasks: sorted }
    }

    /// The successors of the task at `index`.
    pub(super) fn after(&self, index: usize) -> impl ExactSizeIterator<Item = u16> {
        let (from, to) = (self.starts[index] as usize, self.starts[index + 1] as usize);
        self.tasks[from..to].iter().copied()
    }
}
