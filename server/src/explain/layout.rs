//! How text is laid out: sections, aligned columns, wrapped paragraphs. Nothing is wider than
//! [`WIDTH`], unless a single word is.

/// Columns of the text.
pub(crate) const WIDTH: usize = 100;

/// A title, underlined, with its lines.
pub(crate) fn section(title: &str, lines: Vec<String>) -> String {
    let rule = "-".repeat(title.chars().count());
    let body: String = lines.iter().map(|line| format!("{}\n", line.trim_end())).collect();
    format!("{title}\n{rule}\n{body}")
}

/// Rows with their columns aligned to the left, two spaces apart, behind `indent`.
pub(crate) fn columns(indent: &str, rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| length(cell)).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell}{}", " ".repeat(width - length(cell))));
        format!("{indent}{}", cells.collect::<Vec<_>>().join("  ")).trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// A paragraph, each line behind `indent`.
pub(super) fn wrapped(indent: &str, text: &str) -> Vec<String> {
    hanging(indent, indent, text)
}

/// A paragraph whose first line stands behind `first`, the others behind `indent`.
pub(crate) fn hanging(first: &str, indent: &str, text: &str) -> Vec<String> {
    let mut lines = vec![first.to_owned()];
    let mut empty = true;
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a first line");
        if !empty && length(line) + 1 + length(word) > WIDTH {
            lines.push(format!("{indent}{word}"));
        } else {
            line.push_str(if empty { "" } else { " " });
            line.push_str(word);
        }
        empty = false;
    }
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}
