//! The header is the contract: the functions, the version script, and what was promised before agree
//! with it.
//!
//! `DMASHARE_ABI=write cargo test -p dmashare-c --test abi` writes `src/prototypes.rs` anew, and adds what
//! is new to the list of what is promised. It takes nothing away: for that there is a new SONAME. (Where
//! the old `prototypes.rs` does not compile with what is new, empty it first.)

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn writes() -> bool {
    std::env::var_os("DMASHARE_ABI").is_some_and(|value| value == "write")
}

/// The header's declarations: without comments and preprocessor, each in one line of single spaces.
fn declarations() -> Vec<String> {
    let text = read("include/dmashare.h");
    let mut bare = String::new();
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("/*") {
        bare.push_str(before);
        rest = after.split_once("*/").expect("a comment that does not end").1;
    }
    bare.push_str(rest);
    let lines = bare.lines().filter(|line| !line.starts_with('#') && !line.starts_with("extern"));
    let (mut all, mut depth, mut current) = (Vec::new(), 0, String::new());
    for character in lines.flat_map(|line| line.chars().chain([' '])) {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => continue, // of extern "C"
            '}' => depth -= 1,
            _ => {}
        }
        if character == ';' && depth == 0 {
            all.push(current.split_whitespace().collect::<Vec<_>>().join(" "));
            current.clear();
        } else {
            current.push(character);
        }
    }
    all
}

/// Name and declaration of every function.
fn functions() -> Vec<(String, String)> {
    let is_function = |text: &String| !text.contains('{') && text.contains('(');
    let name = |text: &str| {
        let before = text.split_once('(').expect("a function").0;
        before.rsplit([' ', '*']).next().expect("a name").to_owned()
    };
    declarations().into_iter().filter(is_function).map(|text| (name(&text), text)).collect()
}

/// What the version script exports: name and version.
fn exported() -> BTreeSet<(String, String)> {
    let text = read("libdmashare.map");
    let text = text.split_once("*/").map_or(text.as_str(), |(_, text)| text);
    let mut all = BTreeSet::new();
    for node in text.split('}').filter(|node| node.contains('{')) {
        let (version, body) = node.split_once('{').expect("a node");
        // What it inherits stands before the name: `} DMASHARE_1.0;`
        let version = version.rsplit(';').next().expect("a version").trim();
        let global = body.split_once("global:").expect("what is global").1;
        let global = global.split_once("local:").map_or(global, |(global, _)| global);
        for name in global.split(';').map(str::trim).filter(|name| !name.is_empty()) {
            assert!(
                all.insert((name.to_owned(), version.to_owned())),
                "{name} is there twice in {version}"
            );
        }
    }
    all
}

#[test]
fn the_version_script_has_the_header_s_functions() {
    let exported: BTreeSet<String> = exported().into_iter().map(|(name, _)| name).collect();
    let declared: BTreeSet<String> = functions().into_iter().map(|(name, _)| name).collect();
    let missing: Vec<_> = declared.difference(&exported).collect();
    let unknown: Vec<_> = exported.difference(&declared).collect();
    assert!(missing.is_empty(), "libdmashare.map lacks {missing:?}");
    assert!(unknown.is_empty(), "dmashare.h lacks {unknown:?}");
    assert!(declared.iter().all(|name| name.starts_with("dmashare_")), "{declared:?}");
}

/// What programs that were compiled before rely on, a line each.
fn promised() -> BTreeSet<String> {
    let versions = exported();
    let mut lines = BTreeSet::new();
    for (name, text) in functions() {
        for (_, version) in versions.iter().filter(|(exported, _)| *exported == name) {
            lines.insert(format!("{version} {text}"));
        }
    }
    for text in declarations() {
        let Some((kind, body)) = text.split_once('{') else { continue };
        let body = body.trim_end_matches('}').trim();
        let parts = |by: char| body.split(by).map(str::trim).filter(|part| !part.is_empty());
        if kind.starts_with("enum") {
            lines.extend(parts(',').map(|value| format!("{kind}{value}")));
            continue;
        }
        let fields: Vec<&str> = parts(';').collect();
        lines.extend(fields.iter().enumerate().map(|(at, field)| format!("{kind}{at}: {field}")));
        // Those may grow at their end, where their reader knows how long they are.
        let grows =
            ["wedged", "removal", "reconnected"].map(|name| format!("struct dmashare_{name}"));
        if fields[0] != "uint32_t version" && !grows.iter().any(|name| name == kind.trim()) {
            lines.insert(format!("{kind}has {} fields", fields.len()));
        }
    }
    lines
}

/// The first number of the library's version is the SONAME's.
fn soname_number() -> String {
    let manifest = read("Cargo.toml");
    let library = manifest.split_once("[package.metadata.capi.library]").expect("the library").1;
    let version = library.split_once("\nversion = \"").expect("its version").1;
    version.split_once('.').expect("a number").0.to_owned()
}

