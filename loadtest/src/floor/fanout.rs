//! The floor of a fan-out: a vector of sockets, and one `send` for each of them; or, batched, one `writev`.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
};

use super::{
    crowd::Crowd,
    speech::{self, Command, Publish},
    turn::Work,
    wire,
};

/// Every publication to all of its channel.
#[derive(Default)]
pub(super) struct Fanout {
    is_batched: bool,
    channels: HashMap<Box<str>, usize>,
    rooms: Vec<Room>,
    /// Rooms that have something to write, in the order in which they got it; only if batched.
    dirty: Vec<usize>,
    /// What publishers are told after their publications; only if batched.
    answers: Vec<(usize, Vec<u8>)>,
}

/// One channel.
#[derive(Default)]
struct Room {
    members: Vec<usize>,
    offset: u64,
    /// What this turn publishes. Bound: what the turn has read.
    pending: Vec<Vec<u8>>,
}

impl Fanout {
    /// Batched: what is read in one turn is written socket by socket, all of it at once.
    pub(super) fn new(is_batched: bool) -> Self {
        Self { is_batched, ..Self::default() }
    }

    fn room(&mut self, channel: &str) -> usize {
        if let Some(room) = self.channels.get(channel) {
            return *room;
        }
        self.rooms.push(Room::default());
        self.channels.insert(channel.into(), self.rooms.len() - 1);
        self.rooms.len() - 1
    }

    fn obey(&mut self, from: usize, command: &Command<'_>, crowd: &mut Crowd) -> io::Result<()> {
        let mut offset = 0;
        if let Some(subscribe) = &command.subscribe {
            let room = self.room(subscribe.channel());
            self.rooms[room].members.push(from);
            offset = self.rooms[room].offset;
        } else if let Some(publish) = &command.publish {
            offset = self.publish(publish, crowd)?;
        }
        let Some(answer) = speech::answer(command, offset) else { return Ok(()) };
        if self.is_batched && command.publish.is_some() {
            self.answers.push((from, wire::text(&answer)));
            return Ok(());
        }
        crowd.send(from, &wire::text(&answer))
    }

    /// Writes it to all, or keeps it until the end of the turn. Returns its offset.
    fn publish(&mut self, publish: &Publish<'_>, crowd: &mut Crowd) -> io::Result<u64> {
        let at = self.room(publish.channel());
        let room = &mut self.rooms[at];
        room.offset += 1;
        let frame = wire::text(&publish.push(room.offset));
        if self.is_batched {
            if room.pending.is_empty() {
                self.dirty.push(at);
            }
            room.pending.push(frame);
            return Ok(room.offset);
        }
        for member in &room.members {
            crowd.send(*member, &frame)?;
        }
        Ok(room.offset)
    }
}

impl Work for Fanout {
    fn hear(&mut self, from: usize, message: &[u8], crowd: &mut Crowd) -> io::Result<()> {
        speech::commands(message).try_for_each(|command| self.obey(from, &command, crowd))
    }

    fn flush(&mut self, crowd: &mut Crowd) -> io::Result<()> {
        for at in self.dirty.drain(..) {
            let room = &mut self.rooms[at];
            let frames: Vec<IoSlice<'_>> = room.pending.iter().map(|frame| IoSlice::new(frame)).collect();
            for member in &room.members {
                crowd.send_all(*member, &frames)?;
            }
            room.pending.clear();
        }
        // A publisher's answers come one behind the other, and go together.
        for answers in self.answers.chunk_by(|(one, _), (other, _)| one == other) {
            let frames: Vec<IoSlice<'_>> = answers.iter().map(|(_, answer)| IoSlice::new(answer)).collect();
            crowd.send_all(answers[0].0, &frames)?;
        }
        self.answers.clear();
        Ok(())
    }

    fn forget(&mut self, who: usize) {
        for room in &mut self.rooms {
            room.members.retain(|member| *member != who);
        }
    }
}
