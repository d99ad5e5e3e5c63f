use super::*;
use crate::render::sample::{device, holders as found};
use crate::snapshot;

fn wide(columns: u16) -> Style {
    Style { colour: false, width: Some(columns) }
}

#[test]
fn as_a_table_in_a_file_and_on_terminals() {
    snapshot::check("holders.txt", &holders(&device(), &found(), Style::default()));
    for columns in [80, 200] {
        let shown = holders(&device(), &found(), wide(columns));
        snapshot::check(&format!("holders-{columns}.txt"), &shown);
        let table = shown.lines().take_while(|line| !line.contains("fbcon"));
        let longest = table.map(|line| line.chars().count()).max().unwrap();
        assert!(longest <= usize::from(columns), "{longest} columns in\n{shown}");
    }
}

#[test]
fn as_a_tree() {
    snapshot::check("holders-tree.txt", &tree(&device(), &found(), Style::default()));
    let narrow = tree(&device(), &found(), wide(60));
    snapshot::check("holders-tree-60.txt", &narrow);
    let mut branches = narrow.lines().filter(|line| line.starts_with(['├', '│', '└', ' ']));
    assert!(branches.all(|line| line.chars().count() <= 60), "{narrow}");
}

#[test]
fn who_is_in_the_way_comes_first_and_none_steers_the_terminal() {
    for shown in [
        holders(&device(), &found(), Style::default()),
        tree(&device(), &found(), Style::default()),
    ] {
        assert!(!shown.contains('\x1b'), "{shown}");
        assert!(shown.contains(r"evil\u{1b}[31m"), "{shown}");
    }
    let shown = table(&found().processes, Style::default());
    let at = |name: &str| shown.find(name).unwrap();
    assert!(at("wireplumber") < at("firefox"), "{shown}");
    assert!(at("card1") < at("renderD129"), "{shown}");
}

#[test]
fn nobody_and_idle_ones_are_told_apart() {
    let nobody = holders(&device(), &Holders::default(), Style::default());
    assert!(nobody.starts_with("no process that can be seen holds d3 ("), "{nobody}");
    assert!(nobody.contains("is in the way of: dmasharectl eject d3\n"), "{nobody}");
    let mut idle = found();
    idle.processes.retain(|holder| !holder.is_active());
    idle.others.clear();
    let idle = holders(&device(), &idle, Style::default());
    assert!(idle.starts_with("d3 (0000:01:00.0, amdgpu) is held by 1 process, idle\n"), "{idle}");
    assert!(!idle.contains("active:") && idle.contains("idle: "), "{idle}");
}

#[test]
fn colour_is_only_colour() {
    let plain = holders(&device(), &found(), Style::default());
    let coloured = holders(&device(), &found(), Style { colour: true, width: None });
    let mut stripped = coloured.clone();
    for code in ["\x1b[31;1m", "\x1b[1m", "\x1b[2m", "\x1b[0m"] {
        assert!(stripped.contains(code));
        stripped = stripped.replace(code, "");
    }
    assert_eq!(stripped, plain);
}
