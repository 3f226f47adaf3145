use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tidings_protocol::{DeviceId, TenantId};

use super::{FILE_NAME, Purge, Registry, RegistryError};
use crate::auth::revocation::{Revocation, Revoked};
use crate::time::unix_microseconds;

const KEPT_FOR: Duration = Duration::from_hours(24);

fn open(folder: &Path) -> Result<Registry, RegistryError> {
    Registry::open(folder, KEPT_FOR)
}

fn tenant(number: u8) -> TenantId {
    TenantId::from_bytes([number; 16])
}

fn devices(names: &[&str]) -> Vec<DeviceId> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn facts_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap();
    registry
        .groups()
        .put(tenant(1), "north", &devices(&["b", "a", "b"]))
        .unwrap();
    registry.groups().put(tenant(2), "north", &[]).unwrap();
    registry.purged().add(tenant(9), 17, "root").unwrap();
    drop(registry);

    let registry = open(folder.path()).unwrap();
    let group = registry.groups().get(tenant(1), "north").unwrap();
    assert_eq!(&*group, devices(&["a", "b"]));
    assert_eq!(registry.groups().get(tenant(2), "north").unwrap().len(), 0);
    assert_eq!(registry.groups().get(tenant(2), "south"), None);
    let purge = Purge {
        at: 17,
        by: "root".to_owned(),
    };
    assert_eq!(registry.purged().get(tenant(9)), Some(purge));
    assert!(!registry.purged().contains(tenant(1)));
}

#[test]
fn a_put_says_whether_the_group_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap();
    let groups = registry.groups();
    assert!(groups.put(tenant(1), "g", &[]).unwrap());
    assert!(!groups.put(tenant(1), "g", &[]).unwrap());
    assert!(groups.put(tenant(1), "g", &devices(&["a", "b"])).unwrap());
    assert!(
        !groups
            .put(tenant(1), "g", &devices(&["b", "a", "a"]))
            .unwrap()
    );
    assert!(groups.remove(tenant(1), "g").unwrap());
    assert!(!groups.remove(tenant(1), "g").unwrap());
}

#[test]
fn the_first_purge_of_a_tenant_is_the_one_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap();
    let first = registry.purged().add(tenant(1), 5, "ann").unwrap();
    assert_eq!(registry.purged().add(tenant(1), 6, "bob").unwrap(), first);
    drop(registry);
    let registry = open(folder.path()).unwrap();
    assert_eq!(registry.purged().get(tenant(1)), Some(first));
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap();
    registry
        .groups()
        .put(tenant(1), "north", &devices(&["access-point-7"]))
        .unwrap();
    drop(registry);
    let path = folder.path().join(FILE_NAME);
    let sound = std::fs::read(&path).unwrap();

    let mut flipped = sound.clone();
    let name = b"access-point-7";
    let mut found = 0;
    for at in 0..flipped.len() - name.len() {
        if flipped[at..at + name.len()] == *name {
            flipped[at] = b'A';
            found += 1;
        }
    }
    assert!(found > 0, "the device stands in the file");
    let cut = sound[..sound.len() / 2].to_vec();
    for (what, damaged) in [
        ("flipped", flipped),
        ("cut", cut),
        ("empty", Vec::new()),
        ("foreign", b"something else".repeat(1000)),
    ] {
        std::fs::write(&path, &damaged).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            matches!(error, RegistryError::Damaged { .. }),
            "{what}: {error}"
        );
        assert!(error.to_string().contains("Restore it from a backup"));
        assert_eq!(std::fs::read(&path).unwrap().len(), damaged.len(), "{what}");
    }
}

#[test]
fn a_file_that_was_not_made_completely_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let half = folder.path().join("registry.redb.new");
    std::fs::write(&half, b"cut off by a crash").unwrap();
    let registry = open(folder.path()).unwrap();
    assert!(registry.groups().list(tenant(1)).is_empty());
    assert!(!half.exists());
}

