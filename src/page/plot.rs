//! The plot of the page: each change as a point, its age when it was deleted over the time. SVG, made here. Pure.

use std::fmt::Write as _;

use super::words::Language;

/// The plot shows so many seconds.
pub const SECONDS: f64 = 300.0;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 72.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 22.0;

/// From the least age that is told apart to the greatest, in seconds: a decade is a fifth of the height.
const DECADES: [f64; 6] = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0];

/// A change that was deleted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// How long ago it committed, in seconds.
    pub ago: f64,
    /// How long after that it was deleted, in seconds.
    pub age: f64,
}

fn x(ago: f64) -> f64 {
    LEFT + (WIDTH - LEFT) * (1.0 - ago / SECONDS)
}

fn y(age: f64) -> f64 {
    let (least, greatest) = (DECADES[0].log10(), DECADES[5].log10());
    let part = (age.clamp(DECADES[0], DECADES[5]).log10() - least) / (greatest - least);
    TOP + (HEIGHT - BOTTOM - TOP) * (1.0 - part)
}

/// The picture, for these changes.
pub fn svg(points: &[Point], language: Language) -> String {
    let mut svg = String::with_capacity(2_048 + points.len() * 40);
    let label = language.pick(
        "Time from commit to deletion, of the last five minutes",
        "Temps du commit à la suppression, sur les cinq dernières minutes",
    );
    let _ = write!(svg, "<svg class=plot viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"{label}\">");
    for decade in DECADES {
        let (at, text) = (y(decade), language.span(decade));
        let right = LEFT - 6.0;
        let below = at + 4.0;
        let _ = write!(svg, "<path class=grid d=\"M{LEFT} {at:.1}H{WIDTH}\"/>");
        let _ = write!(svg, "<text x={right} y={below:.1} text-anchor=end>{text}</text>");
    }
    for minute in 0..=5 {
        let ago = f64::from(minute) * 60.0;
        let (at, text) = (
            x(ago),
            if minute == 0 { language.pick("now", "maintenant").to_owned() } else { format!("−{minute} min") },
        );
        let anchor = match minute {
            0 => "end",
            5 => "start",
            _ => "middle",
        };
        let below = HEIGHT - 6.0;
        let _ = write!(svg, "<text x={at:.1} y={below} text-anchor={anchor}>{text}</text>");
    }
    for point in points.iter().filter(|point| (0.0..=SECONDS).contains(&point.ago)) {
        let late = if point.age > 1.0 { " class=\"late\"" } else { "" };
        let _ = write!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"{late}/>", x(point.ago), y(point.age));
    }
    svg.push_str("</svg>");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_where_its_times_say_and_one_that_is_too_old_is_not_there() {
        let points = [(0.0, 0.001), (300.0, 100.0), (150.0, 5_000.0), (301.0, 0.1)];
        let points = points.map(|(ago, age)| Point { ago, age });
        let svg = svg(&points, Language::English);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("<circle cx=\"720.0\" cy=\"158.0\" r=\"2.5\"/>"), "{svg}");
        assert!(svg.contains("<circle cx=\"72.0\" cy=\"12.0\" r=\"2.5\" class=\"late\"/>"), "{svg}");
        assert!(svg.contains("<circle cx=\"396.0\" cy=\"12.0\" r=\"2.5\" class=\"late\"/>"), "{svg}");
    }
}
