//! The manual's pages, made of the command line's own description and of the example of the configuration, which
//! is what the service reads. They are kept in `systemd/`; DMASHARE_BLESS=1 writes them anew.

use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::Args;

/// In the order of signals, exit statuses of sysexits.h among them.
const EXIT: [(&str, &str); 3] = [
    (
        "0",
        "It was told to stop (SIGTERM, SIGINT), and every guard that it had given out has ended.",
    ),
    ("1", "It could not start, or could not go on; the journal says why."),
    ("78", "The configuration is wrong (EX_CONFIG); what and where is on standard error."),
];

const FILES: [(&str, &str); 5] = [
    ("/etc/dmashare/dmashared.toml", "The configuration: dmashared.toml(5)."),
    ("/etc/dmashare/dmashared.conf.d/*.toml", "Drop-ins, read after it."),
    ("/run/dmashare/broker.sock", "The clients' socket, which systemd listens on."),
    (
        "/run/dmashare/next-id",
        "The note of the last id given out: none is used twice before the next boot.",
    ),
    (
        "/run/dmashare/helpers/",
        "Sockets of the helpers, which have the rights that the service has not.",
    ),
];

fn service() -> Vec<u8> {
    let command = Args::command().mut_arg("simulate", |arg| arg.hide(true));
    let man = Man::new(command)
        .title("DMASHARED")
        .section("8")
        .source(concat!("dmashare ", env!("CARGO_PKG_VERSION")))
        .manual("dmashare");
    let mut out = Vec::new();
    man.render_title(&mut out).unwrap();
    man.render_name_section(&mut out).unwrap();
    man.render_synopsis_section(&mut out).unwrap();
    let mut rest = Roff::new();
    rest.control("SH", ["DESCRIPTION"]);
    rest.text([roman(
        "The broker of dma-bufs and fences between processes on different GPUs. It counts, for every buffer and \
         fence that is shared, the references on the device that exported it, and watches the kernel for the \
         device's removal. Then it ends every fence that has escaped to other drivers with an error, has every \
         import taken back, and tells everyone once.",
    )]);
    rest.control("PP", []);
    rest.text([roman(
        "systemd starts it when the first client connects (dmashared.socket), or somebody calls it on D-Bus \
         (org.dmashare.Broker1). It has no capability: dmashare-holders, dmashare-kill and dmashare-pci do what \
         takes one, each a process of its own for one request; dmashare-keeper holds what it has while it is \
         started anew, so that a restart or an upgrade ends nothing. systemctl stop ends every guard.",
    )]);
    rest.to_writer(&mut out).unwrap();
    man.render_options_section(&mut out).unwrap();
    let mut rest = Roff::new();
    listed(&mut rest, "FILES", &FILES);
    listed(&mut rest, "EXIT STATUS", &EXIT);
    rest.control("SH", ["SEE ALSO"]);
    rest.text([roman("dmashared.toml(5), dmasharectl(1), systemd.socket(5)")]);
    rest.to_writer(&mut out).unwrap();
    out
}

fn listed(to: &mut Roff, section: &str, all: &[(&str, &str)]) {
    to.control("SH", [section]);
    for (what, says) in all {
        to.control("TP", []);
        to.text([bold(*what)]);
        to.text([roman(*says)]);
    }
}

fn configuration() -> Vec<u8> {
    let mut page = Roff::new();
    let source = concat!("dmashare ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["DMASHARED.TOML", "5", "", source, "dmashare"]);
    page.control("SH", ["NAME"]);
    page.text([roman("dmashared.toml - configuration of dmashared")]);
    page.control("SH", ["DESCRIPTION"]);
    let text = include_str!("config/example.toml");
    let (about, keys) = text.split_once("\n[").unwrap();
    let (_title, about) = about.split_once("\n#\n").unwrap();
    comment(&mut page, about.lines());
    let mut said = Vec::new();
    let (mut section, keys) = ("", format!("[{keys}"));
    for line in keys.lines() {
        match line.split_once('=') {
            _ if line.starts_with('#') => said.push(line),
            Some((key, default)) => {
                page.control("TP", []);
                page.text([bold(key.trim()), roman(" = "), italic(default.trim())]);
                comment(&mut page, said.drain(..));
            }
            None => {
                if said.iter().any(|line| line.starts_with("# [[")) {
                    page.control("SH", ["LISTS"]);
                }
                comment(&mut page, said.drain(..));
            }
        }
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            page.control("SH", [format!("[{section}]").as_str()]);
        }
    }
    assert_eq!(section, "log", "what follows are lists");
    comment(&mut page, said.drain(..));
    page.control("SH", ["SEE ALSO"]);
    page.text([roman("dmashared(8)")]);
    let mut out = Vec::new();
    page.to_writer(&mut out).unwrap();
    out
}

/// Text as it flows, and what is set off or is TOML as it stands.
fn comment<'a>(to: &mut Roff, lines: impl Iterator<Item = &'a str>) {
    let mut stands = false;
    for line in lines {
        let line = line.trim_start_matches('#');
        let text = line.strip_prefix(' ').unwrap_or(line);
        let is_code = text.starts_with(' ') || text.starts_with("[[") || is_a_pair(text);
        if is_code != stands {
            to.control(if is_code { "nf" } else { "fi" }, []);
            stands = is_code;
        }
        if text.is_empty() {
            to.control("PP", []);
        } else {
            to.text([roman(text.trim_end())]);
        }
    }
    if stands {
        to.control("fi", []);
        to.control("PP", []);
    }
}

fn is_a_pair(text: &str) -> bool {
    text.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|byte| byte.is_ascii_lowercase()))
}

fn kept(name: &str, page: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name);
    if std::env::var_os("DMASHARE_BLESS").is_some() {
        std::fs::write(&path, page).unwrap();
    }
    let there = std::fs::read(&path).unwrap();
    assert!(there == page, "{name} is of another version; DMASHARE_BLESS=1 writes it anew");
}

#[test]
fn the_page_of_the_service_is_what_it_takes() {
    kept("dmashared.8", &service());
}

#[test]
fn the_page_of_the_configuration_is_the_example() {
    let page = configuration();
    let text = String::from_utf8(page.clone()).unwrap();
    // Every key that the example has; and it has every one (`the_example_is_the_defaults`).
    for line in include_str!("config/example.toml").lines().filter(|line| !line.starts_with('#')) {
        if let Some((key, _)) = line.split_once('=') {
            let key = key.trim().replace('-', "\\-");
            assert!(text.contains(&format!("\\fB{key}\\fR")), "{key} is not in the page");
        }
    }
    kept("dmashared.toml.5", &page);
}
