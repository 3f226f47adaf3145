//! A stretch of the log that is folded at once. Of each subject in it only the last event counts: to keep what
//! the next event replaces would cost more than all else here.

use std::collections::HashSet;

use tidings_protocol::{Position, TenantId};

use crate::event::{EventRef, Subject};

/// The events of a stretch that are of a subject, in order.
#[derive(Default)]
pub(super) struct Batch {
    events: Vec<Noted>,
    /// Their texts: kind, key, type, device.
    texts: String,
    /// Their origins and payloads.
    data: Vec<u8>,
}

struct Noted {
    tenant: TenantId,
    position: Position,
    appended_at: i64,
    run_time: i64,
    time: Option<i64>,
    ends: bool,
    has_device: bool,
    /// Where its texts end, one after the other; they begin at `texts_start`.
    texts_start: usize,
    text_ends: [usize; 4],
    /// Where its origin begins, if it has one.
    origin_start: Option<usize>,
    data_start: usize,
    data_end: usize,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.events.clear();
        self.texts.clear();
        self.data.clear();
    }

    /// Adds an event, if it is of a subject.
    pub(super) fn note(&mut self, event: &EventRef<'_>, run_time: i64) {
        let Some(subject) = event.subject else {
            return;
        };
        let texts_start = self.texts.len();
        let device = event.device.unwrap_or_default();
        let text_ends = [subject.kind, subject.key, event.event_type, device].map(|text| {
            self.texts.push_str(text);
            self.texts.len()
        });
        let origin_start = event.origin.map(|origin| {
            let start = self.data.len();
            self.data.extend_from_slice(origin);
            start
        });
        let data_start = self.data.len();
        self.data.extend_from_slice(event.data);
        self.events.push(Noted {
            tenant: event.tenant,
            position: event.position,
            appended_at: event.appended_at,
            run_time,
            time: event.time,
            ends: subject.ends,
            has_device: event.device.is_some(),
            texts_start,
            text_ends,
            origin_start,
            data_start,
            data_end: self.data.len(),
        });
    }

    /// The last event of each subject with its run time, the latest first.
    pub(super) fn last_of_each_subject(
        &self,
    ) -> impl Iterator<Item = (EventRef<'_>, Subject<'_>, i64)> {
        let mut seen = HashSet::with_capacity(self.events.len());
        let events = self.events.iter().rev();
        events.filter_map(move |noted| {
            let (event, subject) = self.event(noted);
            let first = seen.insert((noted.tenant, subject.kind, subject.key));
            first.then_some((event, subject, noted.run_time))
        })
    }

    fn event(&self, noted: &Noted) -> (EventRef<'_>, Subject<'_>) {
        let [kind, key, event_type, device] = noted.text_ends;
        let subject = Subject {
            kind: &self.texts[noted.texts_start..kind],
            key: &self.texts[kind..key],
            ends: noted.ends,
        };
        let event = EventRef {
            position: noted.position,
            appended_at: noted.appended_at,
            time: noted.time,
            tenant: noted.tenant,
            event_type: &self.texts[key..event_type],
            device: noted.has_device.then(|| &self.texts[event_type..device]),
            subject: Some(subject),
            origin: noted
                .origin_start
                .map(|start| &self.data[start..noted.data_start]),
            data: &self.data[noted.data_start..noted.data_end],
        };
        (event, subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_subject_the_last_event_is_left_whatever_it_says() {
        let mut batch = Batch::default();
        let one = TenantId::from_bytes([1; 16]);
        let two = TenantId::from_bytes([2; 16]);
        let events = [
            (one, Some(("job", "a", false)), "first"),
            (two, Some(("job", "a", false)), "of another tenant"),
            (one, None, "of no subject"),
            (one, Some(("task", "a", false)), "of another kind"),
            (one, Some(("job", "b", false)), "begun"),
            (one, Some(("job", "a", false)), "last"),
            (one, Some(("job", "b", true)), "ended"),
        ];
        for (position, (tenant, subject, data)) in (1..).zip(events) {
            let event = EventRef {
                position,
                appended_at: 5,
                time: Some(7),
                tenant,
                event_type: "progress",
                device: (position != 6).then_some("r1"),
                subject: subject.map(|(kind, key, ends)| Subject { kind, key, ends }),
                origin: (position % 2 == 0).then_some(b"from afar".as_slice()),
                data: data.as_bytes(),
            };
            batch.note(&event, 1_000);
        }
        let left: Vec<_> = batch
            .last_of_each_subject()
            .map(|(event, subject, run_time)| {
                assert_eq!((event.subject, run_time), (Some(subject), 1_000));
                assert_eq!((event.event_type, event.time), ("progress", Some(7)));
                let origin = (event.position % 2 == 0).then_some(b"from afar".as_slice());
                assert_eq!(event.origin, origin);
                let data = std::str::from_utf8(event.data).unwrap();
                (event.position, subject.ends, event.device, data)
            })
            .collect();
        let device = Some("r1");
        assert_eq!(
            left,
            [
                (7, true, device, "ended"),
                (6, false, None, "last"),
                (4, false, device, "of another kind"),
                (2, false, device, "of another tenant"),
            ]
        );
        batch.clear();
        assert!(batch.last_of_each_subject().next().is_none());
    }
}
