use super::*;

fn accounts() -> Accounts {
    Accounts::new(
        Quotas::default()
            .with(Kind::Objects, Level::Client, 3)
            .with(Kind::Objects, Level::User, 4)
            .with(Kind::Descriptors, Level::Client, 10)
            .with(Kind::Descriptors, Level::User, 10)
            .with(Kind::Descriptors, Level::All, 15),
    )
}

fn refused(account: &Account, kind: Kind, amount: u64) -> String {
    let error = WireError::from(account.charge(kind, amount).unwrap_err());
    assert_eq!(error.code, ErrorCode::OVER_QUOTA);
    error.message
}

#[test]
fn a_charge_is_on_all_accounts_above_and_off_them_when_dropped() {
    let mut accounts = accounts();
    let (first, second) = (accounts.client(7), accounts.client(7));
    let charge = first.charge(Kind::Objects, 2).unwrap();
    let used = |account: &Account| account.used(Kind::Objects);
    assert_eq!((used(&first), used(&second), used(&accounts.user(7))), (2, 0, 2));
    assert_eq!(used(accounts.all()), 2);
    drop(first);
    assert_eq!(used(&accounts.user(7)), 2, "it outlives the client");
    drop(charge);
    assert_eq!((used(&accounts.user(7)), used(accounts.all())), (0, 0));
}

#[test]
fn each_limit_names_itself_and_touches_nobody_else() {
    let mut accounts = accounts();
    let (first, second) = (accounts.client(7), accounts.client(7));
    let other = accounts.client(8);
    let _three = first.charge(Kind::Objects, 3).unwrap();
    let text = refused(&first, Kind::Objects, 1);
    assert!(text.starts_with("limits.objects_per_client = 3 "), "{text}");
    let _fourth = second.charge(Kind::Objects, 1).unwrap();
    let text = refused(&second, Kind::Objects, 1);
    assert!(text.starts_with("limits.objects_per_uid = 4 objects are in use by user 7"), "{text}");
    let _others = other.charge(Kind::Objects, 3).unwrap();

    let _ten = first.charge(Kind::Descriptors, 10).unwrap();
    let text = refused(&first, Kind::Descriptors, 1);
    assert!(text.contains("limits.descriptors_per_uid = 10, of which 10"), "{text}");
    let _five = other.charge(Kind::Descriptors, 5).unwrap();
    let text = refused(&other, Kind::Descriptors, 1);
    assert!(text.contains("limits.descriptors = 15, of which 15 are in use by all"), "{text}");
    assert_eq!(accounts.all().used(Kind::Descriptors), 15, "what is refused is not counted");
}

#[test]
fn a_charge_can_become_another_amount() {
    let mut accounts = accounts();
    let client = accounts.client(7);
    let mut charge = client.take(Kind::Objects, 0);
    charge.set(5);
    assert_eq!(client.used(Kind::Objects), 5, "whatever the limits");
    assert!(client.may(Kind::Objects, 0).is_err());
    charge.set(2);
    assert_eq!(accounts.all().used(Kind::Objects), 2);
    assert!(client.charge(Kind::Objects, u64::MAX).is_err(), "no sum overflows");
}

#[test]
fn users_who_have_nothing_are_forgotten() {
    let mut accounts = accounts();
    let stays = accounts.client(1_000_000);
    for uid in 0..1000 {
        drop(accounts.client(uid));
    }
    assert!(accounts.users.len() <= 2 * FEW, "{}", accounts.users.len());
    let there: Vec<_> = accounts.users().into_iter().map(|(uid, _)| uid).collect();
    assert_eq!(there, [1_000_000]);
    drop(stays);
}

#[test]
fn every_kind_that_is_bounded_has_a_key_and_a_text_that_names_it() {
    for kind in Kind::ALL {
        for level in [Level::All, Level::User, Level::Client] {
            let Some(key) = kind.key(level) else { continue };
            let mut accounts = Accounts::new(Quotas::default().with(kind, level, 5 << 20));
            let text = refused(&accounts.client(7), kind, (5 << 20) + 1);
            assert!(text.contains(key), "{kind:?} {level:?}: {text}");
            let value = match kind {
                Kind::Memory => "= 5 MiB",
                Kind::QueuedBytes => "= 5120 KiB",
                _ => "= 5242880",
            };
            assert!(text.contains(value), "{text}");
        }
    }
}
