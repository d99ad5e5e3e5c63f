//! Where labels and bars go, so that none lies over another.

/// Estimated pixels of text at 12 px in whatever sans-serif font the viewer has: a wide one.
pub(super) fn text_width(text: &str) -> f64 {
    text.chars()
        .map(|ch| if u32::from(ch) >= 0x1100 && ch != '…' && ch != '−' { 13.0 } else { 7.0 })
        .sum()
}

/// A mark's label: it stands to the right of a leader at `x`, in a row above the lane's line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Label {
    pub(super) x: f64,
    pub(super) width: f64,
}

/// Between labels of one row.
const GAP: f64 = 10.0;

/// The row of each label, 0 being nearest to the line. A label stands above all those whose leaders
/// it covers, so no leader runs through a text. `labels` are in the order of `x`.
pub(super) fn label_rows(labels: &[Label]) -> Vec<usize> {
    let mut rows = vec![0; labels.len()];
    for index in (0..labels.len()).rev() {
        let end = labels[index].x + labels[index].width + GAP;
        rows[index] = (index + 1..labels.len())
            .take_while(|right| labels[*right].x < end)
            .map(|right| rows[right] + 1)
            .max()
            .unwrap_or(0);
    }
    rows
}

/// The row of each bar with its text, 0 being nearest to the line: the first that is free there.
pub(super) fn bar_rows(extents: &[(f64, f64)]) -> Vec<usize> {
    let mut taken: Vec<Vec<(f64, f64)>> = Vec::new();
    extents
        .iter()
        .map(|&(from, to)| {
            let free = |row: &Vec<(f64, f64)>| {
                row.iter().all(|&(left, right)| to + GAP <= left || right + GAP <= from)
            };
            let row = taken.iter().position(free).unwrap_or(taken.len());
            if row == taken.len() {
                taken.push(Vec::new());
            }
            taken[row].push((from, to));
            row
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_label_covers_another_or_its_leader(
            mut xs in proptest::collection::vec((0.0..1000.0_f64, 10.0..300.0_f64), 0..20)
        ) {
            xs.sort_by(|a, b| a.0.total_cmp(&b.0));
            let labels: Vec<Label> =
                xs.into_iter().map(|(x, width)| Label { x, width }).collect();
            let rows = label_rows(&labels);
            for (i, a) in labels.iter().enumerate() {
                for (j, b) in labels.iter().enumerate().skip(i + 1) {
                    if b.x < a.x + a.width {
                        prop_assert!(rows[i] > rows[j], "{a:?} in {}, {b:?} in {}", rows[i], rows[j]);
                    }
                }
            }
        }

        #[test]
        fn no_bar_covers_another(
            bars in proptest::collection::vec((0.0..1000.0_f64, 1.0..300.0_f64), 0..20)
        ) {
            let extents: Vec<(f64, f64)> =
                bars.into_iter().map(|(from, width)| (from, from + width)).collect();
            let rows = bar_rows(&extents);
            for (i, a) in extents.iter().enumerate() {
                for (j, b) in extents.iter().enumerate().skip(i + 1) {
                    prop_assert!(rows[i] != rows[j] || a.1 <= b.0 || b.1 <= a.0);
                }
            }
        }
    }
}