#[test]
fn what_was_removed_is_wiped_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap();
    let gone = devices(&["device-of-the-purged-tenant"]);
    registry.groups().put(tenant(1), "g", &gone).unwrap();
    let kept = devices(&["device-that-stays"]);
    registry.groups().put(tenant(2), "g", &kept).unwrap();
    registry.groups().remove_tenant(tenant(1)).unwrap();
    registry.wipe_removed().unwrap();
    let bytes = std::fs::read(folder.path().join(FILE_NAME)).unwrap();
    let stands = |text: &[u8]| bytes.windows(text.len()).any(|part| part == text);
    assert!(!stands(b"device-of-the-purged-tenant"));
    assert!(stands(b"device-that-stays"));
    // And the registry goes on in the new file.
    registry.groups().put(tenant(3), "g", &kept).unwrap();
    drop(registry);
    let registry = open(folder.path()).unwrap();
    assert!(registry.groups().get(tenant(1), "g").is_none());
    for number in [2, 3] {
        assert_eq!(&*registry.groups().get(tenant(number), "g").unwrap(), kept);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, String, Vec<String>),
    Remove(u8, String),
    RemoveTenant(u8),
    Reopen,
    Wipe,
}

fn step() -> impl Strategy<Value = Step> {
    let devices = prop::collection::vec("[a-c]", 0..4);
    prop_oneof![
        4 => (0..3_u8, "[gh]", devices).prop_map(|(t, n, d)| Step::Put(t, n, d)),
        2 => (0..3_u8, "[gh]").prop_map(|(t, n)| Step::Remove(t, n)),
        1 => (0..3_u8).prop_map(Step::RemoveTenant),
        1 => Just(Step::Reopen),
        1 => Just(Step::Wipe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn groups_are_what_was_last_put(steps in prop::collection::vec(step(), 1..20)) {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = open(folder.path()).unwrap();
        let mut model: BTreeMap<(u8, String), Vec<DeviceId>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(number, name, names) => {
                    let mut list: Vec<DeviceId> =
                        names.iter().map(|name| name.parse().unwrap()).collect();
                    registry.groups().put(tenant(number), &name, &list).unwrap();
                    list.sort();
                    list.dedup();
                    model.insert((number, name), list);
                }
                Step::Remove(number, name) => {
                    let was_there = model.remove(&(number, name.clone())).is_some();
                    prop_assert_eq!(registry.groups().remove(tenant(number), &name).unwrap(), was_there);
                }
                Step::RemoveTenant(number) => {
                    model.retain(|(owner, _), _| *owner != number);
                    registry.groups().remove_tenant(tenant(number)).unwrap();
                }
                Step::Reopen => {
                    drop(registry);
                    registry = open(folder.path()).unwrap();
                }
                Step::Wipe => registry.wipe_removed().unwrap(),
            }
            for number in 0..3 {
                let listed: Vec<(String, Vec<DeviceId>)> = registry
                    .groups()
                    .list(tenant(number))
                    .into_iter()
                    .map(|(name, devices)| (name, devices.to_vec()))
                    .collect();
                let expected: Vec<(String, Vec<DeviceId>)> = model
                    .iter()
                    .filter(|((owner, _), _)| *owner == number)
                    .map(|((_, name), devices)| (name.clone(), devices.clone()))
                    .collect();
                prop_assert_eq!(listed, expected);
            }
        }
    }
}

fn revocation(user: &str, at: i64) -> Revocation {
    Revocation {
        whose: Revoked::User(user.into()),
        at,
    }
}

#[test]
fn a_revocation_is_there_after_a_restart_and_the_latest_stands() {
    let folder = tempfile::tempdir().unwrap();
    let now = unix_microseconds(SystemTime::now());
    let registry = open(folder.path()).unwrap();
    for (at, is_new) in [(now, true), (now - 5, false), (now + 5, true)] {
        let one = revocation("ada", at);
        let added = registry
            .revocations()
            .add(std::slice::from_ref(&one))
            .unwrap();
        assert_eq!(added, if is_new { vec![one] } else { vec![] });
    }
    registry.wipe_removed().unwrap();
    drop(registry);
    let registry = open(folder.path()).unwrap();
    assert_eq!(
        registry.revocations().kept(now),
        [revocation("ada", now + 5)]
    );
}

