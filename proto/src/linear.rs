//! Linear layouts for neutral buffers, with the alignment that GPUs want: a row begins at a multiple
//! of 256 bytes (what AMD's and NVIDIA's displays ask of a linear scan-out), a plane at a page.

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::error::{ErrorCode, WireError};
use crate::limits::MAX_EXTENT;
use crate::message::{Allocate, Layout, Plane};

/// Bytes that each row is a multiple of.
const PITCH: u64 = 256;
/// Bytes that each plane begins at a multiple of; the kernel rounds the whole up to its own pages.
const PAGE: u64 = 4096;

/// One plane of a format: bytes of a sample, and how many pixels share one in each direction.
struct Samples {
    bytes: u64,
    across: u64,
    down: u64,
}

const fn whole(bytes: u64) -> Samples {
    Samples { bytes, across: 1, down: 1 }
}

const fn shared(bytes: u64, across: u64, down: u64) -> Samples {
    Samples { bytes, across, down }
}

/// As `drm_fourcc.h` defines them. `None` for formats of odd packing, and for compressed ones.
fn samples(format: DrmFourcc) -> Option<&'static [Samples]> {
    use DrmFourcc as F;
    Some(match format {
        F::Xrgb8888
        | F::Argb8888
        | F::Xbgr8888
        | F::Abgr8888
        | F::Rgbx8888
        | F::Rgba8888
        | F::Bgrx8888
        | F::Bgra8888
        | F::Xrgb2101010
        | F::Argb2101010
        | F::Xbgr2101010
        | F::Abgr2101010 => const { &[whole(4)] },
        F::Xrgb16161616f | F::Argb16161616f | F::Xbgr16161616f | F::Abgr16161616f => {
            const { &[whole(8)] }
        }
        F::Rgb888 | F::Bgr888 => const { &[whole(3)] },
        F::Rgb565 | F::Bgr565 | F::Xrgb1555 | F::Argb1555 | F::R16 | F::Gr88 | F::Rg88 => {
            const { &[whole(2)] }
        }
        F::R8 => const { &[whole(1)] },
        // Two pixels are one sample of four bytes.
        F::Yuyv | F::Yvyu | F::Uyvy | F::Vyuy => const { &[shared(4, 2, 1)] },
        F::Nv12 | F::Nv21 => const { &[whole(1), shared(2, 2, 2)] },
        F::Nv16 | F::Nv61 => const { &[whole(1), shared(2, 2, 1)] },
        F::P010 | F::P012 | F::P016 => const { &[whole(2), shared(4, 2, 2)] },
        F::Yuv420 | F::Yvu420 => const { &[whole(1), shared(1, 2, 2), shared(1, 2, 2)] },
        F::Yuv444 | F::Yvu444 => const { &[whole(1), whole(1), whole(1)] },
        _ => return None,
    })
}

/// The format that `fourcc` names. The list of `drm_fourcc.h` has the flag
/// `DRM_FORMAT_BIG_ENDIAN` too, which is set beside a format and is none by itself.
///
/// # Errors
/// [`ErrorCode::BAD_LAYOUT`]: it is no format code.
pub fn format(fourcc: u32) -> Result<DrmFourcc, WireError> {
    match DrmFourcc::try_from(fourcc) {
        Ok(format) if format != DrmFourcc::Big_endian => Ok(format),
        _ => {
            let text = format!("{fourcc:#010x} is no DRM format code");
            Err(WireError::new(ErrorCode::BAD_LAYOUT, text))
        }
    }
}

/// How many rows a plane has, and how many bytes of each are pixels; `None` where the format has no
/// linear layout known here, or no such plane.
#[must_use]
pub fn rows(layout: &Layout, plane: usize) -> Option<(u32, u32)> {
    let format = format(layout.fourcc).ok()?;
    let Samples { bytes, across, down } = samples(format)?.get(plane)?;
    let row = u64::from(layout.width).div_ceil(*across) * bytes;
    let rows = u64::from(layout.height).div_ceil(*down);
    Some((u32::try_from(rows).ok()?, u32::try_from(row).ok()?))
}

