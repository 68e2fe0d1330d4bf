//! Bytes as people write them.

/// Why a size cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no size: write for example 16GB (10^9 bytes) or 16GiB (2^30)")]
pub struct NotASize(String);

/// Reads `16GB`, `1.5 GiB`, `800 MB`, `4096`.
///
/// # Errors
/// [`NotASize`] for anything else, and for what 64 bits do not hold.
pub fn parse_bytes(text: &str) -> Result<u64, NotASize> {
    let wrong = || NotASize(text.chars().take(40).collect());
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let bytes = (number * unit).round();
    if bytes < 2f64.powi(63) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// `1.25 GB`, in units of 10^9 bytes.
pub fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

/// `819,200`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(|g| String::from_utf8_lossy(g)).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_written() {
        for (text, bytes) in [
            ("16GB", 16_000_000_000),
            ("1.5 GiB", 1_610_612_736),
            ("800 mb", 800_000_000),
            ("4096", 4096),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        let long = format!("{}GB", "9".repeat(400));
        for text in [
            "",
            "GB",
            "-1GB",
            "1e3",
            "16 GX",
            "nan",
            "1..2GB",
            "16\u{e9}",
            &long,
            "9223372036855GB",
        ] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_to_be_read() {
        assert_eq!([0, 999, 1000, 819_200].map(thousands), ["0", "999", "1,000", "819,200"]);
        assert_eq!(gigabytes(1_254_000_000), "1.25 GB");
    }
}
