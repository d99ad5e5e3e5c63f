//! `top` on a terminal of its own, which it gives back however it ends.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::{Policy, PrivateBus, Told};

/// Into and out of the terminal's other screen.
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

struct Screen {
    script: Child,
    shown: String,
}

impl Screen {
    /// Started, and drawn once.
    fn start(bus: &PrivateBus) -> Self {
        let inside = format!(
            "stty rows 24 cols 80; echo $$ > {}; exec {TOOL} top",
            bus.file("pid").display()
        );
        // A terminal that is not given back in time fails the test; it does not hold it up.
        let mut script = Command::new("timeout")
            .args(["30", "script", "-qec", &inside, "/dev/null"])
            .env("DMASHARE_BUS", &bus.address)
            .env("TERM", "xterm")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script is needed for this test: apt install bsdutils");
        let mut shown = String::new();
        let out = script.stdout.as_mut().unwrap();
        while !shown.contains("Devices") {
            let mut part = [0; 4096];
            let len = out.read(&mut part).unwrap();
            assert_ne!(len, 0, "it ended before it was drawn: {shown:?}");
            shown += &String::from_utf8_lossy(&part[..len]);
        }
        assert!(shown.contains(ENTER), "{shown:?}");
        Self { script, shown }
    }

    fn pid(bus: &PrivateBus) -> Pid {
        let pid = std::fs::read_to_string(bus.file("pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap())
    }

    /// All that was shown, and the code.
    fn end(mut self) -> (String, Option<i32>) {
        let mut rest = Vec::new();
        self.script.stdout.as_mut().unwrap().read_to_end(&mut rest).unwrap();
        let code = self.script.wait().unwrap().code();
        (self.shown + &String::from_utf8_lossy(&rest), code)
    }
}

const TOOL: &str = env!("CARGO_BIN_EXE_dmasharectl");

#[test]
fn a_key_ends_it() {
    let bus = PrivateBus::start(&Policy::Open);
    let _service = bus.serve(Told::default());
    let mut screen = Screen::start(&bus);
    screen.script.stdin.as_mut().unwrap().write_all(b"q").unwrap();
    let (shown, code) = screen.end();
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(shown.ends_with(&format!("\x1b[?25h{LEAVE}")), "the cursor too: {shown:?}");
}

#[test]
fn a_signal_ends_it_and_the_terminal_is_given_back() {
    let bus = PrivateBus::start(&Policy::Open);
    let _service = bus.serve(Told::default());
    let screen = Screen::start(&bus);
    kill(Screen::pid(&bus), Signal::SIGTERM).unwrap();
    let (shown, code) = screen.end();
    assert_eq!(code, Some(143), "{shown:?}");
    assert!(shown.contains(LEAVE), "{shown:?}");
}
