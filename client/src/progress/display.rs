//! Bars on a terminal, lines elsewhere.

use std::io::{IsTerminal, Write};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::counts::Label;

/// A line is printed whenever so many percent more have finished.
const STEP_PERCENT: u64 = 5;
/// Bars at one time; the names beyond share the last.
const BARS_MAX: usize = 12;

/// Where and how the counts are shown.
pub(super) enum Display {
    /// A bar for each name.
    Bars { all: MultiProgress, bars: Vec<ProgressBar> },
    /// A line now and then; the last percentage printed.
    Lines { shown: Option<u64> },
}

impl Display {
    pub(super) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bars { all: MultiProgress::new(), bars: Vec::new() }
        } else {
            Self::Lines { shown: None }
        }
    }

    pub(super) fn show(&mut self, labels: &[Label]) {
        match self {
            Self::Bars { all, bars } => {
                let (own, rest) = labels.split_at(labels.len().min(BARS_MAX - 1));
                let rest = (!rest.is_empty()).then(|| sum("others", rest));
                for (place, label) in own.iter().chain(&rest).enumerate() {
                    if place == bars.len() {
                        bars.push(all.add(bar()));
                    }
                    bars[place].set_prefix(label.name.clone());
                    bars[place].set_length(label.total);
                    bars[place].set_position(label.finished);
                }
            }
            Self::Lines { shown } => {
                if let Some((percent, line)) = line(labels, *shown) {
                    *shown = Some(percent);
                    // Nothing can be done about a standard error that is closed.
                    let _ = writeln!(std::io::stderr(), "{line}");
                }
            }
        }
    }

    /// Leaves what was shown where it is.
    pub(super) fn finish(&self) {
        if let Self::Bars { bars, .. } = self {
            bars.iter().for_each(ProgressBar::abandon);
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    // The default style stands in for a template that is none; a test says that this one is.
    if let Ok(style) = style() {
        bar.set_style(style);
    }
    bar
}

fn style() -> Result<ProgressStyle, indicatif::style::TemplateError> {
    Ok(ProgressStyle::with_template("{prefix:>20} {bar:40} {pos}/{len}")?.progress_chars("━╸ "))
}

fn sum(name: &str, labels: &[Label]) -> Label {
    Label {
        name: name.to_owned(),
        total: labels.iter().map(|label| label.total).sum(),
        finished: labels.iter().map(|label| label.finished).sum(),
    }
}

/// The next line, when enough has finished since `shown` percent.
fn line(labels: &[Label], shown: Option<u64>) -> Option<(u64, String)> {
    let Label { total, finished, .. } = sum("all", labels);
    let percent = (finished * 100).checked_div(total)?;
    let step = percent - percent % STEP_PERCENT;
    if shown.is_some_and(|shown| step <= shown) {
        return None;
    }
    Some((step, format!("{percent:3} %  {finished} of {total} tasks have finished")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(finished: u64) -> [Label; 2] {
        let label = |name: &str, total, finished| Label { name: name.into(), total, finished };
        [label("load", 100, finished.min(100)), label("roll", 100, finished.saturating_sub(100))]
    }

    #[test]
    fn a_line_for_every_five_percent() {
        assert_eq!(line(&[], None), None);
        let (shown, text) = line(&labels(0), None).unwrap();
        assert_eq!((shown, &text[..]), (0, "  0 %  0 of 200 tasks have finished"));
        assert_eq!(line(&labels(9), Some(0)), None);
        let (shown, text) = line(&labels(113), Some(0)).unwrap();
        assert_eq!((shown, &text[..]), (55, " 56 %  113 of 200 tasks have finished"));
        assert_eq!(line(&labels(119), Some(55)), None);
        assert_eq!(line(&labels(200), Some(95)).unwrap().0, 100);
        assert_eq!(line(&labels(200), Some(100)), None);
    }

    #[test]
    fn the_style_of_the_bars_is_one() {
        assert!(style().is_ok());
    }
}
