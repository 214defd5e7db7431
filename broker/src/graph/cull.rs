//! What no output needs is left out.

use super::Node;

/// Which calls the outputs need, themselves among them. Inputs stand before their consumers, so one
/// pass from the last to the first sees every consumer before its inputs.
pub(super) fn needed(nodes: &[Node], outputs: &[u32]) -> Vec<bool> {
    let mut needed = vec![false; nodes.len()];
    for &output in outputs {
        needed[output as usize] = true;
    }
    for place in (0..nodes.len()).rev() {
        if needed[place] {
            for &input in &nodes[place].inputs {
                needed[input as usize] = true;
            }
        }
    }
    needed
}
