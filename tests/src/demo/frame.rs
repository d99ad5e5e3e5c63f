//! A frame's picture: each row has a colour that no other row of any near frame has, so a frame
//! that is old, torn or half drawn is told from a whole one.

use dmashare_uapi::mapping::{CopyError, Mapping};

/// Pixels in a row.
pub const WIDTH: u32 = 640;
/// Rows.
pub const HEIGHT: u32 = 360;

/// The colour of a row: never zero, which is what a lost buffer shows.
#[must_use]
pub fn colour(frame: u32, row: u32) -> u32 {
    (frame.wrapping_mul(HEIGHT) + row).wrapping_mul(0x9e37_79b1) | 1
}

/// Draws some rows.
///
/// # Errors
/// The mapping is too small.
pub fn draw(
    to: &Mapping,
    stride: u32,
    frame: u32,
    rows: std::ops::Range<u32>,
) -> Result<(), CopyError> {
    let mut pixels = vec![0; WIDTH as usize * 4];
    for row in rows {
        let colour = colour(frame, row).to_ne_bytes();
        pixels.chunks_exact_mut(4).for_each(|pixel| pixel.copy_from_slice(&colour));
        to.copy_from(row as usize * stride as usize, &pixels)?;
    }
    Ok(())
}

/// Whether these are the pixels of a row.
#[must_use]
pub fn is_row(pixels: &[u8], frame: u32, row: u32) -> bool {
    let colour = colour(frame, row).to_ne_bytes();
    pixels.chunks_exact(4).all(|pixel| pixel == colour)
}

/// What a buffer shows that was taken back.
#[must_use]
pub fn is_zero(pixels: &[u8]) -> bool {
    pixels.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_its_own() {
        let pixels = colour(7, 3).to_ne_bytes().repeat(WIDTH as usize);
        assert!(is_row(&pixels, 7, 3));
        assert!(!is_row(&pixels, 7, 4));
        assert!(!is_row(&pixels, 8, 3));
        assert!(!is_zero(&pixels));
        let mut torn = pixels;
        torn[100] ^= 1;
        assert!(!is_row(&torn, 7, 3));
    }
}
