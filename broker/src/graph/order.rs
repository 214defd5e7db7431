//! The numbers of a graph's tasks: depth first from the outputs, so that one output's cone is
//! finished before the next is begun and neighbours get numbers close to each other.
//!
//! - Of a call's inputs the one comes first that needs the most results at a time: while the others
//!   are made, only its own result is kept (Sethi and Ullman's order for trees, a good guess for
//!   graphs). Among equals, those that share their first consumer stay together.
//! - A call that is ready and the last consumer of one of its inputs comes at once, whatever output
//!   it belongs to: nothing more has to be kept for it, and something can be freed.
//!
//! Nothing recurses: a chain of a million calls needs a stack of its own, not the thread's.

use super::Node;

/// Consumers of each call, as slices of one vector.
struct Consumers {
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Consumers {
    fn of(nodes: &[Node], needed: &[bool]) -> Self {
        let edges = || {
            let consumers = nodes.iter().zip(0_u32..).zip(needed).filter(|(_, needed)| **needed);
            consumers.flat_map(|((node, place), _)| node.inputs.iter().map(move |&i| (i, place)))
        };
        let mut starts = vec![0_u32; nodes.len() + 1];
        edges().for_each(|(input, _)| starts[input as usize + 1] += 1);
        for place in 0..nodes.len() {
            starts[place + 1] += starts[place];
        }
        let mut next = starts.clone();
        let mut places = vec![0; starts[nodes.len()] as usize];
        for (input, consumer) in edges() {
            let at = &mut next[input as usize];
            places[*at as usize] = consumer;
            *at += 1;
        }
        Self { starts, places }
    }

    /// Ascending by place.
    fn after(&self, place: u32) -> &[u32] {
        let place = place as usize;
        &self.places[self.starts[place] as usize..self.starts[place + 1] as usize]
    }
}

/// The needed calls, by place, in the order of their numbers: every call behind its inputs.
pub(super) fn order(nodes: &[Node], needed: &[bool], outputs: &[u32]) -> Vec<u32> {
    let consumers = Consumers::of(nodes, needed);
    let visits = visit_order(nodes, needed, &consumers);
    let count = |place: u32| u32::try_from(nodes[place as usize].inputs.len()).unwrap_or(u32::MAX);
    let places = 0..u32::try_from(nodes.len()).unwrap_or(u32::MAX);
    let mut walk = Walk {
        nodes,
        left: places.clone().map(|place| consumers.after(place).len()).collect(),
        waiting: places.map(count).collect(),
        consumers,
        numbered: vec![false; nodes.len()],
        order: Vec::with_capacity(needed.iter().filter(|needed| **needed).count()),
        eager: Vec::new(),
    };
    // A call and how many of its inputs have been visited.
    let mut path: Vec<(u32, usize)> = Vec::new();
    for &output in outputs {
        path.push((output, 0));
        while let Some((place, visited)) = path.last_mut() {
            let node = *place;
            let inputs = visits.of(node);
            if walk.numbered[node as usize] {
                path.pop();
            } else if let Some(&input) = inputs.get(*visited) {
                *visited += 1;
                path.push((input, 0));
            } else {
                path.pop();
                walk.number(node);
            }
        }
    }
    walk.order
}

struct Walk<'a> {
    nodes: &'a [Node],
    consumers: Consumers,
    /// For each call its consumers without a number.
    left: Vec<usize>,
    /// For each call its inputs without a number.
    waiting: Vec<u32>,
    numbered: Vec<bool>,
    order: Vec<u32>,
    /// Calls that are ready and free something.
    eager: Vec<u32>,
}

impl Walk<'_> {
    /// Gives `place` the next number, and those after it that free something.
    fn number(&mut self, place: u32) {
        self.eager.push(place);
        while let Some(place) = self.eager.pop() {
            if !std::mem::replace(&mut self.numbered[place as usize], true) {
                self.order.push(place);
                self.made(place);
                // Taken before what `made` found: it frees a result that is older.
                self.consumed(place);
            }
        }
    }

    /// Inputs of `place` may have one consumer left now.
    fn consumed(&mut self, place: u32) {
        for &input in &self.nodes[place as usize].inputs {
            let left = &mut self.left[input as usize];
            *left -= 1;
            if *left == 1 {
                // Once for each call, so all searches together cost as much as there are edges.
                let mut others = self.consumers.after(input).iter();
                let last = others.find(|other| !self.numbered[**other as usize]);
                self.eager.extend(last.filter(|last| self.waiting[**last as usize] == 0));
            }
        }
    }

    /// Consumers of `place` may be ready now.
    fn made(&mut self, place: u32) {
        // The last one is taken first.
        for &consumer in self.consumers.after(place).iter().rev() {
            let waiting = &mut self.waiting[consumer as usize];
            *waiting -= 1;
            if *waiting == 0 {
                let inputs = &self.nodes[consumer as usize].inputs;
                if inputs.iter().any(|&input| self.left[input as usize] == 1) {
                    self.eager.push(consumer);
                }
            }
        }
    }
}

/// The inputs of each call in the order in which they are to be visited.
struct Visits {
    starts: Vec<u32>,
    inputs: Vec<u32>,
}

impl Visits {
    fn of(&self, place: u32) -> &[u32] {
        let place = place as usize;
        &self.inputs[self.starts[place] as usize..self.starts[place + 1] as usize]
    }
}

fn visit_order(nodes: &[Node], needed: &[bool], consumers: &Consumers) -> Visits {
    let mut starts = Vec::with_capacity(nodes.len() + 1);
    let mut inputs: Vec<u32> = Vec::new();
    // How many results each call keeps at a time, its cone taken as a tree.
    let mut kept = vec![0_u32; nodes.len()];
    let end = |inputs: &[u32]| u32::try_from(inputs.len()).unwrap_or(u32::MAX);
    starts.push(0);
    for (place, node) in nodes.iter().enumerate() {
        if needed[place] {
            let from = inputs.len();
            inputs.extend_from_slice(&node.inputs);
            let own = &mut inputs[from..];
            let first_consumer = |input: u32| consumers.after(input).first().copied();
            own.sort_by_key(|&input| {
                (std::cmp::Reverse(kept[input as usize]), first_consumer(input), input)
            });
            let needs = own.iter().zip(0_u32..);
            let needs = needs.map(|(&input, before)| kept[input as usize].saturating_add(before));
            kept[place] = needs.max().unwrap_or(0).max(1);
        }
        starts.push(end(&inputs));
    }
    Visits { starts, inputs }
}
