//! Sizes and ages in words.

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 12 * MONTH;

/// Bytes in SI units: one decimal below ten, none from ten on.
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let mut unit = 0;
    let mut divisor = 1_u128;
    while u128::from(bytes) >= divisor * 1000 {
        divisor *= 1000;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10 + divisor / 2) / divisor;
    if tenths < 100 {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    } else {
        // Whole units are rounded from the bytes: rounding tenths again would drift.
        format!(
            "{} {}",
            (u128::from(bytes) + divisor / 2) / divisor,
            UNITS[unit]
        )
    }
}

/// How long ago something was that happened `seconds` ago.
pub(super) fn ago(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0 => return "now".into(),
        s if s < MINUTE => (s, "second"),
        s if s < HOUR => (s / MINUTE, "minute"),
        s if s < DAY => (s / HOUR, "hour"),
        s if s < WEEK => (s / DAY, "day"),
        s if s < MONTH => (s / WEEK, "week"),
        s if s < YEAR => (s / MONTH, "month"),
        s => (s / YEAR, "year"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural} ago")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (size, want) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1_500_000_000, "1.5 GB"),
            (9_949_999_999, "9.9 GB"),
            (9_950_000_000, "10 GB"),
            (25_212_469_248, "25 GB"),
            (999_400_000, "999 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(size), want, "{size}");
        }
    }

    #[test]
    fn ages() {
        for (age, want) in [
            (0, "now"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "1 minute ago"),
            (36 * MINUTE + 30, "36 minutes ago"),
            (2 * HOUR, "2 hours ago"),
            (DAY, "1 day ago"),
            (3 * DAY, "3 days ago"),
            (WEEK + DAY, "1 week ago"),
            (45 * DAY, "1 month ago"),
            (YEAR, "1 year ago"),
            (3 * YEAR, "3 years ago"),
        ] {
            assert_eq!(ago(age), want, "{age}");
        }
    }
}
