//! Buffers that belong to no GPU.

use std::fmt;
use std::sync::Arc;

use dmashare_proto::ObjectId;
use dmashare_proto::message::{Allocate, Layout};
use dmashare_proto::{Request, linear};
use dmashare_uapi::dma_buf::Access;
use dmashare_uapi::mapping::Prot;

use crate::connection::Connection;
use crate::error::Error;
use crate::import::ImportedBuffer;
use crate::import_core::ImportCore;
use crate::inner::Answer;
use crate::planes::plane_methods;

/// A buffer of the broker's own memory, linear, for any device that can import it and for the CPU. No
/// unplug takes it or its contents. While this lives, tokens for it can be made; imports outlive it.
///
/// Its kernel objects need the broker no more: it goes on when the broker has ended.
///
/// Dropped, it is given back without waiting, together with the last of its mappings.
pub struct NeutralBuffer(pub(crate) Arc<ImportCore>);

impl NeutralBuffer {
    /// The broker's id for it.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.0.id
    }
}

plane_methods!(NeutralBuffer);

impl fmt::Debug for NeutralBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Layout { width, height, .. } = self.layout();
        write!(f, "NeutralBuffer({}, {width}×{height})", self.id())
    }
}

impl Connection {
    /// Makes a neutral buffer of `width` by `height` pixels, all zero. `fourcc` is a DRM format code.
    /// Rows are a multiple of 256 bytes, the modifier is LINEAR.
    ///
    /// # Errors
    /// The broker refused: the size or the format is impossible, a quota is used up, this kernel has no
    /// heap (`UNSUPPORTED`).
    pub fn allocate(&self, width: u32, height: u32, fourcc: u32) -> Result<NeutralBuffer, Error> {
        let request = Request::Allocate(Allocate { width, height, fourcc });
        let (inner, answer) = self.ask(&request, &[])?;
        match answer {
            Answer::Import(core) if core.device.is_none() => Ok(NeutralBuffer(core)),
            other => Err(inner.nonsense(&request, other)),
        }
    }

    /// Copies a buffer into a neutral one of the same size and format, by the CPU: so that the last
    /// frame stays when its device goes. Its fences are to have ended. Rows are copied as they are;
    /// their stride is the new buffer's own.
    ///
    /// # Errors
    /// [`Error::DeviceLost`] where the device was lost meanwhile: there is no copy then, not a torn one.
    /// [`Error::InvalidArgument`] for a buffer that is not linear: the CPU does not know where its pixels
    /// are. As [`Self::allocate`], and the kernel's for mappings.
    pub fn preserve(&self, buffer: &ImportedBuffer) -> Result<NeutralBuffer, Error> {
        let Layout { width, height, fourcc, modifier, .. } = *buffer.layout();
        if modifier != 0 {
            return Err(Error::InvalidArgument(format!(
                "import {} has the modifier {modifier:#x}: only LINEAR buffers can be copied by the \
                 CPU; let a GPU copy it into a buffer of `allocate`",
                buffer.id()
            )));
        }
        let copy = self.allocate(width, height, fourcc)?;
        for plane in 0..buffer.layout().planes.len() {
            copy_plane(buffer, &copy, plane)?;
        }
        Ok(copy)
    }
}

fn copy_plane(from: &ImportedBuffer, to: &NeutralBuffer, plane: usize) -> Result<(), Error> {
    let place = |layout: &Layout| {
        layout.planes.get(plane).map(|at| (at.offset as usize, at.stride as usize))
    };
    let (Some(source), Some(target), Some((rows, row))) =
        (place(from.layout()), place(to.layout()), linear::rows(from.layout(), plane))
    else {
        return Err(Error::Protocol(format!("{to:?} has other planes than {from:?}")));
    };
    let (read, write) = (from.map(plane, Prot::Read)?, to.map(plane, Prot::ReadWrite)?);
    let mut pixels = vec![0; row as usize];
    let (reading, writing) = (read.begin(Access::Read)?, write.begin(Access::Write)?);
    for at in 0..rows as usize {
        read.copy_to_slice(source.0 + at * source.1, &mut pixels)?;
        write.copy_from_slice(target.0 + at * target.1, &pixels)?;
    }
    writing.end()?;
    reading.end()
}
