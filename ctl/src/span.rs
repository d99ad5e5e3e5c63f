//! Spans of time on the command line.

use std::time::Duration;

/// The longest.
const LONGEST: Duration = Duration::from_secs(3600);

/// A span of time: `500ms`, `2s`, `1.5min`, `1h`.
///
/// # Errors
/// It is none, or longer than an hour.
pub fn span(text: &str) -> Result<Duration, String> {
    let unit_at = text.find(|ch: char| ch.is_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a number with a unit: `500ms`, `2s`, `1min`".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| format!("{number:?} is no number"))?;
    match Duration::try_from_secs_f64(number * seconds) {
        Ok(span) if span <= LONGEST => Ok(span),
        Ok(_) => Err("one hour is the longest".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_units() {
        for (text, ms) in
            [("500ms", 500), ("2s", 2000), ("1.5min", 90_000), ("0s", 0), ("1h", 3_600_000)]
        {
            assert_eq!(span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "2", "s", "-1s", "61min", "1d", "nans", "1e300h"] {
            assert!(span(text).is_err(), "{text}");
        }
    }
}
