//! Whether a layout fits its dma-bufs. The kernel checks the same in `framebuffer_check()`, but only
//! for who makes a framebuffer; an importer that reads by CPU relies on this.

use dmashare_proto::limits::{MAX_EXTENT, MAX_PLANES};
use dmashare_proto::message::Layout;
use dmashare_proto::{ErrorCode, WireError, linear};
use drm_fourcc::{DrmFourcc, DrmModifier};

/// Bytes of one pixel in the first plane, 1 where the format has no whole number of them.
fn bytes_per_pixel(format: DrmFourcc) -> u64 {
    use DrmFourcc as F;
    match format {
        F::Abgr16161616f | F::Argb16161616f | F::Xbgr16161616f | F::Xrgb16161616f => 8,
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
        | F::Abgr2101010 => 4,
        F::Rgb888 | F::Bgr888 => 3,
        F::Rgb565
        | F::Bgr565
        | F::Yuyv
        | F::Uyvy
        | F::Yvyu
        | F::Vyuy
        | F::P010
        | F::P016
        | F::Xrgb1555
        | F::Argb1555
        | F::R16
        | F::Gr88
        | F::Rg88 => 2,
        _ => 1,
    }
}

/// Rows of the further planes for one of the first.
fn vertical_subsampling(format: DrmFourcc) -> u64 {
    use DrmFourcc as F;
    match format {
        F::Nv12 | F::Nv21 | F::P010 | F::P012 | F::P016 | F::Yuv420 | F::Yvu420 => 2,
        F::Yuv410 | F::Yvu410 => 4,
        _ => 1,
    }
}

/// Checks `layout` against the sizes of its dma-bufs, one a plane, in bytes.
pub(super) fn check(layout: &Layout, sizes: &[u64]) -> Result<(), WireError> {
    let bad = |text: String| Err(WireError::new(ErrorCode::BAD_LAYOUT, text));
    let planes = layout.planes.len();
    if planes == 0 || planes > MAX_PLANES {
        return bad(format!("a buffer has 1 to {MAX_PLANES} planes, not {planes}"));
    }
    if planes != sizes.len() {
        return bad(format!("{planes} planes and {} dma-bufs: one each is needed", sizes.len()));
    }
    if layout.width == 0 || layout.height == 0 {
        return bad("a buffer of no pixels".to_owned());
    }
    if layout.width > MAX_EXTENT || layout.height > MAX_EXTENT {
        return bad(format!("width and height are at most {MAX_EXTENT}"));
    }
    let format = linear::format(layout.fourcc)?;
    // Only rows of a linear buffer can be counted; tiles have a size that only the driver knows.
    let linear =
        matches!(DrmModifier::from(layout.modifier), DrmModifier::Linear | DrmModifier::Invalid);
    for (i, (plane, &size)) in layout.planes.iter().zip(sizes).enumerate() {
        let (offset, stride) = (u64::from(plane.offset), u64::from(plane.stride));
        let (rows, row) = if i == 0 {
            (u64::from(layout.height), u64::from(layout.width) * bytes_per_pixel(format))
        } else {
            (u64::from(layout.height).div_ceil(vertical_subsampling(format)), 1)
        };
        if stride == 0 || (linear && stride < row) {
            return bad(format!(
                "plane {i}: a stride of {stride} bytes is less than a row ({row})"
            ));
        }
        let end = if linear { offset + stride * (rows - 1) + row } else { offset + 1 };
        if end > size {
            return bad(format!("plane {i} ends at byte {end}; its dma-buf has {size}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use dmashare_proto::message::Plane;

    use super::*;

    fn xrgb(width: u32, height: u32, offset: u32, stride: u32) -> Layout {
        Layout {
            width,
            height,
            fourcc: DrmFourcc::Xrgb8888 as u32,
            modifier: 0,
            planes: vec![Plane { offset, stride }],
        }
    }

    #[test]
    fn a_buffer_that_fits_to_the_last_byte() {
        check(&xrgb(16, 4, 0, 64), &[256]).unwrap();
        assert!(check(&xrgb(16, 4, 0, 64), &[255]).is_err());
        assert!(check(&xrgb(16, 4, 1, 64), &[256]).is_err());
    }

    #[test]
    fn what_is_impossible_is_refused() {
        assert!(check(&xrgb(0, 4, 0, 64), &[256]).is_err());
        assert!(check(&xrgb(16, 4, 0, 63), &[256]).is_err());
        assert!(check(&xrgb(16, 4, 0, 64), &[]).is_err());
        assert!(check(&xrgb(u32::MAX, u32::MAX, u32::MAX, u32::MAX), &[u64::MAX]).is_err());
        let mut unknown = xrgb(16, 4, 0, 64);
        unknown.fourcc = 0x1234_5678;
        assert!(check(&unknown, &[256]).is_err());
        unknown.fourcc = DrmFourcc::Big_endian as u32;
        assert!(check(&unknown, &[256]).is_err(), "a flag, and no format");
        let mut five = xrgb(16, 4, 0, 64);
        five.planes = vec![Plane { offset: 0, stride: 64 }; 5];
        assert!(check(&five, &[256; 5]).is_err());
    }

    #[test]
    fn chroma_has_half_the_rows() {
        let mut nv12 = xrgb(16, 4, 0, 16);
        nv12.fourcc = DrmFourcc::Nv12 as u32;
        nv12.planes.push(Plane { offset: 64, stride: 16 });
        check(&nv12, &[96, 96]).unwrap();
        assert!(check(&nv12, &[96, 80]).is_err());
    }
}
