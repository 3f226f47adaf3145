//! Which nodes there are: each announces itself, and is known by that for a while.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How often a node announces itself.
pub(super) const ANNOUNCE_EVERY: Duration = Duration::from_secs(1);

/// How long after its last announcement a node is still waited for.
const EXPECTED_FOR: Duration = Duration::from_secs(4);

/// How long after its last announcement a node is still known: whoever asks all nodes is told that it does not
/// answer.
const KNOWN_FOR: Duration = Duration::from_mins(1);

/// How many nodes are known at most, so that nobody can fill the memory.
const MOST: usize = 1_024;

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node {
    /// What its configuration calls it.
    pub name: String,
    /// Drawn when it started.
    pub id: String,
}

/// Why a node announces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// It has just come, and wants to know the others.
    Hello,
    /// It is there.
    Here,
    /// It goes.
    Leaving,
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Announcement {
    pub(super) node: Node,
    pub(super) word: Word,
}

/// The other nodes.
#[derive(Debug, Default)]
pub(super) struct Others {
    heard: Mutex<HashMap<Node, Instant>>,
}

impl Others {
    /// Takes an announcement of another node.
    pub(super) fn hear(&self, announcement: Announcement, now: Instant) {
        let mut heard = self.heard.lock();
        heard.retain(|_, at| now.saturating_duration_since(*at) < KNOWN_FOR);
        match announcement.word {
            Word::Leaving => {
                heard.remove(&announcement.node);
            }
            Word::Hello | Word::Here => {
                if heard.len() < MOST || heard.contains_key(&announcement.node) {
                    heard.insert(announcement.node, now);
                }
            }
        }
    }

    /// All that are known, and whether an answer of each is worth waiting for.
    pub(super) fn known(&self, now: Instant) -> Vec<(Node, bool)> {
        let heard = self.heard.lock();
        let silent_for = |at: Instant| now.saturating_duration_since(at);
        heard
            .iter()
            .filter(|(_, at)| silent_for(**at) < KNOWN_FOR)
            .map(|(node, at)| (node.clone(), silent_for(*at) < EXPECTED_FOR))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(others: &Others, id: &str, word: Word, now: Instant) {
        let node = Node {
            name: "host".to_owned(),
            id: id.to_owned(),
        };
        others.hear(Announcement { node, word }, now);
    }

    #[test]
    fn a_node_that_falls_silent_is_known_for_a_while_and_waited_for_less_long() {
        let others = Others::default();
        let start = Instant::now();
        say(&others, "a", Word::Hello, start);
        say(&others, "b", Word::Here, start);
        say(&others, "b", Word::Here, start + Duration::from_secs(10));
        let mut known = others.known(start + Duration::from_secs(11));
        known.sort();
        let ids: Vec<(&str, bool)> = known
            .iter()
            .map(|(node, wait)| (&*node.id, *wait))
            .collect();
        assert_eq!(ids, [("a", false), ("b", true)]);
        assert_eq!(others.known(start + KNOWN_FOR).len(), 1);
        assert_eq!(others.known(start + 2 * KNOWN_FOR).len(), 0);
    }

    #[test]
    fn a_node_that_leaves_is_forgotten_at_once() {
        let others = Others::default();
        let now = Instant::now();
        say(&others, "a", Word::Here, now);
        say(&others, "a", Word::Leaving, now);
        assert!(others.known(now).is_empty());
    }
}
