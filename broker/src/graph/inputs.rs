//! The inputs of a call in one order, whatever order they were captured in.

/// `inputs` ascending and each once, and for each of the old numbers its new one; the latter is
/// empty when nothing changes.
pub(super) fn ascending<T: Ord + Copy>(inputs: Vec<T>) -> (Vec<T>, Vec<u32>) {
    if inputs.windows(2).all(|pair| pair[0] < pair[1]) {
        return (inputs, Vec::new());
    }
    let mut sorted = inputs.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let number = |input: &T| sorted.partition_point(|other| other < input);
    let numbers = inputs.iter().map(|input| u32::try_from(number(input)).unwrap_or(u32::MAX));
    let numbers = numbers.collect();
    (sorted, numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_keep_their_arguments() {
        assert_eq!(ascending(vec![1, 2, 5]), (vec![1, 2, 5], vec![]));
        assert_eq!(ascending(vec![5, 1, 5, 2]), (vec![1, 2, 5], vec![2, 0, 2, 1]));
    }
}
