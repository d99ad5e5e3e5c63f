//! A window, and what the compositor says of it.

use std::collections::HashSet;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use dmashare::Layout;
use drm_fourcc::DrmFourcc;
use wayland_client::backend::WaylandError;
use wayland_client::globals::{GlobalList, GlobalListContents};
use wayland_client::protocol::wl_buffer::{self, WlBuffer};
use wayland_client::protocol::wl_callback::{self, WlCallback};
use wayland_client::protocol::wl_compositor::WlCompositor;
use wayland_client::protocol::wl_registry::{self, WlRegistry};
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_client::{Connection, Dispatch, Proxy, QueueHandle, delegate_noop};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Flags, ZwpLinuxBufferParamsV1,
};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_dmabuf_v1::{
    self, ZwpLinuxDmabufV1,
};
use wayland_protocols::wp::linux_drm_syncobj::v1::client::{
    wp_linux_drm_syncobj_manager_v1::WpLinuxDrmSyncobjManagerV1,
    wp_linux_drm_syncobj_surface_v1::WpLinuxDrmSyncobjSurfaceV1,
    wp_linux_drm_syncobj_timeline_v1::WpLinuxDrmSyncobjTimelineV1,
};
use wayland_protocols::xdg::shell::client::xdg_surface::{self, XdgSurface};
use wayland_protocols::xdg::shell::client::xdg_toplevel::{self, XdgToplevel};
use wayland_protocols::xdg::shell::client::xdg_wm_base::{self, XdgWmBase};

const LINEAR: u64 = 0;
/// DRM_FORMAT_MOD_INVALID: the drivers on both sides are to agree by themselves.
const IMPLICIT: u64 = 0x00ff_ffff_ffff_ffff;

/// What is asked of the compositor.
pub struct Globals {
    compositor: WlCompositor,
    shell: XdgWmBase,
    dmabuf: ZwpLinuxDmabufV1,
    /// Where the compositor has explicit synchronization.
    pub syncobj: Option<WpLinuxDrmSyncobjManagerV1>,
}

impl Globals {
    /// Binds them.
    ///
    /// # Errors
    /// The compositor has no windows, or takes no dma-bufs.
    pub fn bind(globals: &GlobalList, queue: &QueueHandle<State>) -> Result<Self> {
        Ok(Self {
            compositor: globals.bind(queue, 4..=6, ()).context("wl_compositor")?,
            shell: globals.bind(queue, 1..=6, ()).context("xdg_wm_base")?,
            // The last version that names its formats by events.
            dmabuf: globals.bind(queue, 3..=3, ()).context("zwp_linux_dmabuf_v1")?,
            syncobj: globals.bind(queue, 1..=1, ()).ok(),
        })
    }

    /// A window that fills the screen.
    #[must_use]
    pub fn window(&self, queue: &QueueHandle<State>) -> WlSurface {
        let surface = self.compositor.create_surface(queue, ());
        let window = self.shell.get_xdg_surface(&surface, queue, ()).get_toplevel(queue, ());
        window.set_title("dmashare".to_owned());
        window.set_fullscreen(None);
        surface.commit();
        surface
    }

    /// What the compositor makes of a dma-buf, which it keeps a descriptor of by itself.
    #[must_use]
    pub fn buffer(
        &self,
        fd: BorrowedFd<'_>,
        layout: &Layout,
        modifier: u64,
        queue: &QueueHandle<State>,
    ) -> WlBuffer {
        let plane = layout.planes[0];
        let params = self.dmabuf.create_params(queue, ());
        params.add(fd, 0, plane.offset, plane.stride, (modifier >> 32) as u32, modifier as u32);
        let (width, height) = (layout.width as i32, layout.height as i32);
        let buffer = params.create_immed(width, height, layout.fourcc, Flags::empty(), queue, ());
        params.destroy();
        buffer
    }
}

