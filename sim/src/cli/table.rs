//! Tables for terminals and logs: columns as wide as their widest cell, numbers to the right.

use console::{measure_text_width, style};

/// A table under construction. Columns whose heading begins with `>` stand to the right.
#[derive(Clone, Debug)]
pub struct Table {
    headings: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub fn new(headings: &[&str]) -> Self {
        Table { headings: headings.iter().map(|name| (*name).to_owned()).collect(), rows: Vec::new() }
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has another number of cells than there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<String> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.headings.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// The lines, the headings first.
    pub fn lines(&self) -> Vec<String> {
        let named: Vec<String> = self.headings.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        let all: Vec<&Vec<String>> = std::iter::once(&named).chain(&self.rows).collect();
        let width = |column: usize| all.iter().map(|row| measure_text_width(&row[column])).max().unwrap_or(0);
        let widths: Vec<usize> = (0..named.len()).map(width).collect();
        all.iter().map(|row| self.line(row, &widths)).collect()
    }

    /// Prints it, on a terminal with its headings in bold.
    pub fn print(&self) {
        let lines = self.lines();
        println!("{}", style(&lines[0]).bold());
        lines[1..].iter().for_each(|line| println!("{line}"));
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, width), heading) in row.iter().zip(widths).zip(&self.headings) {
            let padding = " ".repeat(width - measure_text_width(cell));
            let to_the_right = heading.starts_with('>');
            line.push_str(&if to_the_right { format!("{padding}{cell}  ") } else { format!("{cell}{padding}  ") });
        }
        line.trim_end().to_owned()
    }
}

/// `text` in at most `max` columns.
pub fn cut(text: &str, max: usize) -> String {
    console::truncate_str(text, max, "…").into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["scenario", ">seeds"]);
        table.row(["swarm".to_owned(), "20".to_owned()]);
        table.row(["wedged_redis".to_owned(), "3".to_owned()]);
        assert_eq!(table.lines(), ["scenario      seeds", "swarm            20", "wedged_redis      3"]);
    }
}