#[test]
fn what_was_promised_is_kept() {
    let name = format!("abi/libdmashare.so.{}.abi", soname_number());
    let before: BTreeSet<String> =
        fs::read_to_string(path(&name)).unwrap_or_default().lines().map(str::to_owned).collect();
    let now = promised();
    let broken: Vec<_> = before.difference(&now).collect();
    assert!(
        broken.is_empty(),
        "changed or gone, which breaks programs that were compiled before: {broken:#?}\n\
         put it back, or raise the first number of the library's version in Cargo.toml"
    );
    if writes() {
        let text: String = now.iter().fold(String::new(), |text, line| text + line + "\n");
        fs::create_dir_all(path("abi")).unwrap();
        fs::write(path(&name), text).unwrap();
        return;
    }
    let new: Vec<_> = now.difference(&before).collect();
    assert!(
        new.is_empty(),
        "new: {new:#?}\nafter a release, a function belongs into a new node of libdmashare.map, and a \
         struct's version has to be raised; then see this file's head for how to add it to {name}"
    );
}

/// A parameter, or what is returned, as the functions here have it.
fn rust_type(text: &str) -> String {
    if text.contains("(*") {
        return "Option<extern \"C\" fn(c_int, *mut c_void) -> c_int>".to_owned();
    }
    // Its name goes, but not its stars; `const` comes first.
    let name = text.rfind(['*', ' ']).map_or(text.len(), |at| at + 1);
    let array = text.find('[').map(|at| &text[at + 1..text.len() - 1]);
    let kind = text[..name].trim();
    let stars = kind.matches('*').count();
    let is_const = kind.starts_with("const ");
    let kind = kind.trim_start_matches("const ").trim_matches(['*', ' ']);
    let base = match kind {
        "void" => "c_void".to_owned(),
        "char" => "c_char".to_owned(),
        "int" => "c_int".to_owned(),
        "size_t" => "usize".to_owned(),
        "uint8_t" => "u8".to_owned(),
        "uint32_t" => "u32".to_owned(),
        "uint64_t" => "u64".to_owned(),
        "int64_t" => "i64".to_owned(),
        other if other.starts_with("enum ") => "u32".to_owned(),
        other => {
            let name = other.strip_prefix("struct dmashare_").expect("a struct");
            name.split('_')
                .fold(String::new(), |text, word| text + &word[..1].to_uppercase() + &word[1..])
        }
    };
    let opaque = declarations().contains(&kind.to_owned());
    let versioned = ["ErrorInfo", "LostInfo"].contains(&base.as_str());
    match (opaque, stars, is_const, array) {
        (true, 1, _, _) => format!("Handle<{base}>"),
        (true, 2, _, _) => format!("Out<Handle<{base}>>"),
        (_, _, _, Some(size)) => format!("Out<[{base}; {size}]>"),
        (_, 1, true, _) if base == "c_void" => "*const c_void".to_owned(),
        (_, 1, false, _) if base == "c_void" => "*mut c_void".to_owned(),
        (_, 1, true, _) => format!("In<{base}>"),
        (_, 1, false, _) if versioned => format!("InOut<{base}>"),
        (_, 1, false, _) => format!("Out<{base}>"),
        (_, 0, false, _) => base,
        _ => panic!("{text:?} is not understood"),
    }
}

/// Parameters are parted by commas, but not by those of a function's own.
fn parameters(list: &str) -> Vec<&str> {
    let (mut depth, mut start, mut all) = (0, 0, Vec::new());
    for (at, character) in list.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                all.push(list[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    all.push(list[start..].trim());
    all
}

const HEAD: &str = "\
//! Made of `include/dmashare.h` by `tests/abi.rs`: the compiler says whether the functions are as it
//! declares them.

use std::ffi::{c_char, c_int, c_void};

use crate::{
    argument::*, attach::*, connection::*, device::*, export::*, failure::*, fence::*, handle::*,
    import::*, listener::*, lost::*, mapping::*, neutral::*, standing::*, status::*, timeline::*,
    token::*,
};

";

fn prototypes() -> String {
    let mut text = HEAD.to_owned();
    for (name, declaration) in functions() {
        let (head, list) = declaration.split_once('(').expect("a function");
        let list = list.strip_suffix(')').expect("its end");
        let arguments: Vec<String> = match list {
            "void" => Vec::new(),
            list => parameters(list).into_iter().map(rust_type).collect(),
        };
        let result = match head.strip_suffix(&name).expect("its name").trim() {
            "const char *" => "*const c_char".to_owned(),
            "void *" => "*mut c_void".to_owned(),
            plain => rust_type(&format!("{plain} x")),
        };
        let arguments = arguments.join(", ");
        writeln!(text, "const _: extern \"C\" fn({arguments}) -> {result} = {name};").unwrap();
    }
    text
}

#[test]
fn the_functions_are_as_the_header_declares_them() {
    let wanted = prototypes();
    if writes() {
        fs::write(path("src/prototypes.rs"), wanted).unwrap();
        return;
    }
    assert_eq!(read("src/prototypes.rs"), wanted, "see this file's head for how to write it anew");
}
