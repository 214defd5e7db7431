//! One box for all calls of a name.

use std::collections::{BTreeSet, HashMap};

use super::{Drawing, Shape};

impl Drawing {
    /// The same graph with the calls of each name together, in the order in which names first appear.
    pub(super) fn by_name(&self) -> Self {
        let mut places: HashMap<(&str, &str), u32> = HashMap::new();
        let mut boxes: Vec<Shape> = Vec::new();
        let mut place_of = Vec::with_capacity(self.boxes.len());
        for shape in &self.boxes {
            let place = *places.entry((&shape.task, &shape.name)).or_insert_with(|| {
                boxes.push(Shape { calls: 0, ..shape.clone() });
                // No more than calls, of which there are at most as many as that.
                u32::try_from(boxes.len() - 1).unwrap_or(u32::MAX)
            });
            boxes[place as usize].calls += shape.calls;
            place_of.push(place);
        }
        let arrows = self.arrows.iter();
        let arrows = arrows.map(|(from, to)| (place_of[*from as usize], place_of[*to as usize]));
        // Those within a box say nothing that its number does not.
        let arrows: BTreeSet<(u32, u32)> = arrows.filter(|(from, to)| from != to).collect();
        Self { boxes, arrows: arrows.into_iter().collect() }
    }
}
