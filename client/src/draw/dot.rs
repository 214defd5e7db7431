//! The picture in the language of Graphviz.

use std::fmt::Write as _;

use super::Drawing;
use super::layout::text;

pub(super) fn write(drawing: &Drawing) -> String {
    let mut out = String::from("digraph {\n  node [shape=box style=rounded fontname=monospace]\n");
    for (place, shape) in drawing.boxes.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "  {place} [label={} tooltip={}]",
            quoted(&text(shape)),
            quoted(&shape.task)
        );
    }
    for (from, to) in &drawing.arrows {
        let _ = writeln!(out, "  {from} -> {to}");
    }
    out.push_str("}\n");
    out
}

/// A string of that language, in which a backslash begins nothing.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push('\u{fffd}'),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
