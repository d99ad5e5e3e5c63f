//! Lines of /proc/PID/maps.

/// A mapping of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapped<'a> {
    /// Its range, as it is written.
    pub range: (&'a [u8], &'a [u8]),
    /// The file system's device number, as `st_dev`.
    pub dev: u64,
    /// The inode.
    pub ino: u64,
    /// What the kernel calls it.
    pub path: &'a [u8],
}

impl<'a> Mapped<'a> {
    /// `None` for memory without a file, and for what is no such line.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        // start-end perms offset major:minor inode path
        let mut words = line.splitn(6, |&byte| byte == b' ');
        let (range, dev, ino) = (words.next()?, words.nth(2)?, decimal(words.next()?)?);
        if ino == 0 {
            return None;
        }
        let dash = range.iter().position(|&byte| byte == b'-')?;
        let colon = dev.iter().position(|&byte| byte == b':')?;
        let (major, minor) = (hex(&dev[..colon])?, hex(&dev[colon + 1..])?);
        Some(Self {
            range: (&range[..dash], &range[dash + 1..]),
            dev: libc::makedev(u32::try_from(major).ok()?, u32::try_from(minor).ok()?),
            ino,
            path: words.next().unwrap_or_default().trim_ascii_start(),
        })
    }

    /// How much it is.
    pub fn bytes(&self) -> u64 {
        let (start, end) = (hex(self.range.0), hex(self.range.1));
        end.unwrap_or(0).saturating_sub(start.unwrap_or(0))
    }

    /// Its name in /proc/PID/map_files, where numbers have no leading zeros.
    pub fn name(&self) -> String {
        let number = |hex: &[u8]| {
            let zeros = hex.iter().take_while(|&&byte| byte == b'0').count();
            String::from_utf8_lossy(&hex[zeros.min(hex.len().saturating_sub(1))..]).into_owned()
        };
        format!("{}-{}", number(self.range.0), number(self.range.1))
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    number(digits, 10)
}

fn hex(digits: &[u8]) -> Option<u64> {
    number(digits, 16)
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &byte| {
        let digit = char::from(byte).to_digit(radix)?;
        sum.checked_mul(radix.into())?.checked_add(digit.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node() {
        let line =
            b"7f5c12000000-7f5c12300000 rw-s 100000000 00:06 348                    /dev/dri/card1";
        let found = Mapped::parse(line).unwrap();
        assert_eq!((found.dev, found.ino), (libc::makedev(0, 6), 348));
        assert_eq!((found.path, found.bytes()), (&b"/dev/dri/card1"[..], 0x30_0000));
        assert_eq!(found.name(), "7f5c12000000-7f5c12300000");
    }

    #[test]
    fn names_have_no_leading_zeros() {
        let line = b"00400000-00401000 r-xp 00000000 103:0a 55 /a path (deleted)";
        let found = Mapped::parse(line).unwrap();
        assert_eq!(found.name(), "400000-401000");
        assert_eq!((found.dev, found.path), (libc::makedev(0x103, 10), &b"/a path (deleted)"[..]));
    }

    #[test]
    fn what_is_no_file() {
        for line in [
            &b"7f5c12000000-7f5c12300000 rw-p 00000000 00:00 0 "[..],
            b"7ffc8a5e4000-7ffc8a606000 rw-p 00000000 00:00 0                          [stack]",
            b"7f5c12000000-7f5c12300000 rw-p 00000000 00:00",
            b"7f5c12000000-7f5c12300000 rw-p 00000000 0000 12 /x",
            b"7f5c12000000-7f5c12300000 rw-p 00000000 00:06 99999999999999999999 /x",
            b"",
        ] {
            assert_eq!(Mapped::parse(line), None, "{}", String::from_utf8_lossy(line));
        }
    }
}
