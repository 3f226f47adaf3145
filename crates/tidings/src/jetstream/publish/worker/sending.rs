//! Sending.

use tidings_protocol::TenantId;
use tokio::time::Instant;

use super::{Connecting, Mode, TURN, Worker};
use crate::jetstream::message;
use crate::jetstream::publish::body::Fate;
use crate::jetstream::publish::flight::Flight;

impl Worker {
    /// Whether there is something to send at once.
    pub(super) fn can_flow(&mut self) -> bool {
        matches!(self.mode, Mode::Flowing)
            && matches!(self.connecting, Connecting::Done(_))
            && self.flights.has_room()
            && self.bodies.next_unsent().is_some()
    }

    /// Sends what may be sent, up to a turn.
    pub(super) async fn send(&mut self) {
        match self.mode {
            Mode::Settling { .. } => {}
            Mode::Flowing => {
                for _ in 0..TURN {
                    if !self.flights.has_room() {
                        return;
                    }
                    let Some(event) = self.bodies.next_unsent() else {
                        return;
                    };
                    if !self.send_one(event).await {
                        return;
                    }
                }
            }
            Mode::Careful { not_before } => {
                if not_before <= Instant::now() {
                    self.send_carefully().await;
                }
            }
        }
    }

    async fn send_carefully(&mut self) {
        if !matches!(self.connecting, Connecting::Done(_)) {
            return;
        }
        let tenants: Vec<TenantId> = self.lanes.keys().copied().collect();
        for tenant in tenants {
            let Some(lane) = self.lanes.get_mut(&tenant) else {
                continue;
            };
            if lane.is_sent {
                continue;
            }
            // Those whose body was answered meanwhile are nobody's any more.
            let mut next = 0;
            while let Some(&(number, _)) = lane.events.get(next) {
                let body = self.bodies.get_mut(number);
                if body.is_some_and(|body| !body.has_failed()) {
                    break;
                }
                next += 1;
            }
            lane.events.drain(..next);
            let Some(&event) = lane.events.front() else {
                self.lanes.remove(&tenant);
                continue;
            };
            if !self.flights.has_room() {
                break;
            }
            // Where it fails, the loss of the connection says so of all lanes.
            lane.is_sent = true;
            if !self.send_one(event).await {
                return;
            }
        }
        self.flow_if_through();
    }

    /// Sends one event; false where there is no connection.
    async fn send_one(&mut self, (number, index): (u64, usize)) -> bool {
        let Connecting::Done(link) = &mut self.connecting else {
            return false;
        };
        let Some(body) = self.bodies.get_mut(number) else {
            return true;
        };
        if index == 0 && body.next == 0 {
            body.known_before = self.highest;
        }
        body.next = body.next.max(index + 1);
        body.set_fate(index, Fate::OnItsWay);
        let tenant = body.tenant;
        let entry = &mut body.entries[index];
        entry.sent += 1;
        let flight = Flight {
            body: number,
            index,
            tenant,
            bytes: entry.payload.len() + message::overhead(&entry.event),
            sent_at: Instant::now(),
        };
        let reply = format!("{}.{}", link.inbox, self.flights.push(flight));
        let sent = link.connection.publish(
            message::subject(tenant, &entry.event),
            reply,
            message::headers(&entry.event, &entry.id),
            entry.payload.clone(),
        );
        let is_sent = sent.await;
        if !is_sent {
            self.lose_link();
        }
        is_sent
    }
}
