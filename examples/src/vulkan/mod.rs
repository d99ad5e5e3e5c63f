//! A Vulkan device, as far as `vulkan-share` needs one: it fills buffers and copies them. Memory comes and
//! goes as dma-bufs, and the order of its work as sync_files.

use std::ffi::CStr;
use std::path::PathBuf;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use ash::khr::{external_memory_fd, external_semaphore_fd};
use ash::vk;

mod candidate;
mod memory;
mod work;

use candidate::Candidate;
pub use memory::Memory;

const SYNC_FD: vk::ExternalSemaphoreHandleTypeFlags = vk::ExternalSemaphoreHandleTypeFlags::SYNC_FD;
const NEEDED: [&CStr; 3] = [
    external_memory_fd::NAME,
    ash::ext::external_memory_dma_buf::NAME,
    external_semaphore_fd::NAME,
];

/// A device with one queue and one command buffer, for one thing at a time.
///
/// Nothing of it but [`Memory`] is destroyed: to destroy the device of a GPU that hangs can wait for ever,
/// and the end of the process gives everything back.
pub struct Gpu {
    /// As its driver calls it.
    pub name: String,
    /// Which of the wanted nodes it is the device of.
    pub node: Option<PathBuf>,
    device: Rc<ash::Device>,
    queue: vk::Queue,
    command: vk::CommandBuffer,
    memory_types: vk::PhysicalDeviceMemoryProperties,
    memory_fd: external_memory_fd::Device,
    semaphore_fd: external_semaphore_fd::Device,
    /// What the next work waits for.
    before: vk::Semaphore,
    /// What others wait for.
    after: vk::Semaphore,
    /// Ends with the work.
    done: vk::Fence,
    /// The code that all of the above is in.
    _entry: ash::Entry,
}

impl Gpu {
    /// The device of the first of these DRM nodes that Vulkan has a driver for; else one that computes by
    /// the CPU (Mesa's lavapipe), else any.
    ///
    /// # Errors
    /// There is no Vulkan here, or no device that shares dma-bufs and sync_files.
    pub fn open(wanted: &[PathBuf]) -> Result<Self> {
        // SAFETY: the library is the system's Vulkan loader, which may be loaded at any time.
        let entry = unsafe { ash::Entry::load() }.context("load libvulkan.so.1")?;
        let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_1);
        let info = vk::InstanceCreateInfo::default().application_info(&app);
        // SAFETY: `info` and what it points to live through the call.
        let instance = unsafe { entry.create_instance(&info, None) }.context("Vulkan 1.1")?;
        let Some(best) = Candidate::best(&instance, wanted)? else {
            bail!("no Vulkan device here shares dma-bufs and sync_files");
        };
        let names = NEEDED.map(CStr::as_ptr);
        let queues =
            [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let info = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names);
        // SAFETY: the device has these extensions, and every device has a queue family 0.
        let device = unsafe { instance.create_device(best.physical, &info, None) }
            .context("vkCreateDevice")?;
        // SAFETY: it was created with this queue.
        let queue = unsafe { device.get_device_queue(0, 0) };
        let info = vk::CommandPoolCreateInfo::default()
            .flags(vk::CommandPoolCreateFlags::RESET_COMMAND_BUFFER);
        // SAFETY: for the family of that queue.
        let pool = unsafe { device.create_command_pool(&info, None) }?;
        let info =
            vk::CommandBufferAllocateInfo::default().command_pool(pool).command_buffer_count(1);
        // SAFETY: from the pool just made, which nobody else uses.
        let commands = unsafe { device.allocate_command_buffers(&info) }?;
        let mut exported = vk::ExportSemaphoreCreateInfo::default().handle_types(SYNC_FD);
        let info = vk::SemaphoreCreateInfo::default().push_next(&mut exported);
        // SAFETY: the device was chosen for that it exports semaphores as sync_files.
        let after = unsafe { device.create_semaphore(&info, None) }?;
        // SAFETY: a plain one.
        let before = unsafe { device.create_semaphore(&Default::default(), None) }?;
        let info = vk::FenceCreateInfo::default().flags(vk::FenceCreateFlags::SIGNALED);
        // SAFETY: a plain one.
        let done = unsafe { device.create_fence(&info, None) }?;
        Ok(Self {
            node: wanted.get(best.rank).cloned(),
            name: best.name,
            // SAFETY: the physical device is this instance's.
            memory_types: unsafe { instance.get_physical_device_memory_properties(best.physical) },
            memory_fd: external_memory_fd::Device::new(&instance, &device),
            semaphore_fd: external_semaphore_fd::Device::new(&instance, &device),
            device: Rc::new(device),
            queue,
            command: commands[0],
            before,
            after,
            done,
            _entry: entry,
        })
    }
}
