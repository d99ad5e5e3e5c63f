//! Completions and the manual's pages.

use std::process::Command;

use crate::common::{ctl, ran};

#[test]
fn a_page_a_command_with_the_exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let written = ran(ctl().arg("man").arg(dir.path()).output().unwrap());
    assert_eq!((written.code, written.out.as_str()), (0, ""), "{}", written.err);
    let mut pages: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort_by_key(|page| page.trim_end_matches(".1").to_owned());
    let commands = [
        "",
        "-attach",
        "-cause",
        "-completions",
        "-devices",
        "-doctor",
        "-eject",
        "-holders",
        "-metrics",
        "-notify",
        "-quotas",
        "-rehearse",
        "-report",
        "-status",
        "-top",
        "-watch",
    ];
    assert_eq!(pages, commands.map(|command| format!("dmasharectl{command}.1")));
    let read = |page: &str| std::fs::read_to_string(dir.path().join(page)).unwrap();
    for page in &pages {
        let text = read(page);
        assert!(text.contains(".SH \"EXIT STATUS\""), "{page}: {text}");
        assert!(text.contains("dmashare 0."), "{page}: {text}");
    }
    let eject = read("dmasharectl-eject.1");
    assert!(eject.contains("\\-\\-no\\-nudge") && eject.contains("Ctrl\\-C cancels"), "{eject}");
    let help = ran(ctl().arg("--help").output().unwrap()).out;
    assert!(
        help.contains("\n  7  the eject was cancelled\n") && !help.contains("\n  man "),
        "{help}"
    );
}

#[test]
fn a_page_that_cannot_be_written() {
    let failed = ran(ctl().args(["man", "/nowhere"]).output().unwrap());
    assert_eq!(failed.code, 1);
    assert!(failed.err.contains("cannot write /nowhere/dmasharectl.1"), "{}", failed.err);
}

#[test]
fn completions_that_a_shell_can_read() {
    let bash = ran(ctl().args(["completions", "bash"]).output().unwrap());
    assert!(bash.out.contains("--no-nudge"), "{}", bash.out);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completions");
    std::fs::write(&file, &bash.out).unwrap();
    assert!(Command::new("bash").arg("-n").arg(&file).status().unwrap().success());
    assert!(ran(ctl().args(["completions", "zsh"]).output().unwrap()).out.starts_with("#compdef"));
    let fish = ran(ctl().args(["completions", "fish"]).output().unwrap());
    assert!(fish.out.contains("complete -c dmasharectl"), "{}", fish.out);
    assert_eq!(ran(ctl().args(["completions", "tcsh"]).output().unwrap()).code, 2);
}

#[test]
fn a_screen_needs_a_terminal() {
    let failed = ran(ctl().arg("top").output().unwrap());
    assert_eq!((failed.code, failed.out.as_str()), (1, ""));
    assert!(failed.err.contains("dmasharectl status --json"), "{}", failed.err);
}
