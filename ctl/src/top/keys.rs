//! What keys do.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::model::{Action, Body, Model, Over, Pane};
use super::sort::{CLIENT_COLUMNS, DEVICE_COLUMNS};
use crate::job::Job;

impl Model {
    /// A key was pressed.
    pub fn key(&mut self, key: KeyEvent) -> Option<Action> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Some(Action::Quit);
        }
        if control && key.code == KeyCode::Char('l') {
            return None;
        }
        match self.over.clone() {
            Over::Nothing => self.key_in_tables(key.code),
            Over::Help => {
                self.over = Over::Nothing;
                None
            }
            Over::Text { .. } => {
                self.key_in_text(key.code);
                None
            }
            Over::Ask { device, force } => self.key_in_question(key.code, device, force),
        }
    }

    fn key_in_tables(&mut self, code: KeyCode) -> Option<Action> {
        let (sort, columns) = match self.pane {
            Pane::Devices => (&mut self.device_sort, DEVICE_COLUMNS.len()),
            Pane::Clients => (&mut self.client_sort, CLIENT_COLUMNS.len()),
        };
        match code {
            KeyCode::Char('q') | KeyCode::Esc => return Some(Action::Quit),
            KeyCode::Char('?' | 'h') => self.over = Over::Help,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Tab | KeyCode::BackTab => {
                self.pane = match self.pane {
                    Pane::Devices => Pane::Clients,
                    Pane::Clients => Pane::Devices,
                };
            }
            KeyCode::Char('s' | '>') => sort.next(columns),
            KeyCode::Char('S' | '<') => sort.before(columns),
            KeyCode::Char('r') => sort.reversed = !sort.reversed,
            KeyCode::Enter | KeyCode::Char('i') => {
                let id = self.chosen()?.id;
                let title = format!("Who holds d{id}");
                self.over = Over::Text { title, body: Body::Awaited, scroll: 0 };
                return Some(Action::Inspect(id));
            }
            KeyCode::Char('e') => {
                let device = self.chosen()?;
                self.over = match &device.cause {
                    None => Over::Ask { device: device.id, force: 0 },
                    Some(_) => Over::Text {
                        title: "Not ejected".to_owned(),
                        body: Body::Plain(format!("d{} is lost already", device.id)),
                        scroll: 0,
                    },
                };
            }
            KeyCode::Char('c') => {
                let device = self.chosen()?.id;
                let of = |job: &&Job| job.device == Some(device) && job.outcome.is_none();
                return self.jobs.iter().find(of).map(|job| Action::Cancel(job.id));
            }
            _ => {}
        }
        self.order();
        None
    }

    fn key_in_text(&mut self, code: KeyCode) {
        let Over::Text { scroll, body, .. } = &mut self.over else { return };
        let lines = body.text(super::view::BOX).lines().count();
        let last = u16::try_from(lines.saturating_sub(1)).unwrap_or(u16::MAX);
        match code {
            KeyCode::Down | KeyCode::Char('j') => *scroll = scroll.saturating_add(1).min(last),
            KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
            KeyCode::PageDown | KeyCode::Char(' ') => {
                *scroll = scroll.saturating_add(10).min(last);
            }
            KeyCode::PageUp => *scroll = scroll.saturating_sub(10),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => self.over = Over::Nothing,
            _ => {}
        }
    }

    fn key_in_question(&mut self, code: KeyCode, device: u64, force: u8) -> Option<Action> {
        match code {
            KeyCode::Char('y') => {
                self.over = Over::Nothing;
                self.force = force;
                Some(Action::Eject { device, force })
            }
            KeyCode::Char('f') if force == 0 => {
                self.over = Over::Ask { device, force: 1 };
                None
            }
            KeyCode::Char('n' | 'q') | KeyCode::Esc => {
                self.over = Over::Nothing;
                None
            }
            _ => None,
        }
    }

    fn step(&mut self, by: isize) {
        let (ids, chosen): (Vec<u64>, _) = match self.pane {
            Pane::Devices => {
                (self.devices.iter().map(|device| device.id).collect(), &mut self.device)
            }
            Pane::Clients => {
                (self.clients.iter().map(|client| client.id).collect(), &mut self.client)
            }
        };
        let at = ids.iter().position(|id| Some(*id) == *chosen).unwrap_or(0);
        let at = at.saturating_add_signed(by).min(ids.len().saturating_sub(1));
        *chosen = ids.get(at).copied();
    }
}
