//! The screen, drawn.

mod over;

pub(super) use over::BOX;

use std::ops::Range;
use std::time::SystemTime;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Paragraph, Row, Table, TableState};

use super::model::{Model, Pane};
use super::rates::{ages, oldest, shown};
use super::sort::{CLIENT_COLUMNS, DEVICE_COLUMNS, Sort};
use crate::job::Job;
use crate::model::{Client, Device};
use crate::render::Paint;
use crate::render::text::{clean, count, fit, short, time_of_day_in};
use crate::world::outcome_paint;

/// From this width on there is room for nodes, for reasons, and for long names.
const ROOMY: u16 = 120;
/// Ejects that are shown, the newest.
const JOBS: usize = 3;

/// Draws the screen at a time of CLOCK_MONOTONIC and of the wall clock.
pub fn draw(frame: &mut Frame<'_>, model: &Model, now_ns: u64, at: SystemTime) {
    let jobs = model.jobs.len().min(JOBS);
    let tall = |rows: usize| u16::try_from(rows).unwrap_or(u16::MAX);
    let devices = tall(model.devices.len().max(1) + 3).min(frame.area().height / 2);
    let [head, devices, clients, ejects, events, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(devices),
        Constraint::Fill(1),
        Constraint::Length(if jobs == 0 { 0 } else { tall(jobs + 2) }),
        Constraint::Max(7),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let painter = Painter { colour: model.colour };
    frame.render_widget(headline(model, at, head.width, painter), head);
    draw_devices(frame, model, devices, painter);
    draw_clients(frame, model, clients, painter);
    draw_jobs(frame, model, now_ns, ejects, painter);
    draw_events(frame, model, events, painter);
    let keys = "↑↓ select  Tab table  s sort  r reverse  Enter holders  e eject  ? help  q quit";
    frame.render_widget(Line::styled(keys, painter.style(Paint::Faint)), foot);
    over::draw(frame, model, painter);
}

/// Colours where they are wanted; else bold, dim and reversed alone.
#[derive(Clone, Copy)]
struct Painter {
    colour: bool,
}

impl Painter {
    fn style(self, paint: Paint) -> Style {
        let style = Style::new();
        match (paint, self.colour) {
            (Paint::Good, true) => style.fg(Color::Green),
            (Paint::Warn, true) => style.fg(Color::Yellow),
            (Paint::Bad, true) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            (Paint::Good, false) => style,
            (Paint::Faint, _) => style.add_modifier(Modifier::DIM),
            (Paint::Strong | Paint::Warn | Paint::Bad, _) => style.add_modifier(Modifier::BOLD),
        }
    }
}

fn headline(model: &Model, at: SystemTime, columns: u16, painter: Painter) -> Line<'static> {
    let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let fences = model.devices.iter().map(|device| device.counts.fences).sum::<u32>();
    let clock = clock(at, model);
    let (name, rest) = if model.running {
        let name = format!("dmashared {}", clean(&model.service.version));
        let rest = format!(
            " ({})  {}, {}, {} pending",
            clean(&model.service.backend),
            count(number(model.devices.len()), "device", "devices"),
            count(number(model.clients.len()), "client", "clients"),
            count(fences, "fence", "fences"),
        );
        (Span::styled(name, painter.style(Paint::Strong)), rest)
    } else {
        let stopped = "dmashared has stopped; this goes on when it runs again".to_owned();
        (Span::styled(stopped, painter.style(Paint::Bad)), String::new())
    };
    let used = name.width() + rest.chars().count();
    let gap = usize::from(columns).saturating_sub(used + clock.len());
    Line::from(vec![name, Span::raw(rest), Span::raw(" ".repeat(gap.max(2))), Span::raw(clock)])
}

/// To the second.
fn clock(at: SystemTime, model: &Model) -> String {
    let time = time_of_day_in(at, model.zone.clone());
    time.split('.').next().unwrap_or_default().to_owned()
}

/// The headings, the one that is sorted by marked.
fn headings(columns: &[&str], sort: Sort, right: Range<usize>, painter: Painter) -> Row<'static> {
    let cells = columns.iter().enumerate().map(|(index, name)| {
        let mark = match (index == sort.column, sort.reversed) {
            (true, false) => "▾",
            (true, true) => "▴",
            (false, _) => "",
        };
        cell(format!("{name}{mark}"), right.contains(&index))
    });
    Row::new(cells.collect::<Vec<_>>()).style(painter.style(Paint::Strong))
}

fn cell(text: String, right: bool) -> Cell<'static> {
    let line = Line::from(text);
    Cell::from(if right { line.right_aligned() } else { line })
}

fn block(title: &str, chosen: bool, painter: Painter) -> Block<'static> {
    let paint = if chosen { Paint::Strong } else { Paint::Faint };
    Block::bordered()
        .border_style(painter.style(Paint::Faint))
        .title(Span::styled(format!(" {title} "), painter.style(paint)))
}