/// Nothing is wrong: there is no more to read, or no more room.
#[must_use]
pub fn would_block(error: &WaylandError) -> bool {
    matches!(error, WaylandError::Io(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

/// What the compositor has said so far.
pub struct State {
    connection: Connection,
    /// Of the window, in pixels.
    pub size: (u32, u32),
    configured: bool,
    /// By which it takes linear XRGB8888 dma-bufs: by that name, or by none.
    pub modifier: Option<u64>,
    /// The window is to go.
    pub is_closed: bool,
    /// It is time to draw.
    pub wants_frame: bool,
    /// Buffers that the compositor has not released.
    pub busy: HashSet<WlBuffer>,
}

impl State {
    /// Nothing yet.
    #[must_use]
    pub fn new(connection: &Connection) -> Self {
        Self {
            connection: connection.clone(),
            size: (640, 360),
            configured: false,
            modifier: None,
            is_closed: false,
            wants_frame: true,
            busy: HashSet::new(),
        }
    }

    /// Whether the window has its size.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.configured
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The compositor is gone.
    pub fn flush(&self) -> Result<()> {
        match self.connection.flush() {
            // The rest goes with the next flush, when the compositor has read.
            Err(error) if would_block(&error) => Ok(()),
            sent => sent.context("the compositor"),
        }
    }
}

macro_rules! on {
    ($interface:ty, $event:pat => |$state:ident, $proxy:ident| $do:expr) => {
        impl Dispatch<$interface, ()> for State {
            fn event(
                $state: &mut Self,
                $proxy: &$interface,
                event: <$interface as Proxy>::Event,
                (): &(),
                _: &Connection,
                _: &QueueHandle<Self>,
            ) {
                #[allow(
                    clippy::single_match,
                    reason = "one pattern of many that are of no interest"
                )]
                match event {
                    $event => $do,
                    _ => {}
                }
            }
        }
    };
}

on!(XdgWmBase, xdg_wm_base::Event::Ping { serial } => |_state, shell| shell.pong(serial));
on!(XdgSurface, xdg_surface::Event::Configure { serial } => |state, surface| {
    surface.ack_configure(serial);
    state.configured = true;
});
on!(WlBuffer, wl_buffer::Event::Release => |state, buffer| {
    state.busy.remove(buffer);
});
on!(WlCallback, wl_callback::Event::Done { .. } => |state, _callback| state.wants_frame = true);
on!(ZwpLinuxDmabufV1, zwp_linux_dmabuf_v1::Event::Modifier { format, modifier_hi, modifier_lo } =>
    |state, _dmabuf| {
    let modifier = u64::from(modifier_hi) << 32 | u64::from(modifier_lo);
    let is_better = modifier == LINEAR || (modifier == IMPLICIT && state.modifier.is_none());
    if format == DrmFourcc::Xrgb8888 as u32 && is_better {
        state.modifier = Some(modifier);
    }
});

impl Dispatch<XdgToplevel, ()> for State {
    fn event(
        state: &mut Self,
        _: &XdgToplevel,
        event: xdg_toplevel::Event,
        (): &(),
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
        match event {
            // The first size is kept: this is no lesson in resizing.
            xdg_toplevel::Event::Configure { width: 1.., height: 1.., .. } if state.configured => {}
            xdg_toplevel::Event::Configure { width: width @ 1.., height: height @ 1.., .. } => {
                state.size = (width.unsigned_abs(), height.unsigned_abs());
            }
            xdg_toplevel::Event::Close => state.is_closed = true,
            _ => {}
        }
    }
}

delegate_noop!(State: ignore WlCompositor);
delegate_noop!(State: ignore WlSurface);
delegate_noop!(State: ignore ZwpLinuxBufferParamsV1);
delegate_noop!(State: ignore WpLinuxDrmSyncobjManagerV1);
delegate_noop!(State: ignore WpLinuxDrmSyncobjSurfaceV1);
delegate_noop!(State: ignore WpLinuxDrmSyncobjTimelineV1);

impl Dispatch<WlRegistry, GlobalListContents> for State {
    fn event(
        _: &mut Self,
        _: &WlRegistry,
        _: wl_registry::Event,
        _: &GlobalListContents,
        _: &Connection,
        _: &QueueHandle<Self>,
    ) {
    }
}
