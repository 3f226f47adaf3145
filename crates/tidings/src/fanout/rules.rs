//! What bounds a view, bound by bound: to show an operator, and to say which of them keeps an event out.
//!
//! [`View`] is what all of them come to and the only judge of who sees what; [`Rules::why_not`]
//! explains its verdict and never differs from it.

use std::sync::Arc;

use tidings_log::Scope;
use tidings_protocol::operate::StreamView;
use tidings_protocol::{DeviceId, EventType, TenantId};

use super::types::TypeTable;
use super::view::{EventFacts, View, ViewRequest};
use crate::auth::Identity;

/// The bound that keeps an event out of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The view is of another tenant.
    OtherTenant,
    /// The access token's types.
    TypesClaim,
    /// The access token's devices.
    DevicesClaim,
    /// The access token's device group, together with its devices.
    DeviceGroup,
    /// The types that were asked for.
    TypesFilter,
    /// The devices that were asked for.
    DeviceFilter,
}

/// The bounds of one stream's view. Kept with the stream: a few shared pointers.
#[derive(Clone, Debug)]
pub struct Rules {
    identity: Arc<Identity>,
    /// The one tenant, or all.
    tenant: Option<TenantId>,
    /// The members of the group that the identity names; `None` where it names none, or one that does
    /// not exist.
    group: Option<Arc<[DeviceId]>>,
    /// What was asked for; `None` where nothing was, so that plain streams hold nothing for it.
    asked: Option<Arc<ViewRequest>>,
}

impl Rules {
    /// The bounds of `identity` on `tenant` (`None`: on all), narrowed by what was asked for.
    ///
    /// The caller has checked that the identity may watch the tenant, or all of them, and has looked
    /// up the members of the identity's group.
    #[must_use]
    pub fn new(
        identity: Arc<Identity>,
        tenant: Option<TenantId>,
        group: Option<Arc<[DeviceId]>>,
        asked: ViewRequest,
    ) -> Self {
        let plain = asked.types.is_none() && asked.devices.is_none();
        Self {
            group: group.filter(|_| identity.device_group.is_some()),
            identity,
            tenant,
            asked: (!plain).then(|| Arc::new(asked)),
        }
    }

