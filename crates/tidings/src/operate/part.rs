//! Pages of streams that several nodes fill: each gives its own first ones, and who was asked puts them together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidings_protocol::TenantId;
use tidings_protocol::operate::{AudienceStream, StreamInfo};

use super::fill_page;
use crate::auth::Operator;
use crate::cluster::{Cluster, Gathered};
use crate::engine::{ConnectionId, StreamFilter};

/// What an operator may know of, as one node tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// The only tenant; `None` for all.
    pub tenant: Option<TenantId>,
    /// Whether streams of super admins are shown.
    pub sees_super_admins: bool,
}

impl Caller {
    /// What this operator may know of.
    #[must_use]
    pub fn of(operator: &Operator) -> Self {
        Self {
            tenant: operator.only_tenant(),
            sees_super_admins: operator.identity().super_admin,
        }
    }

    /// The streams that it may know of, narrowed by what it asks for. Instead of a tenant that is not its own it
    /// gets its own.
    #[must_use]
    pub fn streams(&self, tenant: Option<TenantId>, user: Option<String>) -> StreamFilter {
        let only = match (self.tenant, tenant) {
            (Some(own), Some(asked)) if own != asked => Some(own),
            (own, asked) => asked.or(own),
        };
        StreamFilter {
            tenant: only,
            user: user.map(Into::into),
            without_super_admins: !self.sees_super_admins,
            ..StreamFilter::default()
        }
    }

    /// Whether it may know of a stream, judged once more by who asked: by what the other node says of it.
    fn may_know<T: Item>(&self, known: &Known<T>) -> bool {
        let of_tenant = self.tenant.is_none_or(|own| known.shows == Some(own));
        of_tenant && (self.sees_super_admins || !known.super_admin)
    }
}

/// What is told of a stream.
pub(crate) trait Item {
    /// The stream's name.
    fn connection(&self) -> Option<ConnectionId>;
    /// Names the node that it is on.
    fn set_node(&mut self, node: &str);
}

impl Item for StreamInfo {
    fn connection(&self) -> Option<ConnectionId> {
        self.connection_id.parse().ok()
    }

    fn set_node(&mut self, node: &str) {
        self.node = Some(node.to_owned());
    }
}

impl Item for AudienceStream {
    fn connection(&self) -> Option<ConnectionId> {
        self.connection_id.parse().ok()
    }

    fn set_node(&mut self, node: &str) {
        self.node = Some(node.to_owned());
    }
}

/// A stream, and what decides who may know of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Known<T> {
    pub(crate) item: T,
    /// Whether it is a super admin's.
    pub(crate) super_admin: bool,
    /// The one tenant that it shows; `None` for all.
    pub(crate) shows: Option<TenantId>,
}

/// The first streams of one node, ascending by name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part<T> {
    pub(crate) streams: Vec<Known<T>>,
    /// Whether there are more behind them.
    pub(crate) more: bool,
    /// Since when none is missing, in microseconds since the Unix epoch, where that is asked.
    pub(crate) complete_since: i64,
}

impl<T: Item> Part<T> {
    /// The name to go on after, where there is more.
    pub(crate) fn next(&self) -> Option<String> {
        let last = self.streams.last().filter(|_| self.more)?;
        last.item.connection().map(|name| name.to_string())
    }
}

/// This node's part beside those of the others, each with its node's name.
pub(crate) fn parts<T>(
    cluster: &Cluster,
    own: Part<T>,
    others: Gathered<Part<T>>,
) -> Vec<(String, Part<T>)> {
    let others = others
        .answers
        .into_iter()
        .map(|(node, part)| (node.name, part));
    std::iter::once((cluster.node().name.clone(), own))
        .chain(others)
        .collect()
}

