//! Which streams an event goes to.
//!
//! Streams with equal views and codings form a group. An event finds its groups by its tenant and device, so
//! that it touches only groups that can receive it; what it touches is judged by [`View::allows`].

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;
use tidings_log::Scope;
use tidings_protocol::{DeviceId, TenantId};

use super::coding::Coding;
use crate::fanout::View;
use crate::fanout::view::EventFacts;

/// A group's slot.
pub(super) type GroupId = u32;

/// The streams that share a view and a coding.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) view: Arc<View>,
    pub(super) coding: Coding,
    /// Slots of the streams. A stream knows its place in here.
    pub(super) members: Vec<u32>,
    /// What the members are due, while blocks are handed out: indexes of blocks and events.
    pub(super) due: Vec<(u32, u32)>,
}

/// The groups, and the ways to them.
#[derive(Debug, Default)]
pub(super) struct Index {
    groups: Slab<Group>,
    by_view: HashMap<(Arc<View>, Coding), GroupId>,
    by_tenant: HashMap<TenantId, Audience>,
    all_tenants: Audience,
}

/// The groups of one scope.
#[derive(Debug, Default)]
struct Audience {
    /// Those that are not limited to devices.
    any_device: Vec<GroupId>,
    by_device: HashMap<DeviceId, Vec<GroupId>>,
}

impl Audience {
    fn is_empty(&self) -> bool {
        self.any_device.is_empty() && self.by_device.is_empty()
    }

    fn insert(&mut self, group: GroupId, view: &View) {
        match view.devices() {
            None => self.any_device.push(group),
            Some(devices) => {
                for device in devices {
                    self.by_device
                        .entry(device.clone())
                        .or_default()
                        .push(group);
                }
            }
        }
    }

    fn remove(&mut self, group: GroupId, view: &View) {
        match view.devices() {
            None => self.any_device.retain(|&other| other != group),
            Some(devices) => {
                for device in devices {
                    if let Some(groups) = self.by_device.get_mut(device) {
                        groups.retain(|&other| other != group);
                        if groups.is_empty() {
                            self.by_device.remove(device);
                        }
                    }
                }
            }
        }
    }

    fn candidates(&self, device: Option<&str>) -> impl Iterator<Item = GroupId> {
        let by_device = device
            .filter(|_| !self.by_device.is_empty())
            .and_then(|device| self.by_device.get(device));
        self.any_device
            .iter()
            .chain(by_device.into_iter().flatten())
            .copied()
    }
}

impl Index {
    /// Adds a stream. Gives its group and its place in there.
    pub(super) fn insert(&mut self, view: View, coding: Coding, stream: u32) -> (GroupId, u32) {
        let key = (Arc::new(view), coding);
        let group = match self.by_view.get(&key) {
            Some(&group) => group,
            None => self.create(key),
        };
        let members = &mut self.groups[group as usize].members;
        members.push(stream);
        (group, slot(members.len() - 1))
    }

    fn create(&mut self, key: (Arc<View>, Coding)) -> GroupId {
        let (view, coding) = (Arc::clone(&key.0), key.1);
        let group = slot(self.groups.insert(Group {
            view: Arc::clone(&view),
            coding,
            members: Vec::new(),
            due: Vec::new(),
        }));
        self.audience(view.scope()).insert(group, &view);
        self.by_view.insert(key, group);
        group
    }

    fn audience(&mut self, scope: Scope) -> &mut Audience {
        match scope {
            Scope::All => &mut self.all_tenants,
            Scope::Tenant(tenant) => self.by_tenant.entry(tenant).or_default(),
        }
    }

    /// Removes a stream. Gives the stream that has moved to its place, if one has.
    pub(super) fn remove(&mut self, group: GroupId, place: u32) -> Option<u32> {
        let entry = &mut self.groups[group as usize];
        entry.members.swap_remove(place as usize);
        let moved = entry.members.get(place as usize).copied();
        if entry.members.is_empty() {
            let Group { view, coding, .. } = self.groups.remove(group as usize);
            self.by_view.remove(&(Arc::clone(&view), coding));
            let audience = self.audience(view.scope());
            audience.remove(group, &view);
            if let Scope::Tenant(tenant) = view.scope()
                && audience.is_empty()
            {
                self.by_tenant.remove(&tenant);
            }
        }
        moved
    }

