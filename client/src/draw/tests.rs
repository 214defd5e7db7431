use super::*;
use crate::task;

#[task(crate = "crate")]
fn load(day: u64) -> u64 {
    day
}

#[task(crate = "crate")]
fn pair(a: u64, b: u64) -> u64 {
    a + b
}

fn days(count: u64) -> Delayed<u64> {
    let mut last = load::delayed(0);
    for day in 1..count {
        last = pair::delayed(&last, load::delayed(day));
    }
    last
}

#[test]
fn every_call_has_a_box_and_every_use_an_arrow() {
    let drawing = Drawing::of(&days(10)).unwrap();
    assert_eq!((drawing.boxes.len(), drawing.arrows.len(), drawing.calls()), (19, 18, 19));
    let svg = drawing.svg();
    assert_eq!(svg.matches("<rect").count(), 19);
    assert_eq!(svg.matches("marker-end").count(), 18);
    assert!(svg.contains("A graph of 19 calls") && svg.ends_with("</svg>\n"));
    let dot = drawing.dot();
    assert_eq!((dot.matches("label=").count(), dot.matches(" -> ").count()), (19, 18));
}

#[test]
fn no_two_boxes_overlap_and_inputs_are_above() {
    let drawing = Drawing::of(&(days(20), days(3))).unwrap();
    let layout = layout::of(&drawing);
    for (n, (x, y, width)) in layout.places.iter().enumerate() {
        assert!(x - width / 2.0 >= 0.0 && x + width / 2.0 <= layout.width, "{n} is outside");
        assert!(*y > 0.0 && *y < layout.height, "{n} is outside");
        for (other_x, other_y, other_width) in &layout.places[n + 1..] {
            let apart = (x - other_x).abs() >= f64::midpoint(*width, *other_width)
                || (y - other_y).abs() >= layout::HEIGHT;
            assert!(apart, "{x} {y} {width} and {other_x} {other_y} {other_width}");
        }
    }
    for (from, to) in &drawing.arrows {
        assert!(layout.places[*from as usize].1 < layout.places[*to as usize].1);
    }
}

#[test]
fn calls_of_a_name_share_a_box_where_there_are_many() {
    let drawing = Drawing::of(&days(1_000)).unwrap();
    let names: Vec<(&str, u64)> =
        drawing.boxes.iter().map(|shape| (&*shape.name, shape.calls)).collect();
    assert_eq!(names, [("load", 1_000), ("pair", 999)]);
    assert_eq!((&drawing.arrows[..], drawing.calls()), (&[(0, 1)][..], 1_999));
    assert!(drawing.svg().contains("load × 1000"));
}

#[test]
fn names_are_text_and_nothing_else() {
    let name = "</text><script>\"\u{7}\\";
    let drawing = Drawing::of(&load::delayed(1).name(name)).unwrap();
    let svg = drawing.svg();
    assert!(
        svg.contains("&lt;/text&gt;&lt;script&gt;&quot;\u{fffd}\\") && !svg.contains("<script")
    );
    assert!(drawing.dot().contains(r#"label="</text><script>\"#));
    let long = Drawing::of(&load::delayed(1).name("x".repeat(100))).unwrap();
    assert!(long.svg().contains(&format!(">{}…<", "x".repeat(32))));
}

#[test]
fn the_form_is_that_of_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let (svg, dot) = (folder.path().join("a.svg"), folder.path().join("a.dot"));
    days(2).visualize(&svg).unwrap();
    days(2).visualize(&dot).unwrap();
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg"));
    assert!(std::fs::read_to_string(&dot).unwrap().starts_with("digraph"));
    let error = days(2).visualize(folder.path().join("a.png")).unwrap_err();
    assert_eq!(error.kind(), &ErrorKind::Config);
    assert!(error.to_string().contains(".svg"), "{error}");
    assert!(days(2).visualize(folder.path().join("none/a.svg")).is_err());
}

#[test]
fn names_that_need_each_other_are_drawn_too() {
    let mut last = load::delayed(0);
    for _ in 0..500 {
        last = load::delayed(pair::delayed(&last, &last));
    }
    let drawing = Drawing::of(&last).unwrap();
    assert_eq!((drawing.boxes.len(), &drawing.arrows[..]), (2, &[(0, 1), (1, 0)][..]));
    assert_eq!(drawing.svg().matches("marker-end").count(), 2);
}
