//! What neutral buffers are made from: memory that belongs to no GPU and that each can import.

use std::io;
use std::os::fd::OwnedFd;

use dmashare_proto::{ErrorCode, WireError};
use dmashare_uapi::dma_heap;
use dmashare_uapi::udmabuf::Udmabuf;

use crate::config;

#[cfg(feature = "simulate")]
mod simulated;

#[cfg(feature = "simulate")]
pub use simulated::Simulated;

/// Makes dma-bufs.
pub trait Heap: Send + Sync {
    /// Its name in the configuration, on D-Bus and in logs.
    fn name(&self) -> &'static str;

    /// A dma-buf of `size` bytes, rounded up to pages, all zero.
    ///
    /// # Errors
    /// The kernel's: ENOMEM; EINVAL where one buffer of this heap may not be so large.
    fn alloc(&self, size: u64) -> io::Result<OwnedFd>;

    /// Whether CPU access is to be bracketed by DMA_BUF_IOCTL_SYNC. On x86 devices see the CPU's caches,
    /// so the ioctl has nothing to do for ordinary memory.
    fn cpu_sync(&self) -> bool {
        !cfg!(any(target_arch = "x86", target_arch = "x86_64"))
    }
}

impl Heap for Udmabuf {
    fn name(&self) -> &'static str {
        "udmabuf"
    }

    fn alloc(&self, size: u64) -> io::Result<OwnedFd> {
        self.create(size)
    }
}

impl Heap for dma_heap::Heap {
    fn name(&self) -> &'static str {
        "system"
    }

    fn alloc(&self, size: u64) -> io::Result<OwnedFd> {
        Self::alloc(self, size)
    }
}

/// A new buffer.
pub struct Made {
    /// Its only descriptor.
    pub fd: OwnedFd,
    /// See [`Heap::cpu_sync`].
    pub cpu_sync: bool,
}

/// All that can be used, the best first. They are open, so nothing is opened for a buffer.
pub struct Heaps {
    heaps: Vec<Box<dyn Heap>>,
    /// What could not be used, in words.
    missing: Vec<String>,
}

impl Heaps {
    /// Opens what the configuration wants and the kernel has: udmabuf first, whose pages count as this
    /// service's memory for the control group; those of a dma-heap count as nobody's.
    #[must_use]
    pub fn open(wanted: config::Heap) -> Self {
        type Open = fn() -> io::Result<Box<dyn Heap>>;
        let candidates: [(config::Heap, Open); 2] = [
            (config::Heap::Udmabuf, || Ok(Box::new(Udmabuf::open()?))),
            (config::Heap::System, || Ok(Box::new(dma_heap::Heap::open("system")?))),
        ];
        let (mut heaps, mut missing) = (Vec::new(), Vec::new());
        for (heap, open) in candidates {
            if wanted != config::Heap::Auto && wanted != heap {
                continue;
            }
            match open() {
                Ok(heap) => heaps.push(heap),
                Err(error) => missing.push(format!("{}: {error}", heap.name())),
            }
        }
        Self { heaps, missing }
    }

    /// Of one heap alone.
    #[cfg(any(test, feature = "simulate"))]
    #[must_use]
    pub fn of(heap: Box<dyn Heap>) -> Self {
        Self { heaps: vec![heap], missing: Vec::new() }
    }

    /// The one that is tried first, or `none`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.heaps.first().map_or("none", |heap| heap.name())
    }

    /// What could not be used, and why.
    #[must_use]
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// A buffer from the first heap that makes one. May wait for memory.
    ///
    /// # Errors
    /// `UNSUPPORTED` where there is no heap; `INTERNAL` with the errno of the last one tried.
    pub fn alloc(&self, size: u64) -> Result<Made, WireError> {
        let mut last = None;
        for heap in &self.heaps {
            match heap.alloc(size) {
                Ok(fd) => return Ok(Made { fd, cpu_sync: heap.cpu_sync() }),
                Err(error) => last = Some((heap.name(), error)),
            }
        }
        Err(match last {
            Some((name, error)) => WireError::new(
                ErrorCode::INTERNAL,
                format!("{size} bytes could not be had from the heap {name}: {error}"),
            )
            .errno(&error),
            None => WireError::new(
                ErrorCode::UNSUPPORTED,
                format!("there is no heap for neutral buffers ({})", self.missing.join("; ")),
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Heap for Full {
        fn name(&self) -> &'static str {
            "full"
        }

        fn alloc(&self, _: u64) -> io::Result<OwnedFd> {
            Err(io::Error::from_raw_os_error(libc::ENOMEM))
        }
    }

    #[test]
    fn what_failed_is_said() {
        let full = Heaps::of(Box::new(Full)).alloc(4096).err().unwrap();
        assert_eq!((full.code, full.errno), (ErrorCode::INTERNAL, libc::ENOMEM));
        assert!(full.message.contains("heap full"), "{full}");

        let none = Heaps { heaps: Vec::new(), missing: vec!["udmabuf: not there".to_owned()] };
        let none_made = none.alloc(4096).err().unwrap();
        assert_eq!((none.name(), none_made.code), ("none", ErrorCode::UNSUPPORTED));
        assert!(none_made.message.contains("udmabuf: not there"), "{none_made}");
    }

    #[cfg(feature = "simulate")]
    #[test]
    fn the_next_heap_is_asked() {
        let heaps = Heaps { heaps: vec![Box::new(Full), Box::new(Simulated)], missing: Vec::new() };
        assert!(heaps.alloc(1).is_ok());
    }
}