    /// The view of a group.
    pub(super) fn view(&self, group: GroupId) -> &Arc<View> {
        &self.groups[group as usize].view
    }

    /// A group.
    pub(super) fn group_mut(&mut self, group: GroupId) -> &mut Group {
        &mut self.groups[group as usize]
    }

    /// Notes the event for the groups that receive it; those that had nothing due before are
    /// appended to `touched`.
    pub(super) fn note(
        &mut self,
        event: EventFacts<'_>,
        place: (u32, u32),
        touched: &mut Vec<GroupId>,
    ) {
        let of_tenant = self.by_tenant.get(&event.tenant);
        let candidates = of_tenant
            .into_iter()
            .chain(std::iter::once(&self.all_tenants))
            .flat_map(|audience| audience.candidates(event.device));
        for group_id in candidates {
            let group = &mut self.groups[group_id as usize];
            if group.view.allows(event) {
                if group.due.is_empty() {
                    touched.push(group_id);
                }
                group.due.push(place);
            }
        }
    }
}

/// Slots are kept in 32 bits: a process has far fewer descriptors.
pub(super) fn slot(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 streams")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::auth::Identity;
    use crate::fanout::{TypeTable, ViewRequest};

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    fn device(number: u8) -> DeviceId {
        format!("device-{number}").parse().unwrap()
    }

    fn view(types: &TypeTable, scope: Option<u8>, devices: Option<&[u8]>) -> View {
        let identity = Identity {
            user: "u".into(),
            tenant: scope.map(tenant),
            role: "viewer".into(),
            super_admin: scope.is_none(),
            expires_at: i64::MAX,
            issued_at: None,
            token_id: None,
            devices: None,
            types: None,
            device_group: None,
        };
        let request = ViewRequest {
            types: None,
            devices: devices.map(|list| list.iter().map(|&number| device(number)).collect()),
        };
        View::new(&identity, scope.map(tenant), &request, types)
    }

    proptest! {
        /// Whatever streams came and went, an event finds exactly those whose view allows it.
        #[test]
        fn an_event_finds_exactly_the_streams_that_may_see_it(
            changes in proptest::collection::vec(
                (any::<bool>(), proptest::option::of(0_u8..3), proptest::option::of(proptest::collection::vec(0_u8..3, 0..3))),
                0..60,
            ),
            event_tenant in 0_u8..4,
            event_device in proptest::option::of(0_u8..4),
        ) {
            let types = TypeTable::default();
            let mut index = Index::default();
            let mut places: Vec<Option<(GroupId, u32, View)>> = Vec::new();
            for (remove, scope, devices) in changes {
                let victim = places.iter().position(Option::is_some).filter(|_| remove);
                if let Some(victim) = victim {
                    let (group, place, _) = places[victim].take().unwrap();
                    if let Some(moved) = index.remove(group, place) {
                        places[moved as usize].as_mut().unwrap().1 = place;
                    }
                } else {
                    let view = view(&types, scope, devices.as_deref());
                    let (group, place) = index.insert(view.clone(), Coding::Identity, slot(places.len()));
                    places.push(Some((group, place, view)));
                }
            }
            let name = event_device.map(device);
            let facts = EventFacts {
                tenant: tenant(event_tenant),
                kind: types.number("device_status"),
                device: name.as_ref().map(DeviceId::as_str),
            };
            let mut touched = Vec::new();
            index.note(facts, (0, 0), &mut touched);
            let mut found = BTreeSet::new();
            for group in touched {
                prop_assert_eq!(index.group_mut(group).due.len(), 1, "an event is due once");
                for &member in &index.group_mut(group).members.clone() {
                    prop_assert!(found.insert(member));
                }
            }
            let expected: BTreeSet<u32> = places
                .iter()
                .enumerate()
                .filter(|(_, place)| place.as_ref().is_some_and(|(_, _, view)| view.allows(facts)))
                .map(|(number, _)| slot(number))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
