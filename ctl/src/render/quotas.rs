//! `dmasharectl quotas`: what is in use, of how much that may be.

use comfy_table::CellAlignment;
use dmashare_proto::usage::{Row, Usage};

use super::style::{Paint, Style, finish, whole_but};
use super::text::{bytes, clean, grouped};

/// From this part of a limit on it is to be looked at.
const NEAR: f64 = 0.9;

/// What users have, and below each what its connections have.
#[must_use]
pub fn quotas(usage: &Usage, style: Style) -> String {
    let mut table = style.table(["WHOSE", "WHAT", "USED", "OF", "LIMIT"]);
    let mut add = |whose: &str, rows: &[Row], all: bool| {
        let mut whose = whose.to_owned();
        for row in rows.iter().filter(|row| row.most.is_some() && (all || row.used > 0)) {
            let limit = row.limit.as_deref().unwrap_or_default();
            table.add_row([
                std::mem::take(&mut whose),
                clean(&row.resource),
                used(row, style),
                row.most.map_or_else(String::new, |most| amount(row, most)),
                clean(limit),
            ]);
        }
    };
    add("all users", &usage.all, true);
    for user in &usage.users {
        add(&format!("user {}", user.uid), &user.rows, true);
        for client in &user.clients {
            let name = if client.name.is_empty() { "–".to_owned() } else { clean(&client.name) };
            add(&format!("  c{} {name} (pid {})", client.id, client.pid), &client.rows, false);
        }
    }
    if table.row_iter().next().is_none() {
        return "nothing is held for you: no program of yours is connected, and none has left anything\n"
            .to_owned();
    }
    for column in table.column_iter_mut().skip(2).take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    whole_but(&mut table, &[0]);
    finish(&table)
}

fn used(row: &Row, style: Style) -> String {
    let text = amount(row, row.used);
    match row.most {
        Some(most) if row.used >= most => style.paint(Paint::Bad, &text),
        #[allow(clippy::cast_precision_loss, reason = "only roughly compared")]
        Some(most) if row.used as f64 >= NEAR * most as f64 => style.paint(Paint::Warn, &text),
        _ => text,
    }
}

fn amount(row: &Row, number: u64) -> String {
    if row.resource.ends_with("bytes") { bytes(number) } else { grouped(number) }
}

#[cfg(test)]
mod tests {
    use dmashare_proto::usage::{Client, User};

    use super::*;

    fn row(resource: &str, used: u64, most: u64) -> Row {
        let limit = Some(format!("limits.{resource}"));
        Row { resource: resource.to_owned(), used, most: Some(most), limit }
    }

    #[test]
    fn what_is_reached_or_near_is_seen() {
        let rows = vec![row("a", 10, 10), row("b", 9, 10), row("c", 8, 10), row("d", 0, 10)];
        let clients = vec![Client { id: 3, pid: 7, name: "x\x1b".to_owned(), rows: rows.clone() }];
        let users = vec![User { uid: 5, rows, clients }];
        let usage = Usage { all: Vec::new(), users };
        let text = quotas(&usage, Style { colour: true, width: None });
        assert!(
            text.contains("\x1b[31;1m10\x1b[0m") && text.contains("\x1b[33m9\x1b[0m"),
            "{text}"
        );
        assert!(!text.contains("m8\x1b") && text.contains("c3 x\\u{1b} (pid 7)"), "{text}");
        assert_eq!(text.matches("limits.d").count(), 1, "a client's zeros are not shown: {text}");
    }

    #[test]
    fn who_has_nothing_is_told() {
        assert!(quotas(&Usage::default(), Style::default()).starts_with("nothing is held for you"));
    }
}
