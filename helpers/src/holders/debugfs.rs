//! What debugfs tells, where it is mounted and may be read: a card's clients, and all dma-bufs.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::fdinfo::BufferInfo;

const ROOT: &str = "/sys/kernel/debug";

/// An open file of a card, as `dri/N/clients` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Client {
    /// Who opened it, or used it last; often not who has it.
    pub command: String,
    /// The same, as a process id.
    pub pid: i32,
    /// The minor of the node that was opened.
    pub minor: u64,
    /// It is the card's master.
    pub master: bool,
}

/// The open files of a card with that primary minor; `None` where it cannot be read.
pub(super) fn clients(pci: &str, minor: u64) -> Option<Vec<Client>> {
    let dri = Path::new(ROOT).join("dri");
    // By address on later kernels, where the number is a link.
    let by_address = (!pci.is_empty()).then(|| dri.join(pci).join("clients"));
    let by_number = dri.join(minor.to_string()).join("clients");
    let text = by_address.into_iter().chain([by_number]).find_map(|path| fs::read(path).ok())?;
    Some(parse_clients(&String::from_utf8_lossy(&text)))
}

/// A command may have spaces in it, but not more than fit its column.
const COMMAND_WIDTH: usize = 20;

fn parse_clients(text: &str) -> Vec<Client> {
    let client = |line: &str| {
        // By characters: a command may have any.
        let command: String = line.chars().take(COMMAND_WIDTH).collect();
        let mut words = line[command.len()..].split_ascii_whitespace();
        Some(Client {
            command: command.trim().to_owned(),
            pid: words.next()?.parse().ok()?,
            minor: words.next()?.parse().ok()?,
            master: words.next()? == "y",
        })
    };
    text.lines().filter_map(client).collect()
}

/// All dma-bufs, by inode; `None` where it cannot be read.
pub(super) fn buffers() -> Option<HashMap<u64, BufferInfo>> {
    let text = fs::read(Path::new(ROOT).join("dma_buf/bufinfo")).ok()?;
    Some(parse_buffers(&String::from_utf8_lossy(&text)))
}

/// Four numbers of at least eight digits open the line of a buffer, which is more than fits a buffer's
/// name: nobody makes such a line by a name with a line break.
fn parse_buffers(text: &str) -> HashMap<u64, BufferInfo> {
    let buffer = |line: &str| {
        let mut words = line.split('\t').map(str::trim_end);
        let mut long = || words.next().filter(|word| word.len() >= 8);
        let size = long()?.parse().ok()?;
        let (_flags, _mode, _count) = (long()?, long()?, long()?);
        let exporter = words.next()?.to_owned();
        Some((words.next()?.parse().ok()?, BufferInfo { size, exporter }))
    };
    text.lines().filter_map(buffer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(command: &str, pid: i32, minor: u64, master: bool) -> Client {
        Client { command: command.into(), pid, minor, master }
    }

    #[test]
    fn clients_of_linux_6_12() {
        let text = "             command  tgid dev master a   uid      magic\n      \
            systemd-logind   325   0   y    y     0          0\n         \
            Web Content  1325 128   n    n  1000          0\n";
        let wanted =
            [client("systemd-logind", 325, 0, true), client("Web Content", 1325, 128, false)];
        assert_eq!(parse_clients(text), wanted);
    }

    #[test]
    fn clients_of_later_kernels_have_names() {
        let text = "             command  tgid dev master a   uid      magic                 name    id\n\
            \x20               sway  1325   1   n    y  1000          3          <unset>     7\n";
        assert_eq!(parse_clients(text), [client("sway", 1325, 1, false)]);
    }

    #[test]
    fn clients_that_are_none() {
        assert_eq!(parse_clients(""), []);
        assert_eq!(parse_clients("         <unknown>\n\n"), []);
        assert_eq!(parse_clients("ääää\n"), []);
    }

    #[test]
    fn buffers_of_linux_6_12() {
        let text = "\nDma-buf Objects:\nsize    \tflags   \tmode    \tcount   \texp_name\tino     \tname    \n\
            00131072\t00000002\t00080007\t00000002\tvirtio_gpu\t00000007\t<none>\n\
            \twrite fence:vgem breadcrumbs seq 1 unsignalled\n\tAttached Devices:\n\t0000:06:00.0\n\
            Total 1 devices attached\n\n\
            12345678901\t00000002\t00080007\t00000002\tdrm\t00000012\tx\n0\t0\t0\t0\tevil\t7\n\
            \nTotal 2 objects, 131072 bytes\n";
        let found = parse_buffers(text);
        let info = |size, exporter: &str| BufferInfo { size, exporter: exporter.into() };
        assert_eq!(found.len(), 2);
        assert_eq!(found[&7], info(131_072, "virtio_gpu"));
        assert_eq!(found[&12], info(12_345_678_901, "drm"));
    }
}
