//! Who holds a device, as a tree: session and unit, process, what.

use dmashare_proto::holders::{Holder, Holders};

use super::{footer, headline, held, held_in_order, in_order, place, state};
use crate::model::Device;
use crate::render::style::{Paint, Style};
use crate::render::text::{clean, wrapped};

/// A line with what is below it.
struct Branch {
    /// Whether it is in an eject's way, where that is to be said.
    active: Option<bool>,
    text: String,
    paint: Option<Paint>,
    below: Vec<Branch>,
}

impl Branch {
    fn new(text: String) -> Self {
        Self { active: None, text, paint: None, below: Vec::new() }
    }
}

/// `dmasharectl holders --tree`.
#[must_use]
pub fn tree(device: &Device, found: &Holders, style: Style) -> String {
    let mut out = headline(device, found, style);
    let mut places: Vec<Branch> = Vec::new();
    for holder in in_order(&found.processes) {
        let place = place(holder);
        let process = process(holder);
        match places.iter_mut().find(|branch| branch.text == place) {
            Some(branch) => branch.below.push(process),
            None => places.push(Branch {
                paint: Some(Paint::Strong),
                below: vec![process],
                ..Branch::new(place)
            }),
        }
    }
    if !found.others.is_empty() {
        let others = found.others.iter().map(|other| {
            let text = format!("{}: {}", clean(&other.kind), clean(&other.text));
            Branch { active: other.active.then_some(true), ..Branch::new(text) }
        });
        let text = "by no process, or not seen".to_owned();
        places.push(Branch {
            paint: Some(Paint::Strong),
            below: others.collect(),
            ..Branch::new(text)
        });
    }
    draw(&places, "", style, &mut out);
    out + &footer(device, found, style)
}

fn process(holder: &Holder) -> Branch {
    let text = format!("{} {} of {}", holder.pid, held::command(holder), clean(&holder.user));
    let clients = holder
        .clients
        .iter()
        .map(|client| Branch { paint: Some(Paint::Faint), ..Branch::new(held::client(client)) });
    let holds = held_in_order(holder).into_iter().map(|held| {
        let text = match held::why(held).as_str() {
            "" => held::what(held),
            why => format!("{}: {why}", held::what(held)),
        };
        Branch { active: Some(!held.active.is_empty()), ..Branch::new(text) }
    });
    Branch { below: holds.chain(clients).collect(), ..Branch::new(text) }
}

fn draw(branches: &[Branch], indent: &str, style: Style, out: &mut String) {
    for (index, branch) in branches.iter().enumerate() {
        let last = index + 1 == branches.len();
        let (here, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        let (mark, blank) = match branch.active {
            None => (String::new(), ""),
            Some(true) => (format!("{}  ", state(true, style)), "        "),
            Some(false) => (format!("{}    ", state(false, style)), "        "),
        };
        let used = indent.chars().count() + here.chars().count() + blank.len();
        let room = style.width.map_or(usize::MAX, |width| usize::from(width).saturating_sub(used));
        for (number, line) in wrapped(&branch.text, room.max(10)).into_iter().enumerate() {
            let line = branch.paint.map_or_else(|| line.clone(), |paint| style.paint(paint, &line));
            *out += &match number {
                0 => format!("{indent}{here}{mark}{line}\n"),
                _ => format!("{indent}{below}{blank}{line}\n"),
            };
        }
        draw(&branch.below, &format!("{indent}{below}"), style, out);
    }
}
