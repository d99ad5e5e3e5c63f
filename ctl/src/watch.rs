//! `dmasharectl watch`: what happens, a line each.

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::bus::Bus;
use crate::failure::Failure;
use crate::holders::shape;
use crate::live::{Live, Start};
use crate::output::{Reader, print};
use crate::render::Style;
use crate::render::text::time_of_day;
use crate::world::Event;

/// Prints until nobody reads any more.
///
/// # Errors
/// The service cannot be reached, or the bus is gone.
pub async fn watch(bus: &Bus, as_json: bool, style: Style) -> Result<(), Failure> {
    let mut live = Live::connect(bus, Start::Service).await?;
    loop {
        for event in live.next().await? {
            if event == Event::Changed {
                continue;
            }
            let now = SystemTime::now();
            let line =
                if as_json { json(&event, now).to_string() } else { text(&event, now, style) };
            if print(&format!("{line}\n"))? == Reader::Left {
                return Ok(());
            }
        }
    }
}

fn text(event: &Event, at: SystemTime, style: Style) -> String {
    // Padded before it is painted: what paints has no width.
    let word = style.paint(event.paint(), &format!("{:<17}", event.word()));
    format!("{}  {word}  {}", time_of_day(at), event.text()).trim_end().to_owned()
}

fn json(event: &Event, at: SystemTime) -> Value {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut value = json!(event);
    if let Event::Eject { job } | Event::EjectEnded { job } = event
        && let Some(found) = &job.holders
    {
        value["job"]["holders"] = shape(found);
    }
    value["unix_time"] = json!(since.as_millis() as f64 / 1e3);
    value
}
