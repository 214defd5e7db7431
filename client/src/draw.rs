//! Pictures of graphs before they run: a box for each call, its inputs above it.
//!
//! | module | what it holds |
//! |---|---|
//! | `group` | one box for all calls of a name, where there are too many for a picture |
//! | `layout` | where the boxes are |
//! | `svg`, `dot` | the picture, as a file that browsers show, or for Graphviz |
//!
//! ```no_run
//! # use bolthole::{draw::Drawing, task};
//! # #[task] fn load(day: u32) -> u64 { u64::from(day) }
//! # #[task] fn total(days: &[u64]) -> u64 { days.iter().sum() }
//! let total = total::delayed((1..=10).map(load::delayed).collect::<Vec<_>>());
//! Drawing::of(&total)?.save("graph.svg")?;
//! # Ok::<(), bolthole::Error>(())
//! ```

mod dot;
mod group;
mod layout;
mod svg;
#[cfg(test)]
mod tests;

use std::path::Path;

use bolthole_broker::graph::{Captured, plan};

use crate::capture::capture;
use crate::delayed::{AnyDelayed, Delayed};
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::{Outputs, captured};

/// Boxes that are drawn one by one: a layout of more takes seconds, and nobody finds anything in it.
/// Larger graphs have a box for each name.
const BOXES_MAX: usize = 400;

/// A graph as it is drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawing {
    boxes: Vec<Shape>,
    /// From the box of a result to the box that uses it; each once, none to itself.
    arrows: Vec<(u32, u32)>,
}

/// A box.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    /// What is written in it.
    name: String,
    /// The registered name of the task.
    task: String,
    /// How many calls it stands for.
    calls: u64,
}

impl Drawing {
    /// The graph of what would be computed for these outputs: calls that none of them needs are left
    /// out, equal calls of `pure` tasks are one. Where it has more than 400 calls, all of a name share
    /// a box that says how many they are.
    ///
    /// # Errors
    /// Those with which computing them would begin.
    pub fn of<O: Outputs>(outputs: &O) -> Result<Self> {
        Self::of_captured(captured(outputs)?)
    }

    fn of_captured(captured: Captured) -> Result<Self> {
        let plan = plan(captured)?;
        let shape = |class: u32| {
            let class = &plan.classes[class as usize];
            Shape { name: class.label().to_owned(), task: class.task.clone(), calls: 1 }
        };
        let boxes: Vec<Shape> = plan.nodes.iter().map(|node| shape(node.class)).collect();
        let arrows = (0_u32..)
            .zip(&plan.nodes)
            .flat_map(|(place, node)| node.inputs.iter().map(move |input| (*input, place)))
            .collect();
        let whole = Self { boxes, arrows };
        Ok(if whole.boxes.len() > BOXES_MAX { whole.by_name() } else { whole })
    }

    /// How many calls it stands for.
    fn calls(&self) -> u64 {
        self.boxes.iter().map(|shape| shape.calls).sum()
    }

    /// As SVG: one file, which needs no other, in colours that those can tell apart who see few.
    pub fn svg(&self) -> String {
        svg::write(self, &layout::of(self))
    }

    /// In the language of Graphviz.
    pub fn dot(&self) -> String {
        dot::write(self)
    }

    /// Writes it to a file, in the form that its name ends with: `.svg`, or `.dot` or `.gv`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when it ends with something else or cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let shown = path.display();
        let text = match path.extension().and_then(|end| end.to_str()) {
            Some("svg") => self.svg(),
            Some("dot" | "gv") => self.dot(),
            _ => {
                let message = format!("{shown} ends neither with .svg nor with .dot");
                return Err(Error::new(ErrorKind::Config, message));
            }
        };
        std::fs::write(path, text).map_err(|error| {
            Error::new(ErrorKind::Config, format!("{shown} cannot be written: {error}"))
        })
    }
}

impl<T> Delayed<T> {
    /// Draws the graph of this call and of all that it needs: see [`Drawing::save`].
    ///
    /// # Errors
    /// As for [`Drawing::of`] and [`Drawing::save`].
    pub fn visualize(&self, path: impl AsRef<Path>) -> Result<()> {
        let calls: [&dyn AnyDelayed; 1] = [self];
        Drawing::of_captured(capture(&calls)?)?.save(path)
    }
}

/// Text for XML, in which nothing is markup and nothing a control character.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}
