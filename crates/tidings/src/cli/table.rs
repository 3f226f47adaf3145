//! Tables for people: columns as wide as what stands in them.

use super::summary::visible;

/// Lays rows out under their headings, two spaces apart. Columns that hold nothing but numbers are aligned to
/// the right.
pub(super) fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| visible(cell)).collect())
        .collect();
    let columns: Vec<Column> = headings
        .iter()
        .enumerate()
        .map(|(place, heading)| Column::of(heading, rows.iter().map(|row| row[place].as_str())))
        .collect();
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_owned()).collect();
    for row in std::iter::once(&headings).chain(&rows) {
        let mut line = String::new();
        for (column, cell) in columns.iter().zip(row) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            column.write(cell, &mut line);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

struct Column {
    width: usize,
    right: bool,
}

impl Column {
    fn of<'a>(heading: &str, cells: impl Iterator<Item = &'a str>) -> Self {
        let mut column = Self {
            width: heading.chars().count(),
            right: true,
        };
        for cell in cells {
            column.width = column.width.max(cell.chars().count());
            column.right &= cell.starts_with(|first: char| first.is_ascii_digit());
        }
        column
    }

    fn write(&self, cell: &str, line: &mut String) {
        let padding = self.width - cell.chars().count();
        let padding = std::iter::repeat_n(' ', padding);
        if self.right {
            line.extend(padding);
            line.push_str(cell);
        } else {
            line.push_str(cell);
            line.extend(padding);
        }
    }
}

/// A number of bytes in few characters.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if size < 1024.0 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{size:.1} {unit}")
    }
}

/// A time without its fraction of a second.
pub(super) fn seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((whole, _)) => format!("{whole}Z"),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_in_them_steers_the_terminal() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let text = table(
            &["NAME", "COUNT", "SINCE"],
            &[
                row(["Büro", "9", "today"]),
                row(["a\u{1b}[2J", "1200", "-"]),
            ],
        );
        assert_eq!(
            text,
            "NAME   COUNT  SINCE\n\
             Büro       9  today\n\
             a\u{fffd}[2J   1200  -\n"
        );
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(seconds("2026-11-24T01:00:00.123Z"), "2026-11-24T01:00:00Z");
        assert_eq!(seconds("2026-11-24T01:00:00Z"), "2026-11-24T01:00:00Z");
    }
}