/// A page of all nodes' streams, and the name to go on after where there are more.
pub(crate) fn merge<T: Item + Serialize>(
    caller: &Caller,
    parts: Vec<(String, Part<T>)>,
    limit: usize,
) -> (Vec<T>, Option<String>) {
    // Behind the last that a node has told of there may be others of it.
    let end = parts
        .iter()
        .filter(|(_, part)| part.more)
        .filter_map(|(_, part)| part.streams.last()?.item.connection())
        .min();
    let mut by_name = BTreeMap::new();
    for (node, part) in parts {
        for mut known in part.streams {
            if !caller.may_know(&known) {
                tracing::error!(
                    node,
                    "another node has told of a stream that the caller may not know of"
                );
                continue;
            }
            if let Some(name) = known.item.connection()
                && end.is_none_or(|end| name <= end)
            {
                known.item.set_node(&node);
                by_name.insert(name, known.item);
            }
        }
    }
    let last = by_name.last_key_value().map(|(name, _)| name.to_string());
    let named: Vec<(ConnectionId, T)> = by_name.into_iter().collect();
    let (streams, next) = fill_page(
        named,
        limit,
        |(name, _)| *name,
        |(_, item)| {
            let weight = serde_json::to_vec(&item).map_or(0, |json| json.len());
            (item, weight)
        },
    );
    let next = next.or_else(|| end.and(last));
    (streams, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize)]
    struct Stream(u8, String);

    impl Item for Stream {
        fn connection(&self) -> Option<ConnectionId> {
            name(self.0).parse().ok()
        }

        fn set_node(&mut self, node: &str) {
            node.clone_into(&mut self.1);
        }
    }

    fn name(number: u8) -> String {
        format!("sse-{number:012x}")
    }

    fn part(numbers: &[u8], more: bool) -> Part<Stream> {
        let one = |number: &u8| Known {
            item: Stream(*number, String::new()),
            super_admin: false,
            shows: None,
        };
        Part {
            streams: numbers.iter().map(one).collect(),
            more,
            complete_since: 0,
        }
    }

    const ROOT: Caller = Caller {
        tenant: None,
        sees_super_admins: true,
    };

    fn merged(parts: &[Part<Stream>], limit: usize) -> (Vec<u8>, Option<String>) {
        let named = parts.iter().cloned().zip(["a", "b", "c"]);
        let parts = named.map(|(part, node)| (node.to_owned(), part)).collect();
        let (streams, next) = merge(&ROOT, parts, limit);
        (streams.iter().map(|stream| stream.0).collect(), next)
    }

    #[test]
    fn pages_of_several_nodes_ascend_and_skip_nobody() {
        // All that the nodes have fits.
        let all = [part(&[1, 4], false), part(&[2], false), part(&[], false)];
        assert_eq!(merged(&all, 10), (vec![1, 2, 4], None));
        assert_eq!(merged(&all, 2), (vec![1, 2], Some(name(2))));
        // The first node has more behind 3, so what the second has behind it comes later.
        let cut = [part(&[1, 3], true), part(&[2, 7], false)];
        assert_eq!(merged(&cut, 10), (vec![1, 2, 3], Some(name(3))));
        assert_eq!(merged(&cut, 1), (vec![1], Some(name(1))));
    }

    #[test]
    fn whoever_pages_through_meets_every_stream_once() {
        let nodes: [&[u8]; 3] = [&[1, 2, 3, 9, 12], &[4, 5, 6, 7, 8], &[10, 11]];
        for limit in 1..=13 {
            let (mut met, mut after) = (Vec::new(), None::<u8>);
            loop {
                let of_node = |numbers: &&[u8]| {
                    let behind = numbers
                        .iter()
                        .filter(|number| after.is_none_or(|after| **number > after));
                    let behind: Vec<u8> = behind.copied().collect();
                    let more = behind.len() > limit;
                    part(&behind[..behind.len().min(limit)], more)
                };
                let parts: Vec<_> = nodes.iter().map(of_node).collect();
                let (page, next) = merged(&parts, limit);
                met.extend(page);
                let Some(next) = next else { break };
                after = met.last().copied();
                assert_eq!(Some(next), after.map(name));
            }
            assert_eq!(met, (1..=12).collect::<Vec<u8>>(), "limit {limit}");
        }
    }

    #[test]
    fn what_an_operator_may_not_know_is_left_out_whatever_another_node_says() {
        let own = TenantId::from_bytes([1; 16]);
        let caller = Caller {
            tenant: Some(own),
            sees_super_admins: false,
        };
        let mut told = part(&[1, 2, 3], false);
        told.streams[0].super_admin = true;
        told.streams[1].shows = Some(TenantId::from_bytes([2; 16]));
        told.streams[2].shows = Some(own);
        let (streams, _) = merge(&caller, vec![("b".to_owned(), told)], 10);
        assert_eq!(streams, [Stream(3, "b".to_owned())]);
    }

    #[test]
    fn an_operator_that_asks_for_another_tenant_is_given_its_own() {
        let (own, other) = (TenantId::from_bytes([1; 16]), TenantId::from_bytes([2; 16]));
        let caller = Caller {
            tenant: Some(own),
            sees_super_admins: false,
        };
        let filter = caller.streams(Some(other), None);
        assert_eq!(filter.tenant, Some(own));
        assert!(filter.without_super_admins);
        assert_eq!(ROOT.streams(Some(other), None).tenant, Some(other));
    }
}
