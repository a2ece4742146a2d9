//! One objection, drawn at its line.

use std::fmt;

use crate::{Position, Problem};

/// An objection to a manifest as a person reads it: `file:line:column`, the field, what is wrong,
/// and the line itself with a caret under the place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    file: String,
    at: Position,
    path: String,
    message: String,
    line: Option<String>,
}

/// How much of a line is shown, in characters; what lies beyond is cut.
const SHOWN: usize = 120;

impl Report {
    /// The report of an objection to `path` (may be empty) at `at` in `text`, the content of `file`.
    #[must_use]
    pub fn new(file: &str, text: &str, at: Position, path: &str, message: &str) -> Self {
        let line = at.line.checked_sub(1).and_then(|n| text.lines().nth(n));
        Report {
            file: file.into(),
            at,
            path: path.into(),
            message: message.into(),
            line: line.filter(|l| !l.trim().is_empty()).map(Into::into),
        }
    }

    /// The report of a [`Problem`] of `file`.
    #[must_use]
    pub fn of_problem(file: &str, text: &str, problem: &Problem) -> Self {
        Self::new(file, text, problem.at, &problem.path, &problem.message)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.at)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "{}", self.message)?;
        let Some(line) = &self.line else {
            return Ok(());
        };
        let column = self.at.column.saturating_sub(1);
        let from = column.saturating_sub(SHOWN / 2);
        let shown: String = line.chars().skip(from).take(SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let number = self.at.line.to_string();
        let margin = " ".repeat(number.len());
        let caret = " ".repeat(column - from);
        write!(f, "\n  {number} | {shown}\n  {margin} | {caret}^")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_the_line_with_a_caret() {
        let text = "a: 1\nspec:\n  imagee: x\n";
        let at = Position { line: 3, column: 3 };
        let report = Report::new("pod.yaml", text, at, "spec.imagee", "unknown field");
        assert_eq!(report.to_string(), "pod.yaml:3:3: spec.imagee: unknown field\n  3 |   imagee: x\n    |   ^");
    }

    #[test]
    fn a_very_long_line_is_cut_around_the_place() {
        let text = format!("{}X{}", "a".repeat(5000), "b".repeat(5000));
        let at = Position { line: 1, column: 5001 };
        let shown = Report::new("f", &text, at, "", "m").to_string();
        assert!(shown.len() < 400, "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[1].find('X'), lines[2].find('^'));
    }
}
