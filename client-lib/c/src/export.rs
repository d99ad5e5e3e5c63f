//! `struct dmashare_export`, `struct dmashare_layout`

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use dmashare::{ExportedBuffer, Plane};

use crate::argument::{self, In, Out};
use crate::connection::Connection;
use crate::failure::{Failure, call, value};
use crate::handle::{Handle, kinds};
use crate::object::object_functions;
use crate::token::{Grant, Token};

pub struct Export {
    pub(crate) object: ExportedBuffer,
    pub(crate) connection: dmashare::Connection,
}

kinds! { 4 Export, "exported buffer"; }

object_functions!(
    Export,
    dmashare_export_id,
    dmashare_export_is_lost,
    dmashare_export_device,
    dmashare_export_destroy,
    dmashare_export_release
);

const MAX_PLANES: usize = 4;

/// As C has it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Layout {
    width: u32,
    height: u32,
    fourcc: u32,
    plane_count: u32,
    modifier: u64,
    planes: [CPlane; MAX_PLANES],
}

/// `struct dmashare_plane`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CPlane {
    offset: u32,
    stride: u32,
}

impl Layout {
    fn planes(&self) -> Result<&[CPlane], Failure> {
        let count = self.plane_count as usize;
        self.planes.get(..count).filter(|planes| !planes.is_empty()).ok_or_else(|| {
            Failure::invalid(format!("a buffer has 1 to {MAX_PLANES} planes, not {count}"))
        })
    }
}

/// What is to be exported, looked at.
struct Wanted<'a> {
    node: BorrowedFd<'a>,
    layout: dmashare::Layout,
    planes: Vec<BorrowedFd<'a>>,
}

impl<'a> Wanted<'a> {
    fn read(node: c_int, layout: &In<Layout>, planes: &In<c_int>) -> Result<Self, Failure> {
        let layout = layout.get("the layout")?;
        let list = layout.planes()?;
        let fds = planes.list(list.len(), "the list of planes")?;
        let fds = fds.into_iter().map(|plane| argument::fd(plane, "a plane"));
        let fds: Vec<BorrowedFd<'_>> = fds.collect::<Result<_, _>>()?;
        let node = argument::fd(node, "the DRM node")?;
        let planes =
            list.iter().map(|&CPlane { offset, stride }| Plane { offset, stride }).collect();
        let Layout { width, height, fourcc, modifier, .. } = layout;
        let layout = dmashare::Layout { width, height, fourcc, modifier, planes };
        Ok(Self { node, layout, planes: fds })
    }
}

impl From<&dmashare::Layout> for Layout {
    fn from(layout: &dmashare::Layout) -> Self {
        let &dmashare::Layout { width, height, fourcc, modifier, ref planes } = layout;
        let mut list = [CPlane::default(); MAX_PLANES];
        for (to, &Plane { offset, stride }) in list.iter_mut().zip(planes) {
            *to = CPlane { offset, stride };
        }
        let plane_count = planes.len().min(MAX_PLANES) as u32;
        Self { width, height, fourcc, plane_count, modifier, planes: list }
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_export_buffer(
    connection: Handle<Connection>,
    node: c_int,
    layout: In<Layout>,
    planes: In<c_int>,
    buffer: Out<Handle<Export>>,
) -> c_int {
    call(|| {
        buffer.check()?;
        let Wanted { node, layout, planes } = Wanted::read(node, &layout, &planes)?;
        let connection = connection.get()?.connection.clone();
        let object = connection.export(node, &layout, &planes)?;
        buffer.put(Handle::new(Export { object, connection })?);
        Ok(0)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn dmashare_export_buffer_granted(
    connection: Handle<Connection>,
    node: c_int,
    layout: In<Layout>,
    planes: In<c_int>,
    grant: In<Grant>,
    buffer: Out<Handle<Export>>,
    token: Out<Token>,
) -> c_int {
    call(|| {
        buffer.check()?;
        token.check()?;
        let grant = Grant::read(&grant)?;
        let Wanted { node, layout, planes } = Wanted::read(node, &layout, &planes)?;
        let connection = connection.get()?.connection.clone();
        let (object, made) = connection.export_granted(node, &layout, &planes, grant)?;
        buffer.put(Handle::new(Export { object, connection })?);
        token.put(made.into());
        Ok(0)
    })
}
