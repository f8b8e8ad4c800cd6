//! Tables in plain text: every column but the last is padded with spaces to
//! its widest cell and three more, and to ten at least.

/// The narrowest a padded column gets.
const MIN_WIDTH: usize = 10;
/// Spaces after the widest cell of a padded column.
const PADDING: usize = 3;

/// Lays out `rows` under `header`; every line ends in a line feed.
#[must_use]
pub fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let header = header.map(str::to_owned);
    let lines: Vec<[String; N]> = std::iter::once(&header)
        .chain(rows)
        .map(|row| row.each_ref().map(|c| tame(c)))
        .collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        let widest = lines.iter().map(|row| row[column].chars().count()).max();
        (widest.unwrap_or(0) + PADDING).max(MIN_WIDTH)
    });
    let mut out = String::new();
    for row in &lines {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Keeps a cell from breaking its line.
fn tame(cell: &str) -> String {
    cell.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row<const N: usize>(cells: [&str; N]) -> [String; N] {
        cells.map(str::to_owned)
    }

    #[test]
    fn short_columns_are_ten_wide() {
        let text = render(["NAME", "TYPE"], &[row(["ctr0", "bridge"])]);
        assert_eq!(text, "NAME      TYPE\nctr0      bridge\n");
    }

    #[test]
    fn long_columns_have_three_spaces_after_the_widest_cell() {
        let rows = [
            row(["production", "10.255.0.2", "eth0"]),
            row(["b", "fd00::1", "eth1"]),
        ];
        let text = render(["NETWORK", "IP", "INTERFACE"], &rows);
        let want = "\
NETWORK      IP           INTERFACE
production   10.255.0.2   eth0
b            fd00::1      eth1
";
        assert_eq!(text, want);
    }

    #[test]
    fn no_rows_leave_the_header() {
        assert_eq!(render(["NAME", "TYPE"], &[]), "NAME      TYPE\n");
    }

    #[test]
    fn width_is_counted_in_characters_and_breaks_are_tamed() {
        let text = render(["A", "B"], &[row(["é\n", "x"]), row(["ab", ""])]);
        assert_eq!(text, "A         B\né?        x\nab\n");
    }

    proptest! {
        #[test]
        fn columns_start_at_the_same_place(
            rows in prop::collection::vec(prop::array::uniform3("[a-z0-9.:é-]{1,24}"), 0..8)
        ) {
            let text = render(["FIRST", "SECOND", "THIRD"], &rows);
            let widest = |column: usize, header: usize| {
                let cells = rows.iter().map(|row| row[column].chars().count());
                (cells.chain([header]).max().unwrap_or(0) + 3).max(10)
            };
            let (first, second) = (widest(0, 5), widest(1, 6));
            prop_assert_eq!(text.lines().count(), rows.len() + 1);
            for (line, row) in text.lines().skip(1).zip(&rows) {
                let chars: Vec<char> = line.chars().collect();
                let cut = |from: usize, to: usize| {
                    chars[from..to].iter().collect::<String>().trim_end().to_owned()
                };
                prop_assert_eq!(cut(0, first), row[0].as_str());
                prop_assert_eq!(cut(first, first + second), row[1].as_str());
                prop_assert_eq!(&cut(first + second, chars.len()), &row[2]);
            }
        }
    }
}
