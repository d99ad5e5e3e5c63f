//! What is printed in /proc/PID/fdinfo/N: of a dma-buf, and of a DRM file
//! (Documentation/gpu/drm-usage-stats.rst).

/// The value of the first line `key:`. Only the first counts: what comes later may be a name that
/// somebody chose, with a line break in it.
fn field<'a>(info: &'a str, key: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
}

/// Whether the descriptor was opened with O_PATH: it is a name of the file, and does not have it open.
pub(super) fn is_path_only(info: &str) -> bool {
    let flags = field(info, "flags").and_then(|octal| u64::from_str_radix(octal, 8).ok());
    flags.is_some_and(|flags| flags & libc::O_PATH as u64 != 0)
}

/// A dma-buf.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BufferInfo {
    /// Bytes.
    pub size: u64,
    /// The exporter's name; empty where it is not known.
    pub exporter: String,
}

impl BufferInfo {
    /// `None` if it is the text of something else: only dma-bufs print these two.
    pub fn parse(info: &str) -> Option<Self> {
        let size = field(info, "size")?.parse().ok()?;
        Some(Self { size, exporter: field(info, "exp_name")?.to_owned() })
    }
}

/// What a driver says of an open DRM file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DrmInfo {
    /// `drm-client-id`
    pub client: Option<u64>,
    /// `drm-driver`; empty where the driver says nothing.
    pub driver: String,
    /// Resident memory over all regions, in KiB.
    pub resident_kib: Option<u64>,
    /// What its engines have worked so far, in the driver's units, over all engines. Only its growth
    /// means anything.
    pub work: Option<u64>,
}

impl DrmInfo {
    pub fn parse(info: &str) -> Self {
        let mut found = Self::default();
        // drm-memory- is what drm-resident- was called before, and some drivers print both.
        let mut memory_kib = None;
        for line in info.lines() {
            let Some((key, value)) =
                line.strip_prefix("drm-").and_then(|line| line.split_once(':'))
            else {
                continue;
            };
            let value = value.trim();
            match key {
                "client-id" => found.client = found.client.or(value.parse().ok()),
                "driver" if found.driver.is_empty() => value.clone_into(&mut found.driver),
                _ if key.starts_with("resident-") => add(&mut found.resident_kib, kib(value)),
                _ if key.starts_with("memory-") => add(&mut memory_kib, kib(value)),
                // How many engines there are, no work.
                _ if key.starts_with("engine-capacity-") => {}
                _ if key.starts_with("engine-") || key.starts_with("cycles-") => {
                    add(&mut found.work, number(value));
                }
                _ => {}
            }
        }
        found.resident_kib = found.resident_kib.or(memory_kib);
        found
    }
}

fn add(sum: &mut Option<u64>, value: Option<u64>) {
    if let Some(value) = value {
        *sum = Some(sum.unwrap_or(0).saturating_add(value));
    }
}

fn number(value: &str) -> Option<u64> {
    value.split_ascii_whitespace().next()?.parse().ok()
}

/// `4 MiB`, `16 KiB`, or bytes where no unit follows; a part of a KiB counts as one.
fn kib(value: &str) -> Option<u64> {
    let mut words = value.split_ascii_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    match words.next() {
        None => Some(number.div_ceil(1024)),
        Some("KiB") => Some(number),
        Some("MiB") => Some(number.saturating_mul(1024)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dma_buf() {
        let info = "pos:\t0\nflags:\t02\nmnt_id:\t15\nino:\t7\nsize:\t4096\ncount:\t2\n\
            exp_name:\tvirtio_gpu\nname:\tx\nexp_name:\tforged\n";
        let wanted = BufferInfo { size: 4096, exporter: "virtio_gpu".into() };
        assert_eq!(BufferInfo::parse(info), Some(wanted));
        assert_eq!(BufferInfo::parse("pos:\t0\nflags:\t02\nino:\t7\n"), None);
    }

    #[test]
    fn a_path_is_not_open() {
        assert!(is_path_only("pos:\t0\nflags:\t012000000\nmnt_id:\t26\n"));
        assert!(!is_path_only("pos:\t0\nflags:\t02500002\nmnt_id:\t26\n"));
        assert!(!is_path_only(""));
    }

    #[test]
    fn a_drm_file_of_amdgpu() {
        let info = "pos:\t0\nflags:\t02100002\nmnt_id:\t27\nino:\t1065\ndrm-driver:\tamdgpu\n\
            drm-client-id:\t19\ndrm-pdev:\t0000:06:00.0\npasid:\t32780\n\
            drm-total-vram:\t9000 KiB\ndrm-memory-vram:\t2048 KiB\ndrm-memory-gtt: \t1 MiB\n\
            drm-engine-gfx:\t1500 ns\ndrm-engine-capacity-gfx:\t4\ndrm-engine-dma:\t20 ns\n";
        let found = DrmInfo::parse(info);
        assert_eq!((found.client, found.driver.as_str()), (Some(19), "amdgpu"));
        assert_eq!((found.resident_kib, found.work), (Some(3072), Some(1520)));
    }

    #[test]
    fn resident_outranks_the_older_name() {
        let info = "drm-driver:\txe\ndrm-client-id:\t3\ndrm-resident-system:\t0\n\
            drm-resident-vram0:\t5000\ndrm-memory-vram0:\t77 KiB\ndrm-cycles-rcs:\t9\n\
            drm-total-cycles-rcs:\t1000\n";
        let found = DrmInfo::parse(info);
        assert_eq!((found.resident_kib, found.work), (Some(5), Some(9)));
    }

    #[test]
    fn a_driver_that_says_nothing() {
        assert_eq!(DrmInfo::parse("pos:\t0\nflags:\t02\n"), DrmInfo::default());
    }
}
