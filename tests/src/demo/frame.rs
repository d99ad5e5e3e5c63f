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

/// A row's bytes. Whole rows are copied and compared, which is quick also on an emulated processor.
fn pixels(frame: u32, row: u32) -> Vec<u8> {
    colour(frame, row).to_ne_bytes().repeat(WIDTH as usize)
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
    rows.into_iter()
        .try_for_each(|row| to.copy_from(row as usize * stride as usize, &pixels(frame, row)))
}

/// Whether these are the pixels of a row.
#[must_use]
pub fn is_row(pixels: &[u8], frame: u32, row: u32) -> bool {
    pixels == self::pixels(frame, row)
}

/// What a buffer shows that was taken back.
#[must_use]
pub fn is_zero(pixels: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    pixels.chunks(ZEROS.len()).all(|part| part == &ZEROS[..part.len()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_its_own() {
        let pixels = pixels(7, 3);
        assert!(is_row(&pixels, 7, 3));
        assert!(!is_row(&pixels, 7, 4));
        assert!(!is_row(&pixels, 8, 3));
        assert!(!is_zero(&pixels));
        assert!(is_zero(&vec![0; pixels.len() * 3]));
        let mut torn = pixels;
        torn[100] ^= 1;
        assert!(!is_row(&torn, 7, 3));
    }
}
