//! The picture as SVG.

use std::collections::HashMap;
use std::fmt::Write as _;

use super::layout::{HEIGHT, Layout, text};
use super::{Drawing, escaped};

/// Fills for names, told apart by those who see few colours: the palette of Okabe and Ito (2008),
/// lightened. After the last comes the first.
const FILLS: [&str; 8] =
    ["#9fd0ee", "#f6c98a", "#96d8bf", "#eeb3d3", "#f7f0a6", "#9db9dd", "#eeb08f", "#d9d9d9"];
/// From the middle of a box down to the line on which its text stands.
const BASELINE: f64 = 4.0;
const STYLE: &str = "text{font:12px ui-monospace,Menlo,Consolas,monospace;text-anchor:middle;fill:#16202c}rect{stroke:#40546a;stroke-width:1}\
path{fill:none;stroke:#70839a;stroke-width:1.2;stroke-opacity:.6}marker path{fill:#70839a;stroke:none;fill-opacity:.9}\
@media(prefers-color-scheme:dark){path{stroke:#9fb2c8}marker path{fill:#9fb2c8}}";

pub(super) fn write(drawing: &Drawing, layout: &Layout) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_to(&mut out, drawing, layout);
    out
}

fn write_to(out: &mut String, drawing: &Drawing, layout: &Layout) -> std::fmt::Result {
    let (width, height) = (layout.width.ceil(), layout.height.ceil());
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">"
    )?;
    writeln!(out, "<title>{}</title>", escaped(&title(drawing)))?;
    writeln!(out, "<style>{STYLE}</style>")?;
    writeln!(
        out,
        "<marker id=\"a\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
         markerHeight=\"7\" orient=\"auto\"><path d=\"M0 1 8 4 0 7z\"/></marker>"
    )?;
    for (from, to) in &drawing.arrows {
        let (x, y, _) = layout.places[*from as usize];
        let (to_x, to_y, _) = layout.places[*to as usize];
        arrow(out, (x, y + HEIGHT / 2.0), (to_x, to_y - HEIGHT / 2.0))?;
    }
    let mut fills: HashMap<&str, usize> = HashMap::new();
    for (shape, (x, y, width)) in drawing.boxes.iter().zip(&layout.places) {
        let next = fills.len();
        let fill = FILLS[*fills.entry(&shape.task).or_insert(next) % FILLS.len()];
        let (left, top) = (x - width / 2.0, y - HEIGHT / 2.0);
        let base = y + BASELINE;
        let (task, text) = (escaped(&shape.task), escaped(&text(shape)));
        writeln!(
            out,
            "<g><title>{task}</title><rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" \
             height=\"{HEIGHT}\" rx=\"7\" fill=\"{fill}\"/><text x=\"{x:.1}\" y=\"{base:.1}\">{text}\
             </text></g>"
        )?;
    }
    writeln!(out, "</svg>")
}

/// A curve that leaves downwards and arrives from above.
fn arrow(out: &mut String, (x, y): (f64, f64), (to_x, to_y): (f64, f64)) -> std::fmt::Result {
    let bend = ((to_y - y) / 2.0).max(HEIGHT / 2.0);
    let (low, high) = (y + bend, to_y - bend);
    writeln!(
        out,
        "<path d=\"M{x:.1} {y:.1}C{x:.1} {low:.1} {to_x:.1} {high:.1} {to_x:.1} {to_y:.1}\" \
         marker-end=\"url(#a)\"/>"
    )
}

fn title(drawing: &Drawing) -> String {
    match drawing.calls() {
        1 => "A graph of one call".to_owned(),
        calls => format!("A graph of {calls} calls"),
    }
}
