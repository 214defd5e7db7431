//! Where the boxes are: in layers (Sugiyama and others, 1981), parts that nothing connects side by
//! side.

use rust_sugiyama::configure::Config;
use rust_sugiyama::from_vertices_and_edges;

use super::{Drawing, Shape};

/// The height of a box, in pixels as everything here.
pub(super) const HEIGHT: f64 = 30.0;
/// Beside the text.
const PADDING: f64 = 24.0;
/// What a character takes at most, in the font that is asked for.
const CHARACTER: f64 = 7.4;
/// Between boxes of a layer.
const SPACING: f64 = 18.0;
/// From the middle of a layer to the next one's: the wider a picture is, the more, so that arrows do not
/// run flat.
const LAYER: (f64, f64) = (70.0, 170.0);
/// How many times as wide as high a picture should be.
const ASPECT: f64 = 3.0;
/// Around everything.
const MARGIN: f64 = 20.0;
/// Characters of a name that are shown.
const NAME_MAX: usize = 32;

/// A picture without its strokes.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// The middle of each box, and its width.
    pub(super) places: Vec<(f64, f64, f64)>,
    pub(super) width: f64,
    pub(super) height: f64,
}

/// What is written in a box.
pub(super) fn text(shape: &Shape) -> String {
    let mut text: String = shape.name.chars().take(NAME_MAX).collect();
    if shape.name.chars().nth(NAME_MAX).is_some() {
        text.push('…');
    }
    if shape.calls > 1 { format!("{text} × {}", shape.calls) } else { text }
}

#[expect(clippy::cast_precision_loss, reason = "some tens of characters")]
fn width(shape: &Shape) -> f64 {
    text(shape).chars().count() as f64 * CHARACTER + PADDING
}

/// Places every box.
pub(super) fn of(drawing: &Drawing) -> Layout {
    let widths: Vec<f64> = drawing.boxes.iter().map(width).collect();
    let sizes: Vec<(u32, (f64, f64))> =
        (0_u32..).zip(&widths).map(|(n, w)| (n, (*w, HEIGHT))).collect();
    let config = Config { vertex_spacing: SPACING, ..Config::default() };
    let mut layout = Layout { places: vec![(0.0, 0.0, 0.0); widths.len()], ..Layout::default() };
    let mut left = MARGIN;
    let mut layers: f64 = 0.0;
    for (places, _, _) in from_vertices_and_edges(&sizes, &drawing.arrows, &config) {
        // What is said of sizes is about middles; what counts is where boxes end.
        let ends = places.iter().map(|(n, (x, _))| (x - widths[*n] / 2.0, x + widths[*n] / 2.0));
        let (first, last) = ends.fold((f64::MAX, f64::MIN), |(first, last), (begin, end)| {
            (first.min(begin), last.max(end))
        });
        let top = places.iter().map(|(_, (_, y))| *y).fold(f64::MAX, f64::min);
        for (n, (x, y)) in places {
            let layer = ((y - top) / (HEIGHT + SPACING)).round();
            layers = layers.max(layer);
            layout.places[n] = (x - first + left, layer, widths[n]);
        }
        left += last - first + SPACING;
    }
    layout.width = left - SPACING + MARGIN;
    let apart = (layout.width / ASPECT / layers.max(1.0)).clamp(LAYER.0, LAYER.1);
    for (_, y, _) in &mut layout.places {
        *y = *y * apart + HEIGHT / 2.0 + MARGIN;
    }
    layout.height = layers * apart + HEIGHT + 2.0 * MARGIN;
    layout
}
