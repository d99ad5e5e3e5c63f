//! Memory of a device, its own or another's.

use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use ash::vk;

use super::Gpu;

const DMA_BUF: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::DMA_BUF_EXT;

/// A buffer with its memory. To be dropped when no work uses it.
pub struct Memory {
    device: Rc<ash::Device>,
    pub(super) buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    pub(super) len: u64,
}

/// Where it comes from, and who else has it.
enum Kind {
    Private,
    Exported,
    Imported(OwnedFd),
}

impl Gpu {
    /// Memory of its own, as a dma-buf too.
    ///
    /// # Errors
    /// Vulkan's.
    pub fn export(&self, len: u64) -> Result<(Memory, OwnedFd)> {
        let memory = self.memory(len, u32::MAX, Kind::Exported)?;
        let info = vk::MemoryGetFdInfoKHR::default().memory(memory.memory).handle_type(DMA_BUF);
        // SAFETY: the memory was allocated to be exported as this.
        let fd = unsafe { self.memory_fd.get_memory_fd(&info) }.context("vkGetMemoryFdKHR")?;
        // SAFETY: the fd is new, and the caller's.
        Ok((memory, unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// A dma-buf of at least `len` bytes as memory of it. Takes the fd.
    ///
    /// # Errors
    /// The device cannot use it; Vulkan's.
    pub fn import(&self, fd: OwnedFd, len: u64) -> Result<Memory> {
        let mut what = vk::MemoryFdPropertiesKHR::default();
        // SAFETY: the fd is open, and only looked at.
        unsafe { self.memory_fd.get_memory_fd_properties(DMA_BUF, fd.as_raw_fd(), &mut what) }
            .context("vkGetMemoryFdPropertiesKHR")?;
        self.memory(len, what.memory_type_bits, Kind::Imported(fd))
    }

    /// Memory that [`Memory::words`] can read.
    ///
    /// # Errors
    /// Vulkan's.
    pub fn readable(&self, len: u64) -> Result<Memory> {
        let wanted = vk::MemoryPropertyFlags::HOST_VISIBLE | vk::MemoryPropertyFlags::HOST_COHERENT;
        let types = self.memory_types.memory_types_as_slice().iter().enumerate();
        let fit = types.filter(|(_, it)| it.property_flags.contains(wanted));
        self.memory(len, fit.fold(0, |all, (at, _)| all | 1 << at), Kind::Private)
    }

    fn memory(&self, len: u64, types: u32, kind: Kind) -> Result<Memory> {
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(DMA_BUF);
        let mut info = vk::BufferCreateInfo::default()
            .size(len)
            .usage(vk::BufferUsageFlags::TRANSFER_SRC | vk::BufferUsageFlags::TRANSFER_DST);
        if !matches!(kind, Kind::Private) {
            info = info.push_next(&mut external);
        }
        let device = Rc::clone(&self.device);
        // SAFETY: `info` and what it points to live through the call.
        let buffer = unsafe { device.create_buffer(&info, None) }.context("vkCreateBuffer")?;
        let mut made = Memory { device, buffer, memory: vk::DeviceMemory::null(), len };
        // SAFETY: the buffer was just made.
        let needs = unsafe { self.device.get_buffer_memory_requirements(buffer) };
        let types = types & needs.memory_type_bits;
        ensure!(types != 0, "{} has no memory of the kind that is needed", self.name);

        let mut dedicated = vk::MemoryDedicatedAllocateInfo::default().buffer(buffer);
        let mut exported = vk::ExportMemoryAllocateInfo::default().handle_types(DMA_BUF);
        let mut imported = vk::ImportMemoryFdInfoKHR::default().handle_type(DMA_BUF);
        let mut info = vk::MemoryAllocateInfo::default()
            .allocation_size(needs.size)
            .memory_type_index(types.trailing_zeros())
            .push_next(&mut dedicated);
        let mut taken = None;
        match kind {
            Kind::Private => {}
            Kind::Exported => info = info.push_next(&mut exported),
            Kind::Imported(fd) => {
                imported.fd = *taken.insert(fd.into_raw_fd());
                info = info.push_next(&mut imported);
            }
        }
        // SAFETY: `info` and what it points to live through the call; the type is one of the buffer's.
        match (unsafe { self.device.allocate_memory(&info, None) }, taken) {
            (Ok(memory), _) => made.memory = memory,
            (Err(error), fd) => {
                // SAFETY: Vulkan takes the fd of an import that succeeds, and only of that.
                drop(fd.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                return Err(error).context("vkAllocateMemory");
            }
        }
        // SAFETY: both were just made, and the memory is as large as the buffer needs.
        unsafe { self.device.bind_buffer_memory(buffer, made.memory, 0) }.context("bind memory")?;
        Ok(made)
    }
}

impl Memory {
    /// What is in it: memory of [`Gpu::readable`], with no work under way that writes it.
    ///
    /// # Errors
    /// Vulkan's, for other memory.
    pub fn words(&self) -> Result<Vec<u32>> {
        let (all, none) = (vk::WHOLE_SIZE, vk::MemoryMapFlags::empty());
        // SAFETY: nothing else maps it, and Vulkan refuses what cannot be mapped.
        let start = unsafe { self.device.map_memory(self.memory, 0, all, none) }.context("map")?;
        let mut words = vec![0; usize::try_from(self.len / 4)?];
        // SAFETY: the mapping is at least `len` long and aligned to 64 bytes, and nobody writes to it.
        unsafe { words.as_mut_ptr().copy_from_nonoverlapping(start.cast(), words.len()) };
        // SAFETY: mapped above, and nothing points into it any more.
        unsafe { self.device.unmap_memory(self.memory) };
        Ok(words)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: no work uses it, as the type asks for. A buffer without memory has the null handle's,
        // which is none.
        unsafe { self.device.destroy_buffer(self.buffer, None) };
        // SAFETY: as above, and no buffer has it any more.
        unsafe { self.device.free_memory(self.memory, None) };
    }
}
