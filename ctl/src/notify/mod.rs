//! `dmasharectl notify`: says on the desktop what became of a device.

mod desk;
mod note;

use crate::bus::Bus;
use crate::failure::Failure;
use crate::live::{Live, Start};
use crate::output::print;

use desk::Desk;
pub use note::{Note, Urgency};

/// Runs until the bus or the session's bus is gone. The service is not started for it.
///
/// # Errors
/// One of the buses cannot be reached, or is gone.
pub async fn notify(bus: &Bus) -> Result<(), Failure> {
    let mut live = Live::connect(bus, Start::Nothing).await?;
    let mut desk = Desk::connect().await?;
    // For the journal, as is what is shown.
    print("waits for news of GPUs\n")?;
    loop {
        tokio::select! {
            events = live.next() => {
                for event in events? {
                    if let Some(note) = Note::of(&event) {
                        desk.show(note).await?;
                    }
                }
            }
            came = desk.came() => {
                came?;
                desk.show_what_waits().await?;
            }
        }
    }
}
