//! A message of the kernel's about a device, and what is read out of it.

#![no_main]

use dmashare_uapi::uevent::{ParseError, Uevent};
use dmashare_uapi::wedged::Wedged;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(event) = Uevent::parse(data) else { return };
    // It is what the message says, and the header says it too.
    for (key, value) in [
        ("ACTION", Some(event.action)),
        ("DEVPATH", Some(event.devpath)),
        ("SUBSYSTEM", Some(event.subsystem)),
        ("DEVTYPE", event.devtype),
        ("DEVNAME", event.devname),
        ("SYNTH_UUID", event.synth_uuid),
    ] {
        assert_eq!(event.get(key), value, "{key}");
    }
    let head = format!("{}@{}\0", event.action, event.devpath);
    assert!(data.starts_with(head.as_bytes()));
    // Nothing that is cut off passes for whole.
    let cut = &data[..data.len() - 1];
    assert!(cut.ends_with(b"\0") || Uevent::parse(cut) == Err(ParseError::Truncated));

    if let Some(wedged) = Wedged::of(&event) {
        assert_eq!((event.action, event.subsystem), ("change", "drm"));
        assert_eq!(wedged.injected, event.synth_uuid.is_some());
        assert_eq!(wedged.has_recovered(), wedged.recovery == "none");
    }

    // Written again, it is the same.
    let mut text = head;
    let mut line = |key: &str, value: &str| text.push_str(&format!("{key}={value}\0"));
    line("ACTION", event.action);
    line("DEVPATH", event.devpath);
    line("SUBSYSTEM", event.subsystem);
    for (key, value) in
        [("DEVTYPE", event.devtype), ("DEVNAME", event.devname), ("SYNTH_UUID", event.synth_uuid)]
    {
        if let Some(value) = value {
            line(key, value);
        }
    }
    for (key, value) in [("MAJOR", event.major), ("MINOR", event.minor)] {
        if let Some(value) = value {
            line(key, &value.to_string());
        }
    }
    line("SEQNUM", &event.seqnum.to_string());
    let again = Uevent::parse(text.as_bytes()).expect("what was read is written");
    let parts = |it: &Uevent<'_>| {
        let names = [it.devtype, it.devname, it.synth_uuid].map(|name| name.map(str::to_owned));
        let text = [it.action, it.devpath, it.subsystem].map(str::to_owned);
        (text, names, it.major, it.minor, it.seqnum)
    };
    assert_eq!(parts(&again), parts(&event));
});