/// The layout of a buffer, and how many bytes it takes.
///
/// # Errors
/// [`ErrorCode::BAD_LAYOUT`]: no pixels, too many, or a format without a linear layout known here.
pub fn plan(wanted: Allocate) -> Result<(Layout, u64), WireError> {
    let bad = |text: String| Err(WireError::new(ErrorCode::BAD_LAYOUT, text));
    let Allocate { width, height, fourcc } = wanted;
    if width == 0 || height == 0 {
        return bad("a buffer of no pixels".to_owned());
    }
    if width > MAX_EXTENT || height > MAX_EXTENT {
        return bad(format!("width and height are at most {MAX_EXTENT}"));
    }
    let Some(samples) = samples(format(fourcc)?) else {
        // Not by the crate's own `Display`, which panics for what is not letters.
        let letters = fourcc.to_le_bytes();
        let letters = letters.escape_ascii();
        return bad(format!("no linear layout of {letters} is known; use one of 8, 16 or 32 bits"));
    };
    let mut size = 0_u64;
    let mut planes = Vec::with_capacity(samples.len());
    for Samples { bytes, across, down } in samples {
        let row = u64::from(width).div_ceil(*across) * bytes;
        let stride = row.next_multiple_of(PITCH);
        let (Ok(offset), Ok(stride_32)) = (u32::try_from(size), u32::try_from(stride)) else {
            return bad(format!("{width}×{height} is too large for a buffer of several planes"));
        };
        planes.push(Plane { offset, stride: stride_32 });
        size += (stride * u64::from(height).div_ceil(*down)).next_multiple_of(PAGE);
    }
    let modifier = u64::from(DrmModifier::Linear);
    Ok((Layout { width, height, fourcc, modifier, planes }, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(width: u32, height: u32, format: DrmFourcc) -> Result<(Layout, u64), WireError> {
        plan(Allocate { width, height, fourcc: format as u32 })
    }

    #[test]
    fn rows_and_planes_are_aligned() {
        let (layout, size) = of(65, 3, DrmFourcc::Xrgb8888).unwrap();
        assert_eq!(layout.planes, [Plane { offset: 0, stride: 512 }]);
        assert_eq!((layout.modifier, size), (0, 4096));

        // Odd extents: what two pixels share is there for the last one too.
        let (layout, size) = of(33, 17, DrmFourcc::Nv12).unwrap();
        let at = |offset| Plane { offset, stride: 256 };
        assert_eq!(layout.planes, [at(0), at(8192)]);
        assert_eq!(size, 8192 + 4096);
    }

    #[test]
    fn planes_do_not_overlap() {
        for fourcc in 0..=u8::MAX {
            for format in [DrmFourcc::Nv12, DrmFourcc::P010, DrmFourcc::Yuv420, DrmFourcc::Yuyv] {
                let extent = u32::from(fourcc) + 1;
                let (layout, size) = of(extent, 300 - extent, format).unwrap();
                for (i, plane) in layout.planes.iter().enumerate() {
                    let (rows, row) = rows(&layout, i).unwrap();
                    assert!(row <= plane.stride);
                    let end = plane.offset + plane.stride * rows;
                    let next = layout.planes.get(i + 1).map_or(size, |next| next.offset.into());
                    assert!(u64::from(end) <= next, "{layout:?}");
                }
                assert_eq!(rows(&layout, layout.planes.len()), None);
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert!(of(0, 1, DrmFourcc::Xrgb8888).is_err());
        assert!(of(1, 0, DrmFourcc::Xrgb8888).is_err());
        assert!(of(MAX_EXTENT + 1, 1, DrmFourcc::Xrgb8888).is_err());
        assert!(of(MAX_EXTENT, MAX_EXTENT, DrmFourcc::Yuv420).is_err(), "offsets have 32 bits");
        assert!(plan(Allocate { width: 1, height: 1, fourcc: 0x1234_5678 }).is_err());
        let packed = of(16, 16, DrmFourcc::Nv15).unwrap_err();
        assert!(packed.message.contains("NV15"), "ten bits, packed: {packed:?}");
        let flag = of(16, 16, DrmFourcc::Big_endian).unwrap_err();
        assert!(flag.message.contains("0x80000000"), "a flag, and no format: {flag:?}");
    }
}