fn draw_devices(frame: &mut Frame<'_>, model: &Model, area: Rect, painter: Painter) {
    let chosen = model.pane == Pane::Devices;
    let rows = model.devices.iter().map(|device| device_row(model, device, painter));
    let roomy = area.width >= ROOMY;
    // A PCI address in any case.
    let (name, driver) = match roomy {
        true => (Constraint::Length(16), Constraint::Length(16)),
        false => (Constraint::Length(12), Constraint::Fill(1)),
    };
    let mut widths = vec![
        Constraint::Length(4),
        name,
        driver,
        Constraint::Length(8),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(4),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(5),
    ];
    let mut columns = DEVICE_COLUMNS.to_vec();
    if roomy {
        let (gap, ages) = (Constraint::Length(1), Constraint::Length(22));
        widths.extend([gap, ages, Constraint::Fill(1), Constraint::Fill(2)]);
        columns.extend(["", "PENDING 10ms…10s…", "NODES", "CAN BE PULLED"]);
    }
    let table = Table::new(rows.collect::<Vec<_>>(), widths)
        .header(headings(&columns, model.device_sort, 4..11, painter))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block("Devices", chosen, painter));
    let at = model.devices.iter().position(|device| Some(device.id) == model.device);
    let mut state = TableState::new().with_selected(at.filter(|_| chosen));
    frame.render_stateful_widget(table, area, &mut state);
}

fn device_row(model: &Model, device: &Device, painter: Painter) -> Row<'static> {
    let paint = match device.state.as_str() {
        "present" => Paint::Good,
        "draining" => Paint::Warn,
        _ => Paint::Bad,
    };
    let short_node = |node: &String| clean(node.strip_prefix("/dev/dri/").unwrap_or(node));
    let nodes: Vec<String> = device.nodes.iter().map(short_node).collect();
    let can = if device.removable { "yes" } else { "no" };
    let pulled = format!("{can}: {}", clean(&device.removable_reason));
    let (counts, rate) = (device.counts, model.rates.of(device.id));
    let activity = model.rates.last(device.id);
    let number = |number: u32| cell(short(number), true);
    Row::new(vec![
        cell(format!("d{}", device.id), false),
        cell(clean(&device.name), false),
        cell(clean(&device.driver), false),
        cell(clean(&device.state), false).style(painter.style(paint)),
        number(counts.buffers),
        number(counts.imports),
        number(counts.fences),
        number(counts.timelines),
        cell(oldest(activity), true),
        cell(shown(rate.buffers), true),
        cell(shown(rate.fences), true),
        // Where there is room.
        cell(String::new(), false),
        cell(ages(activity), false),
        cell(nodes.join(" "), false),
        cell(pulled, false),
    ])
}

fn draw_clients(frame: &mut Frame<'_>, model: &Model, area: Rect, painter: Painter) {
    let chosen = model.pane == Pane::Clients;
    let roomy = area.width >= ROOMY;
    let widths = [
        Constraint::Length(4),
        Constraint::Length(7),
        if roomy { Constraint::Length(32) } else { Constraint::Fill(2) },
        Constraint::Fill(3),
        Constraint::Length(10),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(5),
        Constraint::Length(4),
    ];
    let table = Table::new(model.clients.iter().map(client_row).collect::<Vec<_>>(), widths)
        .header(headings(&CLIENT_COLUMNS, model.client_sort, 5..9, painter))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block("Clients", chosen, painter));
    let at = model.clients.iter().position(|client| Some(client.id) == model.client);
    let mut state = TableState::new().with_selected(at.filter(|_| chosen));
    frame.render_stateful_widget(table, area, &mut state);
}

fn client_row(client: &Client) -> Row<'static> {
    let counts = client.counts;
    let number = |number: u32| cell(short(number), true);
    let survives = if client.survives_removal { "+" } else { "" };
    Row::new(vec![
        cell(format!("c{}", client.id), false),
        cell(client.pid.to_string(), false),
        cell(clean(&client.name), false),
        cell(clean(&client.unit), false),
        cell(format!("{}{survives}", clean(&client.on_loss)), false),
        number(counts.buffers),
        number(counts.imports),
        number(counts.fences),
        number(counts.timelines),
    ])
}

fn draw_jobs(frame: &mut Frame<'_>, model: &Model, now_ns: u64, area: Rect, painter: Painter) {
    let newest = model.jobs.iter().rev().take(JOBS);
    let lines = newest.map(|job| job_line(job, now_ns, area.width.saturating_sub(2), painter));
    let text: Vec<Line<'_>> = lines.collect();
    frame.render_widget(Paragraph::new(text).block(block("Ejects", false, painter)), area);
}

fn job_line(job: &Job, now_ns: u64, columns: u16, painter: Painter) -> Line<'static> {
    let word = clean(job.outcome.as_deref().unwrap_or(&job.stage));
    let left = job.seconds_left(now_ns).map(|left| format!("  {left} s left")).unwrap_or_default();
    let head = format!("{}  ", job.shown_device());
    let used = head.chars().count() + word.chars().count() + 2 + left.len();
    let message = fit(&job.message, usize::from(columns).saturating_sub(used));
    Line::from(vec![
        Span::raw(head),
        Span::styled(word, painter.style(outcome_paint(job))),
        Span::raw(format!("  {message}{left}")),
    ])
}

fn draw_events(frame: &mut Frame<'_>, model: &Model, area: Rect, painter: Painter) {
    let room = usize::from(area.height.saturating_sub(2));
    let columns = usize::from(area.width.saturating_sub(2));
    let lines = model.events.iter().take(room).map(|(at, event)| {
        let (time, word) = (format!("{}  ", clock(*at, model)), format!("{:<17}  ", event.word()));
        let text = fit(&event.text(), columns.saturating_sub(time.len() + word.len()));
        Line::from(vec![
            Span::styled(time, painter.style(Paint::Faint)),
            Span::styled(word, painter.style(event.paint())),
            Span::raw(text),
        ])
    });
    let text: Vec<Line<'_>> = lines.collect();
    frame.render_widget(Paragraph::new(text).block(block("Events", false, painter)), area);
}
