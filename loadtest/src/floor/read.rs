//! The floor of what comes in: frames are taken apart and unmasked, and nothing else.

use std::{hint::black_box, io};

use super::{crowd::Crowd, speech, turn::Work, wire};

/// With these bytes begins what a generator only wants to be read: a publication without an id.
const UNASKED: &[u8] = br#"{"publish""#;

/// Counts messages, and lets generators in.
#[derive(Default)]
pub(super) struct Reader {
    messages: u64,
}

impl Work for Reader {
    fn hear(&mut self, from: usize, message: &[u8], crowd: &mut Crowd) -> io::Result<()> {
        if message.starts_with(UNASKED) {
            // Nobody asks for the count, and the unmasked bytes must not be left out because of that.
            self.messages = black_box(self.messages + 1);
            black_box(message);
            return Ok(());
        }
        let answers = speech::commands(message).filter_map(|command| speech::answer(&command, 0));
        answers.into_iter().try_for_each(|answer| crowd.send(from, &wire::text(&answer)))
    }
}
