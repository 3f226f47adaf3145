//! Views: what a stream may see.
//!
//! A view is one tenant or all, bounded by the claims of the access token, narrowed by what the
//! request asked for. [`View::allows`] is the only judge of whether an event belongs to a view; live
//! delivery, replay and history all ask it.

use std::collections::HashSet;

use tidings_log::{EventRef, Scope};
use tidings_protocol::event::REMOVED;
use tidings_protocol::{DeviceId, TenantId};

use super::types::{TypeId, TypeSet, TypeTable};
use crate::auth::Identity;

/// What a request asks to see, apart from whose events.
#[derive(Clone, Debug, Default)]
pub struct ViewRequest {
    /// Only these types; `None` for all.
    pub types: Option<Vec<String>>,
    /// Only these devices; `None` for all.
    pub devices: Option<Vec<DeviceId>>,
}

/// What a stream sees. Equal views are served together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct View {
    tenant: Option<TenantId>,
    types: Option<TypeSet>,
    /// Sorted, without repeats. `None` is every device and events without one.
    devices: Option<Box<[DeviceId]>>,
}

/// What of an event decides who may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventFacts<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// The number of its [`visible_type`].
    pub kind: TypeId,
    /// Its device, if it has one.
    pub device: Option<&'a str>,
}

/// The type by which rules and filters judge an event: that of its own name, but for `removed` the
/// type of the subject that it takes away, so that it is seen by those who saw the subject and by
/// nobody else.
#[must_use]
pub fn visible_type<'a>(event: &EventRef<'a>) -> &'a str {
    match event.subject {
        Some(subject) if event.event_type == REMOVED => subject.kind,
        _ => event.event_type,
    }
}

impl<'a> EventFacts<'a> {
    /// What decides who may see this event.
    #[must_use]
    pub fn of(event: &EventRef<'a>, types: &TypeTable) -> Self {
        Self {
            tenant: event.tenant,
            kind: types.number(visible_type(event)),
            device: event.device,
        }
    }
}

impl View {
    /// The view of `identity` on `tenant` (`None`: on all tenants), narrowed by `request`, where the
    /// device group of the identity, if it names one, does not exist.
    ///
    /// The caller has checked that the identity may watch the tenant, or all of them.
    #[must_use]
    pub fn new(
        identity: &Identity,
        tenant: Option<TenantId>,
        request: &ViewRequest,
        types: &TypeTable,
    ) -> Self {
        Self::with_group(identity, &[], tenant, request, types)
    }

    /// The same where `group` holds the members of the identity's device group.
    #[must_use]
    pub fn with_group(
        identity: &Identity,
        group: &[DeviceId],
        tenant: Option<TenantId>,
        request: &ViewRequest,
        types: &TypeTable,
    ) -> Self {
        let claimed_types = identity
            .types
            .as_ref()
            .map(|claimed| types.set(claimed.iter().map(tidings_protocol::EventType::as_str)));
        let asked_types = request
            .types
            .as_ref()
            .map(|asked| types.set(asked.iter().map(String::as_str)));
        let types = match (claimed_types, asked_types) {
            (Some(claimed), Some(asked)) => Some(claimed.intersection(&asked)),
            (claimed, asked) => claimed.or(asked),
        };
        let devices = match (identity.allowed_devices(group), request.devices.as_deref()) {
            (Some(claimed), Some(asked)) => {
                // A group can be large, and so can what is asked for.
                let claimed: HashSet<&DeviceId> = claimed.iter().collect();
                let both = asked.iter().filter(|device| claimed.contains(device));
                Some(both.cloned().collect())
            }
            (Some(claimed), None) => Some(claimed.to_vec()),
            (None, Some(asked)) => Some(asked.to_vec()),
            (None, None) => None,
        };
        let devices = devices.map(|mut devices| {
            devices.sort_unstable();
            devices.dedup();
            devices.into_boxed_slice()
        });
        Self {
            tenant,
            types,
            devices,
        }
    }

    /// Which part of the log the view reads.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.tenant.map_or(Scope::All, Scope::Tenant)
    }

    /// The devices that the view is limited to, sorted.
    #[must_use]
    pub fn devices(&self) -> Option<&[DeviceId]> {
        self.devices.as_deref()
    }

    /// Whether every event of its scope belongs to the view.
    #[must_use]
    pub fn is_whole_scope(&self) -> bool {
        self.types.is_none() && self.devices.is_none()
    }

    /// Whether an event belongs to the view.
    #[must_use]
    pub fn allows(&self, event: EventFacts<'_>) -> bool {
        self.tenant.is_none_or(|tenant| tenant == event.tenant)
            && self
                .types
                .as_ref()
                .is_none_or(|types| types.contains(event.kind))
            && self.devices.as_ref().is_none_or(|devices| {
                event.device.is_some_and(|device| {
                    devices
                        .binary_search_by(|allowed| allowed.as_str().cmp(device))
                        .is_ok()
                })
            })
    }
}
