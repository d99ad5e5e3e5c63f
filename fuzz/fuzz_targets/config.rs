//! The configuration: up to four files, apart by a byte that no text has.

#![no_main]

use std::path::PathBuf;
use std::time::Duration;

use dmashared::config::{Config, ConfigError};
use libfuzzer_sys::fuzz_target;

/// No UTF-8 has it.
const NEXT_FILE: u8 = 0xff;

fuzz_target!(|data: &[u8]| {
    let mut texts = Vec::new();
    for (i, part) in data.splitn(4, |&byte| byte == NEXT_FILE).enumerate() {
        // A file that is not UTF-8 is refused before it gets here.
        let Ok(text) = str::from_utf8(part) else { return };
        texts.push((PathBuf::from(format!("{i}.toml")), text.to_owned()));
    }
    match Config::of_texts(&texts) {
        Ok(config) => {
            bounds(&config);
            // Who says all of it twice says the same.
            let twice = Config::of_texts(&[texts.clone(), texts].concat());
            assert_eq!(twice.expect("what was good once"), config);
        }
        Err(error) => names_its_place(&texts, &error),
    }
});

/// What `example.toml` says of each key.
fn bounds(config: &Config) {
    let ms = Duration::from_millis;
    let day = ms(24 * 60 * 60 * 1000);
    assert!((ms(10)..=ms(60_000)).contains(&config.broker.ack_timeout));
    assert!((ms(1)..=day).contains(&config.fence.deadline));
    assert!((ms(1)..=day).contains(&config.fence.max_deadline));
    assert!(config.fence.deadline <= config.fence.max_deadline);
    assert!(config.eject.delay <= ms(600_000));
    assert!(config.liveness <= ms(3_600_000));
    for path in [
        &config.broker.socket,
        &config.broker.state_dir,
        &config.fence.sw_sync_path,
        &config.eject.helpers,
    ] {
        assert!(path.is_absolute(), "{}", path.display());
    }
    for (i, one) in config.devices.iter().enumerate() {
        assert!(config.devices[..i].iter().all(|it| it.device != one.device), "said twice");
    }
    for (i, one) in config.drivers.iter().enumerate() {
        assert!(!one.name.is_empty() && !one.name.contains('/'));
        assert!(config.drivers[..i].iter().all(|it| it.name != one.name), "said twice");
    }
    let it = &config.limits;
    for (least, of_one, of_all) in [
        (1, it.clients_per_uid, it.clients),
        (1, it.objects_per_client, it.objects_per_uid),
        (1, it.tokens_per_client, it.tokens_per_uid),
        (16, it.descriptors_per_client, it.descriptors_per_uid),
        (16, it.descriptors_per_uid, it.descriptors),
        (1, it.neutral_mib_per_client, it.neutral_mib_per_uid),
        (16, it.queue_kib_per_client, it.queue_kib_per_uid),
        (8, it.queue_descriptors_per_client, it.queue_descriptors_per_uid),
        (1, it.queue_messages, 1 << 20),
        (1, it.waits_per_client, 1 << 20),
        (1, it.pending_fences_per_uid, 1 << 20),
    ] {
        assert!(least <= of_one && of_one <= of_all && of_all <= 1 << 20, "{it:?}");
    }
    assert!(it.descriptors >= 64);
}

/// An error names a file that was read, a line of it, and a key, unless the text is no TOML.
fn names_its_place(texts: &[(PathBuf, String)], error: &ConfigError) {
    let ConfigError::Wrong { file, line, key, what } = error else {
        panic!("no file was read: {error}");
    };
    let (_, text) = texts.iter().find(|(name, _)| name == file).expect("a file that was read");
    assert!((1..=text.split('\n').count()).contains(line), "{error}");
    assert!(!what.is_empty(), "{error}");
    let is_toml = toml::de::DeTable::parse(text).is_ok();
    // Without a key it is no TOML, or the key is called nothing.
    assert!(is_toml != key.is_empty() || text.contains(r#""""#) || text.contains("''"), "{error}");
}
