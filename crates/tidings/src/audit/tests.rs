use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ONE: TenantId = TenantId::from_bytes([1; 16]);
const TWO: TenantId = TenantId::from_bytes([2; 16]);

fn opened(number: usize, tenant: TenantId) -> AuditEntry {
    AuditEntry {
        user_id: Some(format!("user-{number}")),
        tenant_id: Some(tenant),
        ..AuditEntry::new(AuditKind::StreamOpened)
    }
}

fn all() -> PageRequest {
    PageRequest {
        limit: usize::MAX,
        ..PageRequest::default()
    }
}

fn entries(audit: &Audit, request: &PageRequest) -> Vec<AuditEntry> {
    let lines = audit.page(request).unwrap().lines;
    let lines = lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

#[test]
fn what_was_noted_is_read_back_in_order_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    for start in 0..2 {
        let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
        for number in 0..5 {
            audit.note(opened(start * 5 + number, ONE));
        }
        audit.stop();
    }
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    audit.stop();
    let entries = entries(&audit, &all());
    let users: Vec<_> = entries
        .iter()
        .filter_map(|entry| entry.user_id.clone())
        .collect();
    assert_eq!(
        users,
        (0..10)
            .map(|number| format!("user-{number}"))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        entries
            .iter()
            .filter(|entry| entry.what == AuditKind::Started)
            .count(),
        3
    );
    assert!(
        entries.is_sorted_by(|one, next| one.id < next.id),
        "numbers grow"
    );
    assert!(
        entries
            .iter()
            .all(|entry| entry.node == "a" && !entry.time.is_empty())
    );
}

#[test]
fn pages_give_every_entry_of_both_rings_once() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    for number in 0..30 {
        audit.note(opened(number, ONE));
        audit.note(AuditEntry::new(AuditKind::GroupPut));
    }
    audit.stop();
    let whole = entries(&audit, &all());
    assert_eq!(whole.len(), 61);
    for limit in [1, 2, 7, 60] {
        let mut request = PageRequest {
            limit,
            ..PageRequest::default()
        };
        let mut paged = Vec::new();
        loop {
            let page = audit.page(&request).unwrap();
            paged.extend(entries(&audit, &request));
            let Some(last) = page.last else { break };
            request.after = last;
        }
        assert_eq!(paged, whole, "pages of {limit}");
    }
}

#[test]
fn an_operator_is_shown_its_own_tenant_and_nothing_of_super_admins() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    audit.note(opened(1, ONE));
    audit.note(opened(2, TWO));
    audit.note(AuditEntry {
        super_admin: true,
        ..opened(3, ONE)
    });
    audit.note(AuditEntry {
        tenant_id: None,
        ..opened(4, ONE)
    });
    audit.stop();
    let request = PageRequest {
        operator_of: Some(ONE),
        ..all()
    };
    let users: Vec<_> = entries(&audit, &request)
        .into_iter()
        .map(|entry| entry.user_id)
        .collect();
    assert_eq!(users, [Some("user-1".to_owned())]);
}

#[test]
fn the_disk_it_takes_is_bounded_and_a_flood_of_streams_leaves_the_changes() {
    let folder = tempfile::tempdir().unwrap();
    let most = 64 * 1024;
    let audit = Audit::start(folder.path(), most, "a").unwrap();
    audit.note(AuditEntry::new(AuditKind::KeyCreated));
    for number in 0..5_000 {
        audit.note(opened(number, ONE));
    }
    audit.stop();
    let bytes = bytes_in(&folder.path().join(FOLDER));
    assert!(bytes <= 2 * most, "{bytes}");
    let entries = entries(&audit, &all());
    assert!(
        entries
            .iter()
            .any(|entry| entry.what == AuditKind::KeyCreated)
    );
    assert_eq!(
        entries.last().unwrap().user_id.as_deref(),
        Some("user-4999")
    );
    assert!(entries.len() < 5_000);
}

