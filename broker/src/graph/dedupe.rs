//! Equal calls of pure tasks become one. One pass is enough: a call's inputs stand before it, so
//! they have been replaced already when it is compared, and equality spreads through the graph.

use std::collections::HashMap;

use super::Node;
use super::inputs::ascending;
use crate::task::{TaskClass, TaskKind};
use crate::wire::put_varint;

/// Gives every call its inputs in ascending order, each once, and the first of equal classes;
/// returns for each call the one that stands for it: itself, or an earlier one.
pub(super) fn dedupe(classes: &[TaskClass], nodes: &mut [Node]) -> Vec<u32> {
    let first_class = first_of_equal(classes);
    let mut stands: Vec<u32> = Vec::with_capacity(nodes.len());
    let mut known: HashMap<[u8; 32], u32> = HashMap::new();
    let mut key = Vec::new();
    for (place, node) in (0_u32..).zip(nodes) {
        node.class = first_class[node.class as usize];
        node.inputs.iter_mut().for_each(|input| *input = stands[*input as usize]);
        sort_inputs(node);
        if classes[node.class as usize].kind != TaskKind::Pure {
            stands.push(place);
            continue;
        }
        key.clear();
        put_key(node, &mut key);
        stands.push(*known.entry(*blake3::hash(&key).as_bytes()).or_insert(place));
    }
    stands
}

fn first_of_equal(classes: &[TaskClass]) -> Vec<u32> {
    let mut known = HashMap::new();
    let places = classes.iter().zip(0_u32..);
    places.map(|(class, place)| *known.entry(class).or_insert(place)).collect()
}

/// Brings a call's inputs into ascending order, each once, and its arguments after them.
pub(super) fn sort_inputs(node: &mut Node) {
    let near = node.inputs.len();
    let (inputs, numbers) = ascending(std::mem::take(&mut node.inputs));
    let (earlier, later_numbers) = ascending(std::mem::take(&mut node.earlier));
    if !numbers.is_empty() || !later_numbers.is_empty() {
        let new = |old: usize, numbers: &[u32]| {
            numbers.get(old).copied().unwrap_or(u32::try_from(old).unwrap_or(u32::MAX))
        };
        let behind = u32::try_from(inputs.len()).unwrap_or(u32::MAX);
        let number_of = |number: u32| match (number as usize).checked_sub(near) {
            None => new(number as usize, &numbers),
            Some(place) => behind + new(place, &later_numbers),
        };
        node.args.iter_mut().for_each(|arg| arg.renumber(&number_of));
    }
    (node.inputs, node.earlier) = (inputs, earlier);
}

/// All that a call depends on, unambiguously.
pub(super) fn put_key(node: &Node, out: &mut Vec<u8>) {
    put_varint(out, u64::from(node.class));
    put_varint(out, node.inputs.len() as u64);
    for input in &node.inputs {
        put_varint(out, u64::from(*input));
    }
    put_varint(out, node.earlier.len() as u64);
    for task in &node.earlier {
        put_varint(out, task.to_bits());
    }
    put_varint(out, node.args.len() as u64);
    for arg in &node.args {
        arg.put(out);
    }
}
