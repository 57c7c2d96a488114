//! A small writer of plots: bars with error bars in groups, and lines; as SVG, self-contained.

/// Colours that are told apart in grey and by most colour-blind people (Okabe and Ito).
pub const COLOURS: [&str; 6] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9",
];
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
/// Room for the title and legend, the axis's figures, the groups' names.
const TOP: f64 = 76.0;
const LEFT: f64 = 84.0;
const RIGHT: f64 = 20.0;
const BOTTOM: f64 = 66.0;

/// Bars in groups: for each group one bar a series.
pub struct Bars {
    pub title: String,
    /// What the value axis shows, with its unit.
    pub axis: String,
    pub groups: Vec<String>,
    pub series: Vec<BarSeries>,
}

pub struct BarSeries {
    pub name: String,
    pub colour: &'static str,
    /// (smallest, middle, largest) by group, where there is one.
    pub values: Vec<Option<(f64, f64, f64)>>,
}

/// Lines over a common axis.
pub struct Lines {
    pub title: String,
    pub x_axis: String,
    pub y_axis: String,
    pub x_ticks: Vec<(f64, String)>,
    pub series: Vec<LineSeries>,
    /// The value axis in powers of ten.
    pub logarithmic: bool,
}

pub struct LineSeries {
    pub name: String,
    pub colour: &'static str,
    /// (x, smallest, middle, largest)
    pub points: Vec<(f64, f64, f64, f64)>,
}

impl Bars {
    pub fn draw(&self) -> String {
        let values = self
            .series
            .iter()
            .flat_map(|series| series.values.iter().flatten());
        let largest = values.map(|value| value.2).fold(0.0, f64::max);
        let scale = Scale::linear(largest);
        let mut svg = frame(&self.title, &self.axis, "", &scale);
        let names = self
            .series
            .iter()
            .map(|series| (series.name.as_str(), series.colour));
        svg += &legend(names);
        let group_width = (WIDTH - LEFT - RIGHT) / self.groups.len() as f64;
        let bar_width = (group_width * 0.72 / self.series.len() as f64).min(70.0);
        for (number, group) in self.groups.iter().enumerate() {
            let middle = LEFT + group_width * (number as f64 + 0.5);
            svg += &wrapped(middle, HEIGHT - BOTTOM + 20.0, group, group_width);
            for (place, series) in self.series.iter().enumerate() {
                let offset = place as f64 - (self.series.len() as f64) / 2.0;
                let left = middle + offset * bar_width;
                if let Some(value) = series.values.get(number).copied().flatten() {
                    svg += &bar(left, bar_width, value, series.colour, &scale);
                }
            }
        }
        svg + "</svg>\n"
    }
}

impl Lines {
    pub fn draw(&self) -> String {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let largest = points().map(|point| point.3).fold(0.0, f64::max);
        let smallest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let scale = match self.logarithmic {
            true => Scale::logarithmic(smallest, largest),
            false => Scale::linear(largest),
        };
        let mut svg = frame(&self.title, &self.y_axis, &self.x_axis, &scale);
        let names = self
            .series
            .iter()
            .map(|series| (series.name.as_str(), series.colour));
        svg += &legend(names);
        let (first, last) = self.x_range();
        let x = |value: f64| {
            LEFT + 20.0 + (value - first) / (last - first) * (WIDTH - LEFT - RIGHT - 40.0)
        };
        for (at, name) in &self.x_ticks {
            let place = x(*at);
            svg += &line(
                place,
                HEIGHT - BOTTOM,
                place,
                HEIGHT - BOTTOM + 5.0,
                "#444",
                1.0,
            );
            svg += &text(place, HEIGHT - BOTTOM + 20.0, "middle", 12, name);
        }
        for series in &self.series {
            let colour = series.colour;
            let path = series
                .points
                .iter()
                .map(|point| format!("{:.1},{:.1}", x(point.0), scale.y(point.2)));
            let path: Vec<String> = path.collect();
            svg += &format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
                path.join(" ")
            );
            for &(at, low, middle, high) in &series.points {
                let (place, y) = (x(at), scale.y(middle));
                if low < high {
                    svg += &whisker(place, scale.y(low), scale.y(high), colour);
                }
                if series.points.len() <= 16 {
                    svg += &format!(
                        "<circle cx=\"{place:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n"
                    );
                }
            }
        }
        svg + "</svg>\n"
    }

    fn x_range(&self) -> (f64, f64) {
        let ticks = self.x_ticks.iter().map(|(at, _)| *at);
        let points = self
            .series
            .iter()
            .flat_map(|series| series.points.iter().map(|point| point.0));
        let all = || ticks.clone().chain(points.clone());
        let first = all().fold(f64::INFINITY, f64::min);
        let last = all().fold(f64::NEG_INFINITY, f64::max);
        (first, if last > first { last } else { first + 1.0 })
    }
}

/// The value axis.
struct Scale {
    ticks: Vec<f64>,
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Scale {
    /// From zero to a round number above the largest value, in 4 to 8 steps.
    fn linear(largest: f64) -> Scale {
        let largest = if largest > 0.0 { largest * 1.08 } else { 1.0 };
        let magnitude = 10f64.powf((largest / 5.0).log10().floor());
        let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|factor| factor * magnitude);
        let step = steps
            .into_iter()
            .find(|step| largest / step <= 7.0)
            .unwrap_or(10.0 * magnitude);
        let count = (largest / step).ceil() as usize;
        Scale {
            ticks: (0..=count).map(|number| number as f64 * step).collect(),
            low: 0.0,
            high: count as f64 * step,
            logarithmic: false,
        }
    }

