//! The owner's end of a receiver on another node.
//!
//! Frames are numbered, and kept until the other side says that they have come. When the connection between the nodes
//! breaks, the other side comes back with the number of the last one and gets those after it; if it does not in time, the
//! session is lost, for nobody knows what the client has seen.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use parking_lot::Mutex;
use skywave_proto::v1::{
    ReceiveRequest, ReceiveResponse,
    receive_request::Word,
    receive_response::{Attached, End, Frame, Word as Answer},
};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{Host, SessionId, Want, proof::ID_BYTES};

/// What may be on its way to the other side, in bytes of frames; the last of them may pass it. Full: the session keeps the
/// rest, within its own bound.
pub(super) const WINDOW: u32 = 64 * 1024;
/// What a frame costs beside its bytes.
pub(super) const FRAME_COST: u32 = 64;
/// The same in words: all the frames that fit, the one that passes it, and what is said around them. Full: the other side
/// gives credit for what it has not taken, and its connection ends.
const WORDS: usize = (WINDOW / FRAME_COST) as usize + 8;
/// How long the other side has to come back after its connection broke.
const RESUME_WITHIN: Duration = Duration::from_secs(5);
/// Receivers of one node's processes together. Full: refused, and the client comes back.
const OUTLETS: usize = 65_536;

/// Which receiver: its node's process, and itself.
type Key = ([u8; ID_BYTES], [u8; ID_BYTES]);
/// What goes to the other side. Bound: [`WORDS`].
type Out = mpsc::Sender<Result<ReceiveResponse, Status>>;

/// The receivers of other nodes. Bound: [`OUTLETS`].
#[derive(Default)]
pub(super) struct Outlets(Mutex<HashMap<Key, Entry>>);

struct Entry {
    outlet: Arc<AsyncMutex<Outlet>>,
    /// Ends the connection that it has; the next has another.
    current: CancellationToken,
}

/// One of them.
struct Outlet {
    session: SessionId,
    frames: mpsc::Receiver<Bytes>,
    /// Sent and not known to have come. Bound: [`WINDOW`].
    kept: VecDeque<(u64, Bytes)>,
    /// The number of the last frame that was sent.
    last: u64,
    has_ended: bool,
    credit: u32,
}

/// How a connection to the other side has ended.
#[derive(Debug, PartialEq, Eq)]
enum Over {
    /// All has come.
    Finished,
    /// The client was cut off.
    Detached,
    /// It broke.
    Broken,
    /// There is a newer one.
    Superseded,
}

impl Outlets {
    /// Attaches what the other side asks for, or goes on with it, and serves it to its end.
    pub(super) async fn open(
        self: &Arc<Self>,
        host: &Arc<dyn Host>,
        process: [u8; ID_BYTES],
        mut words: Streaming<ReceiveRequest>,
    ) -> Result<mpsc::Receiver<Result<ReceiveResponse, Status>>, Status> {
        let first = words.message().await?.and_then(|request| request.word);
        let Some(Word::Attach(attach)) = first else {
            return Err(Status::invalid_argument("the first word is attach"));
        };
        let bad = |_| Status::invalid_argument("a session has 32 bytes, a receiver 16");
        let session = SessionId(<[u8; 32]>::try_from(attach.session.as_ref()).map_err(bad)?);
        let key = (process, <[u8; ID_BYTES]>::try_from(attach.receiver.as_ref()).map_err(bad)?);
        let current = CancellationToken::new();
        let known = self.0.lock().get_mut(&key).map(|entry| {
            std::mem::replace(&mut entry.current, current.clone()).cancel();
            entry.outlet.clone()
        });
        let outlet = match known {
            Some(outlet) => outlet,
            None if attach.after > 0 => return Err(Status::data_loss("nothing is kept of this receiver")),
            None => {
                if self.0.lock().len() >= OUTLETS {
                    return Err(Status::resource_exhausted("too many receivers are attached here"));
                }
                let want = Want { frames: attach.frames.try_into().ok(), bytes: attach.bytes };
                let frames =
                    host.receive(session, want).await.map_err(|unknown| Status::not_found(unknown.to_string()))?;
                let outlet = Outlet { session, frames, kept: VecDeque::new(), last: 0, has_ended: false, credit: 0 };
                let outlet = Arc::new(AsyncMutex::new(outlet));
                self.0.lock().insert(key, Entry { outlet: outlet.clone(), current: current.clone() });
                outlet
            }
        };
        let (out, answers) = mpsc::channel(WORDS);
        let (outlets, host) = (self.clone(), host.clone());
        tokio::spawn(async move {
            // The connection before this one lets go of it at once.
            let mut outlet = outlet.lock_owned().await;
            let over = if outlet.resume(attach.after, attach.credit, &out) {
                outlet.serve(&mut words, &out, &current).await
            } else {
                let _ = out.try_send(Err(Status::data_loss("these frames are not kept any more"))); // it is empty
                Over::Detached
            };
            drop(out);
            if over == Over::Broken {
                tokio::select! {
                    () = tokio::time::sleep(RESUME_WITHIN) => outlets.close(key, outlet, &host),
                    () = current.cancelled() => {}
                }
            } else if over != Over::Superseded {
                outlets.close(key, outlet, &host);
            }
        });
        Ok(answers)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Gives one up. What had not come is lost, and its session with it.
    fn close(&self, key: Key, outlet: OwnedMutexGuard<Outlet>, host: &Arc<dyn Host>) {
        self.0.lock().remove(&key);
        if !outlet.kept.is_empty() {
            host.lost(outlet.session);
        }
    }
}

impl Outlet {
    /// Sends again what came after this number. False if it is not kept.
    fn resume(&mut self, after: u64, credit: u32, out: &Out) -> bool {
        let first_kept = self.kept.front().map_or(self.last + 1, |(number, _)| *number);
        if after > self.last || after + 1 < first_kept {
            return false;
        }
        self.came(after);
        // The queue is new, and what is kept fits.
        say(out, Answer::Attached(Attached {}));
        // What is sent again was paid with the credit of the connection before, and is with this one's.
        self.credit = credit.min(WINDOW);
        for (number, frame) in &self.kept {
            self.credit = self.credit.saturating_sub(cost(frame));
            say(out, Answer::Frame(Frame { number: *number, frame: frame.clone() }));
        }
        if self.has_ended {
            say(out, Answer::End(End { last: self.last }));
        }
        true
    }

