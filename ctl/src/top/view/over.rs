//! What lies over the tables: help, texts, and the question before an eject.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Clear, Paragraph, Wrap};

use super::{Painter, block};
use crate::render::Paint;
use crate::render::text::{clean, count};
use crate::top::model::{Model, Over};

/// The widest that a box is.
pub(in crate::top) const BOX: u16 = 110;

const HELP: &str = "\
↑ ↓ j k    select
Tab        devices, clients
s S        sort by the next column, by the one before
r          reverse the order
Enter i    who holds the selected device
e          eject the selected device, after a question
c          cancel its eject
q Esc      quit

BUF, IMP, FEN, TL: exported buffers, imports of them, pending
fences, timelines. Δ/s is how a count changes, over five seconds.
ON LOSS is what a client wants done with it at a loss; + if it
says that it survives one.";

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, painter: Painter) {
    match &model.over {
        Over::Nothing => {}
        Over::Help => boxed(frame, "Keys", HELP, (0, "any key closes"), painter),
        Over::Text { title, body, scroll } => {
            let columns = BOX.min(frame.area().width.saturating_sub(4)).saturating_sub(4);
            let scroll = (*scroll, "↑↓ scroll  Esc close");
            boxed(frame, title, &body.text(columns), scroll, painter);
        }
        Over::Ask { device, force } => {
            boxed(frame, "Eject", &question(model, *device, *force), (0, ""), painter);
        }
    }
}

fn question(model: &Model, id: u64, force: u8) -> String {
    let Some(device) = model.devices.iter().find(|device| device.id == id) else {
        return format!("d{id} is gone\n\nn  back");
    };
    let counts = device.counts;
    let name = format!("d{id} ({}, {})", clean(&device.name), clean(&device.driver));
    let has = format!(
        "It has {}, {} and {} pending.",
        count(counts.buffers, "buffer", "buffers"),
        count(counts.imports, "import", "imports"),
        count(counts.fences, "fence", "fences"),
    );
    if force == 0 {
        format!(
            "Eject {name}?\n{has}\nIf anybody holds on it is refused, and nothing is changed.\n\n\
             y  eject    f  by force    n  no"
        )
    } else {
        format!(
            "Eject {name} by force?\n{has}\nProcesses that hold on are ENDED, but for who draws the \
             screen or lets people log in. What they have not saved is lost.\n\n\
             y  eject by force    n  no"
        )
    }
}

fn boxed(
    frame: &mut Frame<'_>,
    title: &str,
    text: &str,
    (scroll, keys): (u16, &'static str),
    painter: Painter,
) {
    let whole = frame.area();
    let longest = text.lines().map(|line| Line::raw(line).width()).max().unwrap_or(0);
    let width = u16::try_from(longest + 4).unwrap_or(u16::MAX).clamp(40, BOX);
    let width = width.min(whole.width.saturating_sub(4));
    let paragraph = Paragraph::new(text).wrap(Wrap { trim: false });
    let inner = usize::from(width.saturating_sub(4)).max(1);
    let rows: usize = text.lines().map(|line| Line::raw(line).width().div_ceil(inner).max(1)).sum();
    let height = u16::try_from(rows + 2).unwrap_or(u16::MAX).min(whole.height.saturating_sub(2));
    let area = centred(whole, width, height);
    let frame_of = block(title, true, painter)
        .border_style(painter.style(Paint::Strong))
        .title_bottom(Line::styled(keys, painter.style(Paint::Faint)).right_aligned())
        .padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(paragraph.scroll((scroll, 0)).block(frame_of), area);
}

fn centred(whole: Rect, width: u16, height: u16) -> Rect {
    let [row] = Layout::vertical([Constraint::Length(height)]).flex(Flex::Center).areas(whole);
    let [area] = Layout::horizontal([Constraint::Length(width)]).flex(Flex::Center).areas(row);
    area
}