    /// Whose view it is.
    #[must_use]
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Which part of the log the view reads.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.tenant.map_or(Scope::All, Scope::Tenant)
    }

    /// The device group that bounds the view, if one does: of which tenant, and its name.
    #[must_use]
    pub fn group(&self) -> Option<(TenantId, Arc<str>)> {
        let name = self.identity.device_group.as_ref()?;
        Some((self.tenant?, Arc::clone(name)))
    }

    /// The members that the group was found with, if it was found.
    #[must_use]
    pub fn group_members(&self) -> Option<&Arc<[DeviceId]>> {
        self.group.as_ref()
    }

    /// What the bounds come to.
    #[must_use]
    pub fn view(&self, types: &TypeTable) -> View {
        let nothing = ViewRequest::default();
        let asked = self.asked.as_deref().unwrap_or(&nothing);
        let group = self.group.as_deref().unwrap_or_default();
        View::with_group(&self.identity, group, self.tenant, asked, types)
    }

    /// The first bound that keeps an event out, or `None` where the view allows it.
    #[must_use]
    pub fn why_not(&self, event: EventFacts<'_>, types: &TypeTable) -> Option<Withheld> {
        let is_of = |name: &str| types.set([name]).contains(event.kind);
        let names = |devices: &[DeviceId]| {
            event
                .device
                .is_some_and(|device| devices.iter().any(|named| named.as_str() == device))
        };
        if self.tenant.is_some_and(|tenant| tenant != event.tenant) {
            return Some(Withheld::OtherTenant);
        }
        let identity = &*self.identity;
        if let Some(claimed) = &identity.types
            && !claimed.iter().any(|kind| is_of(kind.as_str()))
        {
            return Some(Withheld::TypesClaim);
        }
        let claimed = identity.devices.as_deref();
        if identity.device_group.is_some() {
            if !names(claimed.unwrap_or_default())
                && !names(self.group.as_deref().unwrap_or_default())
            {
                return Some(Withheld::DeviceGroup);
            }
        } else if claimed.is_some_and(|devices| !names(devices)) {
            return Some(Withheld::DevicesClaim);
        }
        let asked = self.asked.as_deref()?;
        if let Some(kinds) = &asked.types
            && !kinds.iter().any(|kind| is_of(kind))
        {
            return Some(Withheld::TypesFilter);
        }
        let device_filter = asked.devices.as_deref();
        device_filter
            .is_some_and(|devices| !names(devices))
            .then_some(Withheld::DeviceFilter)
    }

    /// About how many bytes the bounds take in memory, apart from the members of a group, which the
    /// group's streams share; and about as many when they are written down.
    #[must_use]
    pub fn weight(&self) -> usize {
        let asked = self.asked.as_deref().map_or(0, |asked| {
            let types = asked.types.iter().flatten().map(|kind| 32 + kind.len());
            let devices = asked.devices.iter().flatten();
            types.sum::<usize>() + devices.map(|id| 32 + id.as_str().len()).sum::<usize>()
        });
        self.identity.weight() + asked
    }

    /// The bounds as operators read them.
    #[must_use]
    pub fn described(&self) -> StreamView {
        let identity = &*self.identity;
        let asked = self.asked.as_deref();
        let texts = |devices: &[DeviceId]| devices.iter().map(ToString::to_string).collect();
        let kinds = |kinds: &Arc<[EventType]>| kinds.iter().map(ToString::to_string).collect();
        StreamView {
            tenant_id: self.tenant.map(|tenant| tenant.to_string()),
            types_claim: identity.types.as_ref().map(kinds),
            devices_claim: identity.devices.as_deref().map(texts),
            device_group: identity.device_group.as_deref().map(str::to_owned),
            types_filter: asked.and_then(|asked| asked.types.clone()),
            device_filter: asked.and_then(|asked| asked.devices.as_deref()).map(texts),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPES: [&str; 3] = ["device_status", "metric_update", "alert_fired"];

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    fn devices(numbers: &[u8]) -> Arc<[DeviceId]> {
        let named = numbers.iter().map(|number| format!("d{number}"));
        named.map(|name| name.parse().unwrap()).collect()
    }

    fn some_devices() -> impl Strategy<Value = Option<Vec<u8>>> {
        proptest::option::of(proptest::collection::vec(0_u8..5, 0..4))
    }

    fn some_types() -> impl Strategy<Value = Option<Vec<usize>>> {
        proptest::option::of(proptest::collection::vec(0_usize..3, 0..3))
    }

    proptest! {
        /// An operator is never told another verdict than the one that the streams obey.
        #[test]
        fn a_view_and_the_reason_it_gives_agree(
            scope in proptest::option::of(0_u8..3),
            claims in (some_types(), some_devices(), any::<bool>(), some_devices()),
            filters in (some_types(), some_devices()),
            event in (0_u8..3, 0_usize..3, proptest::option::of(0_u8..6)),
        ) {
            let types = TypeTable::default();
            let (types_claim, devices_claim, grouped, members) = claims;
            let identity = Arc::new(Identity {
                user: "u".into(),
                tenant: scope.map(tenant),
                role: "viewer".into(),
                super_admin: scope.is_none(),
                expires_at: i64::MAX,
                issued_at: None,
                token_id: None,
                devices: devices_claim.as_deref().map(devices),
                types: types_claim.map(|list| list.iter().map(|&kind| TYPES[kind].parse().unwrap()).collect()),
                device_group: grouped.then(|| "core".into()),
            });
            let asked = ViewRequest {
                types: filters.0.map(|list| list.iter().map(|&kind| TYPES[kind].to_owned()).collect()),
                devices: filters.1.as_deref().map(|list| devices(list).to_vec()),
            };
            let rules = Rules::new(identity, scope.map(tenant), members.as_deref().map(devices), asked);
            let name = event.2.map(|number| format!("d{number}"));
            let facts = EventFacts {
                tenant: tenant(event.0),
                kind: types.number(TYPES[event.1]),
                device: name.as_deref(),
            };
            let withheld = rules.why_not(facts, &types);
            prop_assert_eq!(rules.view(&types).allows(facts), withheld.is_none(), "{:?}", withheld);
        }
    }
}
