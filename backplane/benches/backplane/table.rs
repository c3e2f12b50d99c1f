//! Figures beside what they should be.

/// The middle one.
pub(crate) fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.into_iter().collect();
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Rows of what was measured.
pub(crate) struct Table {
    rows: Vec<String>,
    notes: Vec<String>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { rows: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn at_least(&mut self, what: &str, figure: f64, least: f64) {
        self.row(what, figure, &format!(">= {least}"), figure >= least);
    }

    pub(crate) fn at_most(&mut self, what: &str, figure: f64, most: f64) {
        self.row(what, figure, &format!("<= {most}"), figure <= most);
    }

    /// What stands behind the ratios.
    pub(crate) fn note(&mut self, note: &str) {
        eprintln!("  {note}");
        self.notes.push(note.to_owned());
    }

    fn row(&mut self, what: &str, figure: f64, target: &str, is_met: bool) {
        let row = format!("| {what} | {target} | {figure:.2} | {} |", if is_met { "yes" } else { "**no**" });
        eprintln!("{row}");
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        println!("| figure | target | measured | met |\n|---|---|---|---|");
        self.rows.iter().for_each(|row| println!("{row}"));
        self.notes.iter().for_each(|note| println!("\n{note}"));
    }
}