/// As when the disk takes nothing for a while: whoever notes something goes on, and what was lost is told.
#[test]
fn what_does_not_fit_is_dropped_without_waiting_and_counted_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let rings = Rings::open(&folder.path().join(FOLDER), 1 << 20).unwrap();
    let (queue, commands) = sync_channel(10);
    let shared = Arc::<Shared>::default();
    let writer = Writer::new(rings.clone(), Arc::clone(&shared), "a").unwrap();
    let audit = Audit {
        to: Some(Sender {
            queue,
            shared,
            rings,
            thread: Mutex::new(None),
        }),
    };
    for number in 0..25 {
        audit.note(opened(number, ONE));
    }
    assert_eq!(audit.dropped(), 15);
    let thread = std::thread::spawn(move || writer.run(&commands));
    audit
        .to
        .as_ref()
        .unwrap()
        .queue
        .send(Command::Stop)
        .unwrap();
    thread.join().unwrap();
    let entries = entries(&audit, &all());
    assert_eq!(entries.len(), 11);
    let dropped = entries.last().unwrap();
    assert_eq!(
        (dropped.what, dropped.count),
        (AuditKind::EntriesDropped, Some(15))
    );
}

#[test]
fn a_flood_of_refusals_is_counted_instead_of_told() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    let refusal = Refusal::unauthorized("no");
    for _ in 0..1_000 {
        audit.refused(
            AuditKind::StreamRefused,
            &refusal,
            None,
            Some(ONE),
            [127, 0, 0, 1].into(),
        );
    }
    // Nothing of who asks is told by a wrong parameter.
    let wrong = Refusal::parameter("since", "secret");
    audit.refused(
        AuditKind::StreamRefused,
        &wrong,
        None,
        Some(ONE),
        [127, 0, 0, 1].into(),
    );
    audit.stop();
    let entries = entries(&audit, &all());
    let told = entries
        .iter()
        .filter(|entry| entry.what == AuditKind::StreamRefused)
        .count() as u64;
    let counted: u64 = entries
        .iter()
        .filter(|entry| entry.what == AuditKind::MoreRefused)
        .filter_map(|entry| entry.count)
        .sum();
    assert_eq!(told + counted, 1_000);
    assert!(counted > 0 && told >= tally::MOST_REFUSALS);
}

#[test]
fn publishes_are_told_by_author_and_not_one_by_one() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    for _ in 0..100 {
        audit.published(ONE, Author::Key("poller"), 3);
        audit.published(TWO, Author::Key("poller"), 1);
        audit.published(ONE, Author::User("ada", false), 1);
    }
    audit.stop();
    let told: Vec<_> = entries(&audit, &all())
        .into_iter()
        .filter(|entry| entry.what == AuditKind::Published)
        .collect();
    // Each author once, or, where all this takes a second, with the first tick and again at the end.
    assert!((3..=6).contains(&told.len()), "{told:?}");
    let mut sums = BTreeMap::new();
    for entry in told {
        let author = (entry.tenant_id, entry.key_id, entry.user_id);
        let (bodies, events) = sums.entry(author).or_insert((0, 0));
        *bodies += entry.count.unwrap();
        *events += entry.events.unwrap();
    }
    let poller = Some("poller".to_owned());
    let expected = BTreeMap::from([
        ((Some(ONE), poller.clone(), None), (100, 300)),
        ((Some(TWO), poller, None), (100, 100)),
        ((Some(ONE), None, Some("ada".to_owned())), (100, 100)),
    ]);
    assert_eq!(sums, expected);
}

#[test]
fn a_line_that_a_crash_has_cut_off_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    audit.note(opened(1, ONE));
    audit.stop();
    let files = std::fs::read_dir(folder.path().join(FOLDER)).unwrap();
    for file in files {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&bytes[..], &bytes[..bytes.len() / 2]].concat()).unwrap();
    }
    let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
    audit.note(opened(2, ONE));
    audit.stop();
    let users: Vec<_> = entries(&audit, &all())
        .into_iter()
        .filter_map(|entry| entry.user_id)
        .collect();
    assert_eq!(users, ["user-1", "user-2"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn whatever_an_entry_says_is_one_line(user in any::<String>(), reason in any::<String>()) {
        let folder = tempfile::tempdir().unwrap();
        let audit = Audit::start(folder.path(), 1 << 20, "a").unwrap();
        audit.note(AuditEntry { reason: Some(reason), user_id: Some(user.clone()), ..opened(1, ONE) });
        audit.stop();
        let entries = entries(&audit, &all());
        prop_assert_eq!(entries.len(), 2);
        prop_assert_eq!(entries[1].user_id.as_ref(), Some(&user));
    }
}
