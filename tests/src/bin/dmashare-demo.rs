//! Pulls an eGPU in the middle of a frame, and tells what happened and when.

use std::process::ExitCode;

fn main() -> ExitCode {
    dmashare_tests::actor::take_part();
    dmashare_tests::demo::main()
}
