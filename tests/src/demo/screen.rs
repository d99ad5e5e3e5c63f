//! The consumer's screen: a thread that reads what is shown, all the time and whatever happens.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, bail};
use dmashare::{Access, MappedBuffer};

use super::frame::{HEIGHT, WIDTH, is_row, is_zero};
use super::lines::ScreenStory;
use crate::clock::now_ns;

/// Between two rows.
const ROW: Duration = Duration::from_millis(1);

/// What is shown, and its number.
#[derive(Default)]
pub struct Screen<'a>(Mutex<State<'a>>);

#[derive(Default)]
struct State<'a> {
    shown: Option<Shown<'a>>,
    stopped: bool,
}

/// A frame on the screen.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// Its number.
    pub number: u32,
    /// Its buffer.
    pub map: &'a MappedBuffer,
    /// Bytes from one row to the next.
    pub stride: usize,
}

impl<'a> Screen<'a> {
    /// Shows another frame; when this returns, the one before is not read any more.
    pub fn show(&self, frame: Shown<'a>) {
        self.state().shown = Some(frame);
    }

    /// Ends [`Self::scan_out`].
    pub fn stop(&self) {
        self.state().stopped = true;
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads row after row, each in a bracket, until it is stopped; also when the device is lost.
    ///
    /// # Errors
    /// A row is neither what was drawn nor, on a lost device, zeros.
    pub fn scan_out(&self) -> Result<ScreenStory> {
        let mut story = ScreenStory::default();
        let mut pixels = vec![0; WIDTH as usize * 4];
        let mut row = 0;
        loop {
            let state = self.state();
            if state.stopped {
                return Ok(story);
            }
            if let Some(shown) = state.shown {
                read(shown, row, &mut pixels, &mut story)?;
                row = (row + 1) % HEIGHT;
            }
            drop(state);
            sleep(ROW);
        }
    }
}

fn read(shown: Shown<'_>, row: u32, pixels: &mut [u8], story: &mut ScreenStory) -> Result<()> {
    let Shown { number, map, stride } = shown;
    let offset = row as usize * stride;
    let result = match map.begin(Access::Read) {
        Ok(bracket) => {
            map.copy_to_slice(offset, pixels)?;
            bracket.end()
        }
        Err(error) => Err(error),
    };
    match result {
        Ok(()) if is_row(pixels, number, row) => story.rows += 1,
        Ok(()) => bail!("row {row} of frame {number} is not what was drawn"),
        Err(error) if error.is_device_lost() => {
            if story.refused_ns == 0 {
                story.refused_ns = now_ns();
            }
            map.copy_to_slice(offset, pixels)?;
            if !is_zero(pixels) {
                bail!("row {row} is neither refused nor zeros after the loss");
            }
            story.rows_after += 1;
            if story.zeros_ns == 0 {
                story.zeros_ns = now_ns();
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
