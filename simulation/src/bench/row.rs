//! One line of the table.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The measurement that it belongs to.
    pub measurement: &'static str,
    /// What was measured.
    pub what: String,
    /// How much.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// The figure of each round, in their order; `value` is their median, or says in `what` which of them it is.
    pub samples: Vec<f64>,
    /// How it compares with other figures of this run.
    pub ratios: Vec<Ratio>,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Of something, a second.
    PerSecond,
    /// A time.
    Seconds,
    /// Memory or disk.
    Bytes,
    /// Traffic.
    BytesPerSecond,
    /// A part of a whole, where 1 is all of it.
    Share,
    /// How often something as a whole.
    Times,
}

/// How a figure compares with another one of the same run.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// The figure, divided by the other.
    pub value: f64,
    /// The other.
    pub of: String,
}

impl Row {
    /// The median of some rounds.
    pub(super) fn median(measurement: &'static str, what: impl Into<String>, unit: Unit, samples: Vec<f64>) -> Self {
        Self { measurement, what: what.into(), value: quantile(&samples, 0.5), unit, samples, ratios: Vec::new() }
    }

    /// The median of some durations.
    pub(super) fn time(measurement: &'static str, what: impl Into<String>, samples: &[Duration]) -> Self {
        Self::median(measurement, what, Unit::Seconds, samples.iter().map(Duration::as_secs_f64).collect())
    }

    /// Another quantile of the same samples.
    pub(super) fn at(mut self, share: f64) -> Self {
        self.value = quantile(&self.samples, share);
        self
    }

    /// Compares with another figure, if that is known.
    pub(super) fn over(mut self, of: impl Into<String>, other: Option<f64>) -> Self {
        let ratio = other.filter(|other| *other > 0.0).map(|other| Ratio { value: self.value / other, of: of.into() });
        self.ratios.extend(ratio);
        self
    }

    /// The figure, for people.
    pub(super) fn figure(&self) -> String {
        self.unit.text(self.value)
    }

    /// How many samples there are and how far they are apart, for people.
    pub(super) fn spread(&self) -> String {
        let text = |share| self.unit.text(quantile(&self.samples, share));
        match self.samples.len() {
            0 | 1 => String::new(),
            count => format!("{} to {} ({count})", text(0.0), text(1.0)),
        }
    }

    /// All ratios, for people, a line each.
    pub(super) fn compared(&self) -> String {
        let lines: Vec<_> = self.ratios.iter().map(|Ratio { value, of }| format!("{value:.3} × {of}")).collect();
        lines.join("\n")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.figure())?;
        if !self.ratios.is_empty() {
            write!(f, ", {}", self.compared().replace('\n', ", "))?;
        }
        Ok(())
    }
}

impl Unit {
    fn text(self, value: f64) -> String {
        match self {
            Self::PerSecond => format!("{} /s", number(value)),
            Self::Seconds => scaled(value, &[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")]),
            Self::Bytes => scaled(value, &[(1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
            Self::BytesPerSecond => scaled(value, &[(1e6, "MB/s"), (1e3, "kB/s"), (1.0, "B/s")]),
            Self::Share => format!("{:.2} %", value * 100.0),
            Self::Times => format!("{} ×", number(value)),
        }
    }
}

/// In the largest unit of which there is at least one, else in the last, with three digits.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let fits = |(size, _): &&(f64, &str)| value.abs() >= *size;
    let (size, name) = units.iter().find(fits).or(units.last()).copied().unwrap_or((1.0, ""));
    format!("{} {name}", number(value / size))
}

/// Three digits, or all before the point with commas between thousands.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    let text = format!("{value:.digits$}");
    if digits > 0 || text.len() <= 3 {
        return text;
    }
    let places = text.len();
    text.chars().enumerate().fold(String::new(), |mut grouped, (at, digit)| {
        if at > 0 && (places - at).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
        grouped
    })
}

/// The sample below or at which this share of the samples is; the middle of two for a median of an even number.
pub(super) fn quantile(samples: &[f64], share: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (Some(last), Some(middle)) = (sorted.len().checked_sub(1), sorted.get(sorted.len() / 2)) else { return 0.0 };
    if share == 0.5 && last % 2 == 1 {
        return (sorted[last / 2] + middle) / 2.0;
    }
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.saturating_sub(1).min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_three_digits_and_a_fitting_unit() {
        let texts = [
            (Unit::PerSecond, 1_234_567.8, "1,234,568 /s"),
            (Unit::PerSecond, 999.6, "1,000 /s"),
            (Unit::Seconds, 0.000_2, "200 µs"),
            (Unit::Seconds, 0.012_34, "12.3 ms"),
            (Unit::Seconds, 0.0, "0.00 µs"),
            (Unit::Bytes, 3.4, "3.40 B"),
            (Unit::Bytes, 52_000_000.0, "52.0 MB"),
            (Unit::Share, 0.923, "92.30 %"),
        ];
        for (unit, value, text) in texts {
            assert_eq!(unit.text(value), text);
        }
    }

    #[test]
    fn quantiles_are_of_the_samples_in_any_order() {
        assert_eq!(quantile(&[3.0, 1.0, 2.0], 0.5), 2.0);
        assert_eq!(quantile(&[4.0, 1.0, 2.0, 3.0], 0.5), 2.5);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((quantile(&hundred, 0.99), quantile(&hundred, 1.0), quantile(&hundred, 0.0)), (99.0, 100.0, 1.0));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn a_ratio_to_what_was_not_measured_is_left_out() {
        let row = Row::median("noop", "x", Unit::PerSecond, vec![50.0]).over("bare", Some(100.0)).over("other", None);
        assert_eq!((row.compared().as_str(), row.to_string().as_str()), ("0.500 × bare", "x: 50.0 /s, 0.500 × bare"));
    }
}