#[test]
fn revocations_go_when_they_are_too_old_to_matter_and_never_where_they_are_kept_for_ever() {
    let now = unix_microseconds(SystemTime::now());
    let days_ago = |days: i64| now - days * 86_400_000_000;
    for (kept_for, left) in [(KEPT_FOR, 1), (Duration::ZERO, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(folder.path(), kept_for).unwrap();
        let revocations = registry.revocations();
        let both = [revocation("ada", days_ago(2)), revocation("bob", now)];
        revocations.add(&both).unwrap();
        assert_eq!(revocations.kept(now).len(), left);
        revocations.sweep().unwrap();
        assert_eq!(revocations.kept(now).len(), left);
        drop(registry);
        let registry = Registry::open(folder.path(), kept_for).unwrap();
        assert_eq!(registry.revocations().kept(now).len(), left);
        assert_eq!(
            registry.revocations().kept(days_ago(-2)).len(),
            if kept_for.is_zero() { 2 } else { 0 }
        );
    }
}

#[test]
fn a_tenants_revocations_have_room_until_there_are_too_many_and_again_when_they_are_old() {
    let folder = tempfile::tempdir().unwrap();
    let kept_for = Duration::from_millis(200);
    let registry = Registry::open(folder.path(), kept_for).unwrap();
    let now = unix_microseconds(SystemTime::now());
    let of = |number: u8, user: &str| Revoked::UserOf(tenant(number), user.into());
    let revocations = registry.revocations();
    for user in ["ada", "bob"] {
        let one = Revocation {
            whose: of(1, user),
            at: now + 60_000_000,
        };
        revocations.add(std::slice::from_ref(&one)).unwrap();
        revocations.add(&[one]).unwrap();
    }
    assert!(!revocations.has_room(&of(1, "eve"), 2));
    assert!(revocations.has_room(&of(1, "eve"), 3));
    assert!(revocations.has_room(&of(1, "ada"), 2), "it is there");
    assert!(revocations.has_room(&of(2, "eve"), 2), "another tenant");
    assert!(revocations.has_room(&Revoked::Tenant(tenant(1)), 2));
    drop(registry);
    let registry = Registry::open(folder.path(), KEPT_FOR).unwrap();
    let revocations = registry.revocations();
    assert!(!revocations.has_room(&of(1, "eve"), 2), "counted anew");
    // Too old in a moment. A slow machine may let that pass before it is taken; then there is another.
    let is_added = || {
        let now = unix_microseconds(SystemTime::now());
        let old = Revocation {
            whose: of(3, "old"),
            at: now - 86_400_000_000 + 100_000,
        };
        !revocations.add(&[old]).unwrap().is_empty()
    };
    while !is_added() {}
    assert!(!revocations.has_room(&of(3, "eve"), 1));
    while !revocations.has_room(&of(3, "eve"), 1) {
        revocations.sweep().unwrap();
    }
    assert_eq!(revocations.kept(0).len(), 2);
}

#[test]
fn a_file_from_before_there_were_revocations_is_read_and_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap();
    registry.purged().add(tenant(9), 17, "root").unwrap();
    drop(registry);
    let database = redb::Database::open(folder.path().join(FILE_NAME)).unwrap();
    let write = database.begin_write().unwrap();
    assert!(write.delete_table(super::revocations::TABLE).unwrap());
    write.commit().unwrap();
    drop(database);

    let registry = open(folder.path()).unwrap();
    assert!(registry.revocations().kept(0).is_empty());
    registry.wipe_removed().unwrap();
    let now = unix_microseconds(SystemTime::now());
    registry
        .revocations()
        .add(&[revocation("ada", now)])
        .unwrap();
    drop(registry);
    let registry = open(folder.path()).unwrap();
    assert_eq!(registry.revocations().kept(now), [revocation("ada", now)]);
    assert!(registry.purged().contains(tenant(9)));
}

/// In a cluster the truth is in NATS: a full disk must not keep a node from obeying it.
#[test]
fn a_copy_is_obeyed_also_where_it_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).unwrap().into_copy();
    let file = folder.path().join(FILE_NAME);
    // After an error of the store it is opened anew, which fails while a folder has its place.
    registry.file.lose_database();
    std::fs::rename(&file, folder.path().join("away")).unwrap();
    std::fs::create_dir(&file).unwrap();
    registry.purged().add(tenant(1), 5, "root").unwrap();
    assert!(registry.purged().contains(tenant(1)));
    registry.groups().put(tenant(2), "g", &[]).unwrap();
    assert!(registry.groups().get(tenant(2), "g").is_some());

    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(folder.path().join("away"), &file).unwrap();
    registry.groups().put(tenant(2), "h", &[]).unwrap();
    drop(registry);
    let registry = open(folder.path()).unwrap();
    assert!(registry.groups().get(tenant(2), "h").is_some());
}
