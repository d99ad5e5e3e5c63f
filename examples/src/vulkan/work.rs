//! Work of a device, before and after that of others.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use ash::vk;

use super::{Gpu, Memory, SYNC_FD};

impl Gpu {
    /// Begins to fill a buffer: one half of its words with one value, the rest with the other. Gives the
    /// sync_file that ends with it; `None` where that is over already.
    ///
    /// # Errors
    /// Vulkan's.
    pub fn fill(&self, buffer: &Memory, [first, second]: [u32; 2]) -> Result<Option<OwnedFd>> {
        let half = buffer.len / 2;
        self.record(|device, command| {
            // SAFETY: the buffer was made for this, and both halves are whole words of it.
            unsafe { device.cmd_fill_buffer(command, buffer.buffer, 0, half, first) };
            // SAFETY: as above.
            unsafe {
                device.cmd_fill_buffer(command, buffer.buffer, half, vk::WHOLE_SIZE, second);
            }
            self.hand_over(buffer, (0, vk::QUEUE_FAMILY_EXTERNAL));
        })?;
        let after = [self.after];
        self.submit(vk::SubmitInfo::default().signal_semaphores(&after))?;
        let info = vk::SemaphoreGetFdInfoKHR::default().semaphore(self.after).handle_type(SYNC_FD);
        // SAFETY: its signal was submitted just now, and nobody waits for it. It is unsignalled after this.
        let fd =
            unsafe { self.semaphore_fd.get_semaphore_fd(&info) }.context("vkGetSemaphoreFdKHR")?;
        // SAFETY: the fd is new, and the caller's; -1 stands for one that has ended.
        Ok((fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Begins to copy a buffer of others, once a sync_file has ended: well or not, Vulkan does not see the
    /// difference. `to` is private.
    ///
    /// # Errors
    /// Vulkan's.
    pub fn copy(&self, after: Option<OwnedFd>, from: &Memory, to: &Memory) -> Result<()> {
        self.record(|device, command| {
            self.hand_over(from, (vk::QUEUE_FAMILY_EXTERNAL, 0));
            let whole =
                [vk::BufferCopy { src_offset: 0, dst_offset: 0, size: from.len.min(to.len) }];
            // SAFETY: both were made for this, and are as long.
            unsafe { device.cmd_copy_buffer(command, from.buffer, to.buffer, &whole) };
            let read = [vk::MemoryBarrier::default()
                .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
                .dst_access_mask(vk::AccessFlags::HOST_READ)];
            let (copied, host) = (vk::PipelineStageFlags::TRANSFER, vk::PipelineStageFlags::HOST);
            let none = vk::DependencyFlags::empty();
            // SAFETY: the command buffer is being recorded.
            unsafe { device.cmd_pipeline_barrier(command, copied, host, none, &read, &[], &[]) };
            self.hand_over(from, (0, vk::QUEUE_FAMILY_EXTERNAL));
        })?;
        let (before, at) = ([self.before], [vk::PipelineStageFlags::TRANSFER]);
        let mut info = vk::SubmitInfo::default();
        if let Some(fd) = after {
            let fd = fd.into_raw_fd();
            let import = vk::ImportSemaphoreFdInfoKHR::default()
                .semaphore(self.before)
                .flags(vk::SemaphoreImportFlags::TEMPORARY)
                .handle_type(SYNC_FD)
                .fd(fd);
            // SAFETY: a sync_file, and no work uses the semaphore: the last that did has ended.
            if let Err(error) = unsafe { self.semaphore_fd.import_semaphore_fd(&import) } {
                // SAFETY: Vulkan takes the fd of an import that succeeds, and only of that.
                drop(unsafe { OwnedFd::from_raw_fd(fd) });
                return Err(error).context("vkImportSemaphoreFdKHR");
            }
            info = info.wait_semaphores(&before).wait_dst_stage_mask(&at);
        }
        self.submit(info)
    }

    /// vkWaitForFences: whether the work has ended in time; `None` waits for ever.
    ///
    /// # Errors
    /// Vulkan's: the device is lost.
    pub fn wait(&self, time: Option<Duration>) -> Result<bool> {
        let ns = time.map_or(u64::MAX, |time| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        // SAFETY: the fence is the device's.
        match unsafe { self.device.wait_for_fences(&[self.done], true, ns) } {
            Ok(()) => Ok(true),
            Err(vk::Result::TIMEOUT) => Ok(false),
            Err(error) => Err(error).context("vkWaitForFences"),
        }
    }

    fn record(&self, commands: impl FnOnce(&ash::Device, vk::CommandBuffer)) -> Result<()> {
        self.wait(None)?;
        let info = vk::CommandBufferBeginInfo::default()
            .flags(vk::CommandBufferUsageFlags::ONE_TIME_SUBMIT);
        // SAFETY: its last work has ended.
        unsafe { self.device.begin_command_buffer(self.command, &info) }?;
        commands(&self.device, self.command);
        // SAFETY: it is being recorded.
        Ok(unsafe { self.device.end_command_buffer(self.command) }?)
    }

    /// Between this device and others, who see each other's writes then.
    fn hand_over(&self, buffer: &Memory, (from, to): (u32, u32)) {
        let barrier = [vk::BufferMemoryBarrier::default()
            .src_access_mask(vk::AccessFlags::TRANSFER_WRITE)
            .dst_access_mask(vk::AccessFlags::TRANSFER_READ)
            .src_queue_family_index(from)
            .dst_queue_family_index(to)
            .buffer(buffer.buffer)
            .size(vk::WHOLE_SIZE)];
        let transfer = vk::PipelineStageFlags::TRANSFER;
        let none = vk::DependencyFlags::empty();
        // SAFETY: called while the command buffer is recorded.
        unsafe {
            self.device.cmd_pipeline_barrier(
                self.command,
                transfer,
                transfer,
                none,
                &[],
                &barrier,
                &[],
            );
        }
    }

    fn submit(&self, info: vk::SubmitInfo<'_>) -> Result<()> {
        let commands = [self.command];
        // SAFETY: no work uses the fence: the last has ended.
        unsafe { self.device.reset_fences(&[self.done]) }?;
        let info = [info.command_buffers(&commands)];
        // SAFETY: all that it names is this device's, and lives until the work has ended: the caller waits
        // before it drops a buffer.
        unsafe { self.device.queue_submit(self.queue, &info, self.done) }.context("vkQueueSubmit")
    }
}
