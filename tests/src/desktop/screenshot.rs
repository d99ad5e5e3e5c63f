//! A picture of a compositor's output.

use anyhow::{Result, bail};

/// Eight bits a channel.
pub struct Screenshot {
    /// Pixels.
    pub width: u32,
    /// Pixels.
    pub height: u32,
    channels: usize,
    bytes: Vec<u8>,
}

impl Screenshot {
    /// Reads a PNG.
    pub(super) fn decode(png: &[u8]) -> Result<Self> {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info()?;
        let Some(size) = reader.output_buffer_size() else { bail!("a picture too large") };
        let mut bytes = vec![0; size];
        let info = reader.next_frame(&mut bytes)?;
        let channels = match (info.color_type, info.bit_depth) {
            (png::ColorType::Rgb, png::BitDepth::Eight) => 3,
            (png::ColorType::Rgba, png::BitDepth::Eight) => 4,
            other => bail!("a picture of {other:?}"),
        };
        Ok(Self { width: info.width, height: info.height, channels, bytes })
    }

    /// A pixel as 0xRRGGBB.
    ///
    /// # Panics
    /// It is outside.
    #[must_use]
    pub fn pixel(&self, x: u32, y: u32) -> u32 {
        assert!(x < self.width && y < self.height, "{x}, {y} is not on the screen");
        let at = (y as usize * self.width as usize + x as usize) * self.channels;
        self.bytes[at..at + 3].iter().fold(0, |pixel, byte| pixel << 8 | u32::from(*byte))
    }
}
