//! Layouts that no buffer has.

use std::os::fd::AsFd;

use anyhow::{Context, Result};
use dmashare::{Layout, Plane};
use dmashare_proto::ErrorCode;
use dmashare_proto::limits::MAX_EXTENT;
use dmashare_proto::message::{Allocate, Request};

use crate::hostile::objects::export;
use crate::hostile::{Bystanders, Raw, expect};
use crate::scenario::figures::show;
use crate::{Buffer, Role, World};

const NV12: u32 = drm_fourcc::DrmFourcc::Nv12 as u32;
const SIDE: u32 = 64;

pub(super) fn run(world: &mut World) -> Result<()> {
    let pair = Bystanders::start(world, Role::Egpu)?;
    pair.meanwhile(|| {
        let buffer = Buffer::make(&world.egpu()?, SIDE, SIDE)?;
        let mut raw = Raw::hello(&world.socket(), "layouts")?;
        let cases = impossible(&buffer);
        for (what, layout, planes, code, words) in &cases {
            let mut fds = vec![buffer.node.as_fd()];
            fds.resize(1 + planes, buffer.dma_buf.as_fd());
            let error = raw.refused(&export(layout), &fds)?;
            expect(&error, *code, words).with_context(|| format!("{what}: {layout:?}"))?;
        }
        for fourcc in [0, 1 << 31, 0x3f3f_3f3f] {
            let wanted = Request::Allocate(Allocate { width: SIDE, height: SIDE, fourcc });
            let error = raw.refused(&wanted, &[])?;
            expect(&error, ErrorCode::BAD_LAYOUT, &["no DRM format code"])?;
        }
        show(format_args!("{} layouts refused", cases.len()));
        let exported = raw.export(&buffer).context("the good one")?;
        raw.release(exported.buffer)
    })?;
    pair.undisturbed(world)
}

type Case = (&'static str, Layout, usize, ErrorCode, &'static [&'static str]);

fn impossible(buffer: &Buffer) -> Vec<Case> {
    let good = &buffer.layout;
    let stride = good.planes[0].stride;
    let size = u32::try_from(buffer.size).unwrap_or(u32::MAX);
    let with = |change: &dyn Fn(&mut Layout)| {
        let mut layout = good.clone();
        change(&mut layout);
        layout
    };
    let planes = |planes: &[(u32, u32)]| {
        with(&|to| {
            to.planes = planes.iter().map(|&(offset, stride)| Plane { offset, stride }).collect();
        })
    };
    let extent = |width, height| with(&|to| (to.width, to.height) = (width, height));
    let bad = ErrorCode::BAD_LAYOUT;
    let huge: &[&str] = &["at most 65536"];
    vec![
        ("no plane", planes(&[]), 1, bad, &["1 to 4 planes, not 0"]),
        ("five planes", planes(&[(0, stride); 5]), 4, bad, &["1 to 4 planes, not 5"]),
        ("no dma-buf", planes(&[]), 0, ErrorCode::FD_COUNT, &["Export", "not 1"]),
        ("five dma-bufs", planes(&[(0, stride); 5]), 5, ErrorCode::FD_COUNT, &["Export", "not 6"]),
        ("two planes in one dma-buf", planes(&[(0, stride); 2]), 1, bad, &["2 planes and 1"]),
        ("one plane in two", planes(&[(0, stride)]), 2, bad, &["1 planes and 2"]),
        ("a plane behind the buffer", planes(&[(size, stride)]), 1, bad, &["plane 0 ends at"]),
        ("a plane at the end of u32", planes(&[(u32::MAX, stride)]), 1, bad, &["plane 0 ends at"]),
        ("a plane one row too low", planes(&[(stride * SIDE, stride)]), 1, bad, &["ends at"]),
        ("a stride that is too long", planes(&[(0, u32::MAX)]), 1, bad, &["plane 0 ends at"]),
        ("a stride that is too small", planes(&[(0, 4 * SIDE - 1)]), 1, bad, &["less than a row"]),
        ("no stride", planes(&[(0, 0)]), 1, bad, &["stride of 0"]),
        (
            "a second plane behind the buffer",
            with(&|to| {
                to.fourcc = NV12;
                to.planes =
                    vec![Plane { offset: 0, stride: SIDE }, Plane { offset: size, stride: SIDE }];
            }),
            2,
            bad,
            &["plane 1 ends at"],
        ),
        ("no format", with(&|to| to.fourcc = 0), 1, bad, &["no DRM format code"]),
        ("an unknown format", with(&|to| to.fourcc = 0x3f3f_3f3f), 1, bad, &["0x3f3f3f3f"]),
        ("a flag for a format", with(&|to| to.fourcc = 1 << 31), 1, bad, &["0x80000000 is no DRM"]),
        ("no width", extent(0, SIDE), 1, bad, &["no pixels"]),
        ("no height", extent(SIDE, 0), 1, bad, &["no pixels"]),
        ("too wide", extent(MAX_EXTENT + 1, 1), 1, bad, huge),
        ("too high", extent(1, MAX_EXTENT + 1), 1, bad, huge),
        ("as wide and high as numbers go", extent(u32::MAX, u32::MAX), 1, bad, huge),
        ("wider than the buffer", extent(MAX_EXTENT, SIDE), 1, bad, &["less than a row"]),
        ("higher than the buffer", extent(SIDE, MAX_EXTENT), 1, bad, &["plane 0 ends at"]),
    ]
}