    fn logarithmic(smallest: f64, largest: f64) -> Scale {
        let low = smallest.max(1e-6).log10().floor();
        let high = largest.max(1e-5).log10().ceil().max(low + 1.0);
        let ticks = (low as i32..=high as i32).map(|power| 10f64.powi(power));
        Scale {
            ticks: ticks.collect(),
            low,
            high,
            logarithmic: true,
        }
    }

    fn y(&self, value: f64) -> f64 {
        let value = if self.logarithmic {
            value.max(1e-6).log10()
        } else {
            value
        };
        let share = (value - self.low) / (self.high - self.low);
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }
}

fn frame(title: &str, y_axis: &str, x_axis: &str, scale: &Scale) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"DejaVu Sans, Verdana, sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    svg += &text(WIDTH / 2.0, 26.0, "middle", 16, title);
    for &tick in &scale.ticks {
        let y = scale.y(tick);
        svg += &line(LEFT, y, WIDTH - RIGHT, y, "#ddd", 1.0);
        svg += &text(LEFT - 8.0, y + 4.0, "end", 12, &figure(tick));
    }
    svg += &line(
        LEFT,
        HEIGHT - BOTTOM,
        WIDTH - RIGHT,
        HEIGHT - BOTTOM,
        "#444",
        1.0,
    );
    svg += &line(LEFT, TOP, LEFT, HEIGHT - BOTTOM, "#444", 1.0);
    let middle = (TOP + HEIGHT - BOTTOM) / 2.0;
    svg += &format!(
        "<text x=\"20\" y=\"{middle}\" font-size=\"13\" text-anchor=\"middle\" \
         transform=\"rotate(-90 20 {middle})\">{}</text>\n",
        escaped(y_axis)
    );
    svg + &text(
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 14.0,
        "middle",
        13,
        x_axis,
    )
}

fn legend<'a>(names: impl Iterator<Item = (&'a str, &'static str)>) -> String {
    let mut svg = String::new();
    let mut left = LEFT;
    for (name, colour) in names {
        svg += &format!(
            "<rect x=\"{left}\" y=\"44\" width=\"12\" height=\"12\" fill=\"{colour}\"/>\n"
        );
        svg += &text(left + 18.0, 54.0, "start", 12, name);
        left += 18.0 + 7.6 * name.chars().count() as f64 + 24.0;
    }
    svg
}

fn bar(
    left: f64,
    width: f64,
    (low, middle, high): (f64, f64, f64),
    colour: &str,
    scale: &Scale,
) -> String {
    let (y, bottom) = (scale.y(middle), HEIGHT - BOTTOM);
    let inner = width * 0.9;
    let mut svg = format!(
        "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{inner:.1}\" height=\"{:.1}\" \
         fill=\"{colour}\"/>\n",
        (bottom - y).max(0.5)
    );
    let centre = left + inner / 2.0;
    if low < high {
        svg += &whisker(centre, scale.y(low), scale.y(high), "#222");
    }
    svg + &text(centre, scale.y(high) - 6.0, "middle", 11, &figure(middle))
}

fn whisker(x: f64, low: f64, high: f64, colour: &str) -> String {
    line(x, low, x, high, colour, 1.5)
        + &line(x - 4.0, low, x + 4.0, low, colour, 1.5)
        + &line(x - 4.0, high, x + 4.0, high, colour, 1.5)
}

fn line(x1: f64, y1: f64, x2: f64, y2: f64, colour: &str, width: f64) -> String {
    format!(
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\" \
         stroke-width=\"{width}\"/>\n"
    )
}

fn text(x: f64, y: f64, anchor: &str, size: u32, content: &str) -> String {
    let content = escaped(content);
    format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"{size}\" text-anchor=\"{anchor}\" \
         fill=\"#222\">{content}</text>\n"
    )
}

/// In up to three lines, so that groups' names do not run into each other.
fn wrapped(x: f64, y: f64, content: &str, width: f64) -> String {
    let fits = (width / 6.8) as usize;
    let mut lines: Vec<String> = vec![String::new()];
    for word in content.split(' ') {
        let last = lines.last_mut().expect("invariant: never empty");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > fits {
            lines.push(word.to_owned());
        } else {
            *last = format!("{last} {word}").trim().to_owned();
        }
    }
    let drawn = lines.iter().enumerate();
    drawn
        .map(|(number, content)| text(x, y + 14.0 * number as f64, "middle", 12, content))
        .collect()
}

/// As short as it can be said: `54k`, `0.25`.
fn figure(value: f64) -> String {
    let trimmed = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    match value.abs() {
        size if size >= 1e9 => format!("{}G", trimmed(format!("{:.2}", value / 1e9))),
        size if size >= 1e6 => format!("{}M", trimmed(format!("{:.2}", value / 1e6))),
        size if size >= 1e4 => format!("{}k", trimmed(format!("{:.1}", value / 1e3))),
        size if size >= 100.0 => trimmed(format!("{value:.0}")),
        size if size >= 10.0 => trimmed(format!("{value:.1}")),
        size if size >= 0.1 || size == 0.0 => trimmed(format!("{value:.2}")),
        _ => trimmed(format!("{value:.3}")),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
