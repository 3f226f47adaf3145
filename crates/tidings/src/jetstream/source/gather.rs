//! From what the consumer has delivered to a batch of events.

use super::{Decoder, SourceMessage};
use crate::jetstream::message::{self, Malformed};
use crate::jetstream::pull::{Broken, Place, Pull, Pulled};

/// The most messages of a batch.
const BATCH_MESSAGES: usize = 1_024;

/// The most bytes of payloads of a batch, unless one event has more.
const BATCH_BYTES: usize = 1 << 20;

/// Messages that were there at once.
#[derive(Default)]
pub(super) struct Gathered {
    /// The events, in order.
    pub(super) messages: Vec<SourceMessage>,
    /// About how much they take.
    bytes: usize,
    /// The sequence of the first message, event or not.
    pub(super) first: u64,
    /// Where the last message stands; `None` where there was none.
    pub(super) last: Option<Place>,
    /// Where sequences are missing between two messages: those two.
    pub(super) jumps: Vec<(u64, u64)>,
    /// Messages under subjects that are not read.
    pub(super) ignored: u64,
    /// Messages that are no events, by reason.
    pub(super) malformed: [u64; Malformed::ALL.len()],
    /// The last of those.
    pub(super) example: Option<(u64, Malformed)>,
}

/// Waits for messages and takes those that are there, up to a batch.
pub(super) async fn gather(pull: &mut Pull, decoder: &Decoder) -> Result<Gathered, Broken> {
    pull.top_up().await?;
    let mut gathered = Gathered::default();
    gathered.add(pull.next().await?, decoder);
    // From here on nothing waits, so nothing that was taken can be lost.
    while gathered.messages.len() < BATCH_MESSAGES && gathered.bytes < BATCH_BYTES {
        match pull.next_at_hand() {
            None => break,
            Some(Ok(pulled)) => gathered.add(pulled, decoder),
            // What was good is handed on first; the next call meets the fault again, or silence.
            Some(Err(broken)) if gathered.last.is_none() => return Err(broken),
            Some(Err(broken)) => {
                pull.break_with(broken);
                break;
            }
        }
    }
    Ok(gathered)
}

impl Gathered {
    fn add(&mut self, pulled: Pulled, decoder: &Decoder) {
        let Some((message, place)) = pulled else {
            return;
        };
        match self.last {
            None => self.first = place.sequence,
            Some(last) if place.sequence > last.sequence + 1 => {
                self.jumps.push((last.sequence, place.sequence));
            }
            Some(_) => {}
        }
        self.last = Some(place);
        let decoded = match decoder {
            Decoder::Own(types) => {
                let headers = message.headers.as_ref();
                message::decode(types, &message.subject, headers, &message.payload).map(Some)
            }
            Decoder::Fleet(fleet) => fleet.decode(&message.subject, &message.payload),
        };
        match decoded {
            Ok(Some((tenant, event))) => {
                self.bytes += event.data.len() + 128;
                self.messages.push(SourceMessage {
                    sequence: place.sequence,
                    stored_at: place.stored_at / 1_000,
                    tenant,
                    event,
                });
            }
            Ok(None) => self.ignored += 1,
            Err(reason) => {
                self.malformed[reason as usize] += 1;
                self.example = Some((place.sequence, reason));
            }
        }
    }
}
