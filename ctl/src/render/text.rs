//! Strings that came from outside (a client's name, a driver's timeline), made fit to be shown; and
//! numbers for people.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Replaces what could steer a terminal, break a line or reorder the text by a visible escape.
#[must_use]
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for ch in text.chars() {
        if is_unsafe(ch) {
            // Writing to a string cannot fail.
            _ = write!(out, "\\u{{{:x}}}", u32::from(ch));
        } else {
            out.push(ch);
        }
    }
    out
}

fn is_unsafe(ch: char) -> bool {
    ch.is_control()
        || matches!(ch,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

/// [`clean`], then at most `max` characters, the last of them an ellipsis where it was cut.
#[must_use]
pub fn clip(text: &str, max: usize) -> String {
    let text = clean(text);
    if text.chars().count() <= max {
        return text;
    }
    text.chars().take(max.saturating_sub(1)).chain(['…']).collect()
}

/// Escapes text for XML, in content and in quoted attributes alike.
#[must_use]
pub fn xml(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for ch in clean(text).chars() {
        match ch {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            ch => out.push(ch),
        }
    }
    out
}

/// `61,204`: a number whose size is seen at a glance.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `9,999`, `12.3k`, `4.5M`: a number in five columns.
#[must_use]
pub fn short(number: u32) -> String {
    let of = f64::from(number);
    match number {
        ..10_000 => grouped(number.into()),
        10_000..99_950 => format!("{:.1}k", of / 1e3),
        99_950..999_500 => format!("{:.0}k", of / 1e3),
        _ => format!("{:.1}M", of / 1e6),
    }
}

/// A time in microseconds: `21 µs`, `61,204 µs`, and from ten seconds on `12.3 s`.
#[must_use]
pub fn micros(us: f64) -> String {
    if !us.is_finite() {
        return "at an unknown time".to_owned();
    }
    let sign = if us <= -0.5 { "−" } else { "" };
    let us = us.abs();
    if us < 1e7 {
        // Rounded and in range.
        #[allow(clippy::cast_possible_truncation, reason = "below ten million")]
        #[allow(clippy::cast_sign_loss, reason = "an absolute value")]
        let whole = us.round() as u64;
        format!("{sign}{} µs", grouped(whole))
    } else {
        format!("{sign}{:.1} s", us / 1e6)
    }
}

/// An age or a duration in the unit that fits: `340 µs`, `12.5 ms`, `3.2 s`, `4 min`.
#[must_use]
pub fn duration(ns: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
    let ns = ns as f64;
    match ns {
        ..1e6 => format!("{:.0} µs", ns / 1e3),
        1e6..1e9 => format!("{:.1} ms", ns / 1e6),
        1e9..120e9 => format!("{:.1} s", ns / 1e9),
        _ => format!("{:.0} min", ns / 60e9),
    }
}

/// A size: `512 B`, `12 KiB`, `8.3 MiB`, `1.5 GiB`.
#[must_use]
pub fn bytes(number: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with two digits")]
    let size = number as f64;
    match number {
        0..0x400 => format!("{number} B"),
        0x400..0x10_0000 => format!("{:.0} KiB", size / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", size / 1_048_576.0),
        _ => format!("{:.1} GiB", size / 1_073_741_824.0),
    }
}

/// [`clean`], then cut to fit into so many columns of a terminal, with an ellipsis where it was cut.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    let text = clean(text);
    if text.width() <= columns {
        return text;
    }
    let mut out = String::new();
    let mut used = 1;
    for ch in text.chars() {
        used += ch.width().unwrap_or(0);
        if used > columns {
            break;
        }
        out.push(ch);
    }
    if columns > 0 {
        out.push('…');
    }
    out
}

/// `1 buffer`, `2 buffers`.
#[must_use]
pub fn count(number: u32, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number.into()), if number == 1 { one } else { many })
}