    async fn serve(&mut self, words: &mut Streaming<ReceiveRequest>, out: &Out, current: &CancellationToken) -> Over {
        loop {
            if self.has_ended && self.kept.is_empty() {
                return Over::Finished;
            }
            tokio::select! {
                biased;
                () = current.cancelled() => return Over::Superseded,
                word = words.next() => match word.and_then(Result::ok).and_then(|request| request.word) {
                    Some(Word::Credit(credit)) => {
                        self.credit = self.credit.saturating_add(credit.bytes).min(WINDOW);
                        self.came(credit.received);
                    }
                    Some(Word::Detach(_)) => return Over::Detached,
                    Some(Word::Attach(_)) | None => return Over::Broken,
                },
                frame = self.frames.recv(), if self.credit > 0 && !self.has_ended => match frame {
                    Some(frame) => if !self.send(frame, out) { return Over::Broken },
                    None => {
                        self.has_ended = true;
                        if !say(out, Answer::End(End { last: self.last })) {
                            return Over::Broken;
                        }
                    }
                },
            }
        }
    }

    fn send(&mut self, frame: Bytes, out: &Out) -> bool {
        self.last += 1;
        self.credit = self.credit.saturating_sub(cost(&frame));
        self.kept.push_back((self.last, frame.clone()));
        say(out, Answer::Frame(Frame { number: self.last, frame }))
    }

    /// All up to this number has come.
    fn came(&mut self, number: u64) {
        while self.kept.front().is_some_and(|(kept, _)| *kept <= number) {
            self.kept.pop_front();
        }
    }
}

/// What a frame takes of the credit.
pub(super) fn cost(frame: &Bytes) -> u32 {
    u32::try_from(frame.len()).unwrap_or(u32::MAX).saturating_add(FRAME_COST)
}

/// False if there is nobody, or no room.
fn say(out: &Out, word: Answer) -> bool {
    out.try_send(Ok(ReceiveResponse { word: Some(word) })).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlet() -> Outlet {
        let (_, frames) = mpsc::channel(1);
        let session = SessionId::of("/echo", "a");
        Outlet { session, frames, kept: VecDeque::new(), last: 0, has_ended: false, credit: WINDOW }
    }

    fn said(answers: &mut mpsc::Receiver<Result<ReceiveResponse, Status>>) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Ok(answer) = answers.try_recv() {
            if let Some(Answer::Frame(frame)) = answer.unwrap().word {
                numbers.push(frame.number);
            }
        }
        numbers
    }

    #[test]
    fn whoever_comes_back_gets_what_has_not_come_and_nothing_else() {
        let (out, mut answers) = mpsc::channel(WORDS);
        let mut outlet = outlet();
        for text in ["a", "b", "c", "d"] {
            outlet.send(Bytes::from(text), &out);
        }
        outlet.came(1);
        assert_eq!(said(&mut answers), [1, 2, 3, 4]);
        assert!(outlet.resume(2, WINDOW, &out));
        assert_eq!(said(&mut answers), [3, 4]);
        assert!(outlet.resume(4, WINDOW, &out));
        assert_eq!(said(&mut answers), [0; 0]);
        for never in [0, 1, 3, 5] {
            assert!(!outlet.resume(never, WINDOW, &out), "{never}: a frame would be skipped or doubled");
        }
        assert!(outlet.kept.is_empty());
    }

    #[test]
    fn credit_never_grows_beyond_the_window() {
        let (out, _answers) = mpsc::channel(WORDS);
        let mut outlet = outlet();
        assert!(outlet.resume(0, u32::MAX, &out));
        assert_eq!(outlet.credit, WINDOW);
        outlet.send(Bytes::from(vec![0; 2 * WINDOW as usize]), &out);
        assert_eq!(outlet.credit, 0);
    }
}