/// Broken between words into lines of at most `width` characters; a longer word stays whole.
#[must_use]
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut len = 0;
    for word in text.split(' ') {
        let longer = word.chars().count();
        if len > 0 && len + 1 + longer > width {
            lines.push(String::new());
            len = 0;
        }
        if let Some(line) = lines.last_mut() {
            if len > 0 {
                line.push(' ');
                len += 1;
            }
            line.push_str(word);
            len += longer;
        }
    }
    lines
}

/// The time of day in the user's time zone, with milliseconds.
#[must_use]
pub fn time_of_day(at: SystemTime) -> String {
    time_of_day_in(at, TimeZone::system())
}

/// The same in a zone.
#[must_use]
pub fn time_of_day_in(at: SystemTime, zone: TimeZone) -> String {
    match Timestamp::try_from(at) {
        Ok(stamp) => stamp.to_zoned(zone).strftime("%H:%M:%S.%3f").to_string(),
        Err(_) => "??:??:??".to_owned(),
    }
}

/// A wall-clock time in the user's time zone.
#[must_use]
pub fn when(seconds: u64) -> String {
    when_in(seconds, TimeZone::system())
}

fn when_in(seconds: u64, zone: TimeZone) -> String {
    let stamp = i64::try_from(seconds).ok().and_then(|s| Timestamp::from_second(s).ok());
    match stamp {
        Some(stamp) => stamp.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S %Z").to_string(),
        None => format!("second {seconds} of the epoch"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(clean("a\x1b[31mb\nc\u{9b}d\u{202e}e"), r"a\u{1b}[31mb\u{a}c\u{9b}d\u{202e}e");
        assert_eq!(clean("Müller 東京 🖥"), "Müller 東京 🖥");
    }

    #[test]
    fn markup_is_text() {
        assert_eq!(xml("<a b='\"'>&\0"), "&lt;a b=&#39;&quot;&#39;&gt;&amp;\\u{0}");
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(clip("abcdef", 4), "abc…");
        assert_eq!(clip("abcd", 4), "abcd");
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("extraordinary a", 5), ["extraordinary", "a"]);
        assert_eq!(wrapped("", 5), [""]);
    }

    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
        let short = [9_999, 12_345, 99_949, 99_950, 999_499, 999_500].map(short);
        assert_eq!(short, ["9,999", "12.3k", "99.9k", "100k", "999k", "1.0M"]);
        assert_eq!(micros(20.6), "21 µs");
        assert_eq!(micros(-5_000.0), "−5,000 µs");
        assert_eq!(micros(-0.2), "0 µs");
        assert_eq!(micros(12_300_000.0), "12.3 s");
        assert_eq!(duration(340_000), "340 µs");
        assert_eq!(duration(12_500_000), "12.5 ms");
        assert_eq!(duration(3_200_000_000), "3.2 s");
        assert_eq!(duration(240_000_000_000), "4 min");
    }

    #[test]
    fn sizes_are_read_at_a_glance() {
        let sizes = [0, 1023, 12_288, 8_700_000, 3 << 29].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "12 KiB", "8.3 MiB", "1.5 GiB"]);
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(fit("東京都", 6), "東京都");
        assert_eq!(fit("東京都", 5), "東京…");
        assert_eq!(fit("東京都", 4), "東…");
        assert_eq!((fit("ab", 1).as_str(), fit("ab", 0).as_str()), ("…", ""));
    }

    #[test]
    fn a_time_of_day_has_milliseconds() {
        let at = SystemTime::UNIX_EPOCH + std::time::Duration::from_millis(1_767_323_045_042);
        assert_eq!(time_of_day_in(at, TimeZone::UTC), "03:04:05.042");
    }

    #[test]
    fn a_time_no_calendar_has() {
        assert_eq!(when_in(1_767_323_045, TimeZone::UTC), "2026-01-02 03:04:05 UTC");
        assert!(when_in(u64::MAX, TimeZone::UTC).contains("epoch"));
    }
}
