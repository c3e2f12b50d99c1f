//! The asking node's end of a receiver.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use skywave_proto::v1::{
    ReceiveRequest, ReceiveResponse,
    receive_request::{Attach, Credit, Detach, Word},
    receive_response::Word as Answer,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tonic::{Code, Status, Streaming};

use super::{
    Broken, Frames, PeerError, Peers, SessionId, Source, Want,
    link::{Lease, Link, NotThere},
    outlet::{WINDOW, cost},
    proof::ID_BYTES,
};

/// How long the owner may take to say that a receiver is attached.
const ATTACH_WITHIN: Duration = Duration::from_secs(5);
/// For how long it is tried to come back after a connection broke: less than the owner waits.
const RESUME_WITHIN: Duration = Duration::from_secs(4);
/// Between two tries.
const RESUME_INTERVAL: Duration = Duration::from_millis(200);
/// How long the owner has to hear the last word.
const LAST_WORD: Duration = Duration::from_secs(2);

/// A receiver.
struct Inlet {
    peers: Arc<Peers>,
    link: Arc<Link>,
    session: SessionId,
    want: Want,
    id: [u8; ID_BYTES],
    /// The number of the last frame that the reader has taken.
    last: u64,
}

/// One connection of it.
struct Attached {
    words: mpsc::Sender<ReceiveRequest>,
    answers: Streaming<ReceiveResponse>,
    _lease: Lease,
}

/// How one connection has ended.
enum Over {
    Finished,
    Cut,
    Broken,
}

/// Attaches a receiver.
pub(super) async fn open(
    peers: Arc<Peers>,
    link: Arc<Link>,
    session: SessionId,
    want: Want,
) -> Result<Frames, PeerError> {
    let inlet = Inlet { peers, link, session, want, id: rand::random(), last: 0 };
    let mut outcome = inlet.attach().await;
    if matches!(&outcome, Err(NotAttached::Refused(status)) if is_passing(status)) {
        outcome = inlet.attach().await; // the same receiver: it is attached once
    }
    let attached = match outcome {
        Ok(attached) => attached,
        Err(NotAttached::NotThere(error)) => return Err(error.into()),
        Err(NotAttached::Refused(status)) => return Err(refusal(&status)),
    };
    // One: what is not taken yet is kept by the owner, too.
    let (frames, reader) = mpsc::channel(1);
    tokio::spawn(inlet.run(attached, frames));
    Ok(Frames(Source::There(reader)))
}

enum NotAttached {
    NotThere(NotThere),
    Refused(Status),
}

/// What a status says of the session.
pub(super) fn refusal(status: &Status) -> PeerError {
    match status.code() {
        Code::NotFound | Code::Unimplemented => PeerError::Unknown,
        Code::ResourceExhausted => PeerError::Full,
        _ => PeerError::Unavailable,
    }
}

/// Whether it is the connection's fault, and not the owner's word.
pub(super) fn is_passing(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal
    )
}

impl From<NotThere> for PeerError {
    fn from(error: NotThere) -> Self {
        match error {
            NotThere::Older => Self::Unknown,
            NotThere::Full => Self::Full,
            NotThere::Away(_) => Self::Unavailable,
        }
    }
}

impl Inlet {
    async fn attach(&self) -> Result<Attached, NotAttached> {
        let lease = self.peers.call(&self.link).await.map_err(NotAttached::NotThere)?;
        let (words, queue) = mpsc::channel(8);
        let attach = Attach {
            session: self.session.0.to_vec().into(),
            receiver: self.id.to_vec().into(),
            after: self.last,
            frames: self.want.frames.map_or(0, Into::into),
            bytes: self.want.bytes,
            credit: WINDOW,
        };
        let _ = words.try_send(ReceiveRequest { word: Some(Word::Attach(attach)) }); // there is room for it
        let queue = stream::unfold(queue, |mut queue| async { Some((queue.recv().await?, queue)) });
        let attaching = async {
            let mut answers = lease.client().receive(lease.request(queue)).await?.into_inner();
            match answers.message().await?.and_then(|answer| answer.word) {
                Some(Answer::Attached(_)) => Ok(answers),
                _ => Err(Status::internal("it does not say that the receiver is attached")),
            }
        };
        let late = |_| Err(Status::deadline_exceeded("not attached in time"));
        match timeout(ATTACH_WITHIN, attaching).await.unwrap_or_else(late) {
            Ok(answers) => Ok(Attached { words, answers, _lease: lease }),
            Err(status) => {
                if status.code() == Code::Unauthenticated {
                    lease.give_up();
                }
                Err(NotAttached::Refused(status))
            }
        }
    }

    async fn run(mut self, mut attached: Attached, frames: mpsc::Sender<Result<Bytes, Broken>>) {
        loop {
            match self.pass(&mut attached, &frames).await {
                Over::Finished => {
                    let received = self.last;
                    let _ = say(&attached, Word::Credit(Credit { bytes: 0, received })).await;
                    return settle(attached).await;
                }
                Over::Cut => {
                    let _ = say(&attached, Word::Detach(Detach {})).await;
                    return settle(attached).await;
                }
                Over::Broken => {}
            }
            drop(attached);
            match self.resume(&frames).await {
                Some(again) => attached = again,
                None => {
                    // The reader has the frame before it, or is gone.
                    let _ = frames.send(Err(Broken)).await;
                    return;
                }
            }
        }
    }

    /// Hands on what comes, until the end or until the connection breaks.
    async fn pass(&mut self, attached: &mut Attached, frames: &mpsc::Sender<Result<Bytes, Broken>>) -> Over {
        loop {
            let answer = tokio::select! {
                answer = attached.answers.message() => answer,
                () = frames.closed() => return Over::Cut,
            };
            match answer.ok().flatten().and_then(|answer| answer.word) {
                Some(Answer::Frame(frame)) if frame.number == self.last + 1 => {
                    let bytes = cost(&frame.frame);
                    if frames.send(Ok(frame.frame)).await.is_err() {
                        return Over::Cut;
                    }
                    // Taken, once there is room for another.
                    if frames.reserve().await.is_err() {
                        return Over::Cut;
                    }
                    self.last = frame.number;
                    let credit = Credit { bytes, received: self.last };
                    let _ = say(attached, Word::Credit(credit)).await; // broken: the next answer says so
                }
                Some(Answer::End(end)) if end.last == self.last => return Over::Finished,
                Some(Answer::Attached(_)) => {}
                // Something would be skipped: what was not received is sent again.
                Some(Answer::Frame(_) | Answer::End(_)) | None => return Over::Broken,
            }
        }
    }

    /// Comes back where it was, on another connection; `None`: not in time, or the owner cannot.
    async fn resume(&self, frames: &mpsc::Sender<Result<Bytes, Broken>>) -> Option<Attached> {
        let until = Instant::now() + RESUME_WITHIN;
        while Instant::now() < until && !frames.is_closed() {
            match self.attach().await {
                Ok(attached) => return Some(attached),
                Err(NotAttached::Refused(status)) if matches!(status.code(), Code::DataLoss | Code::NotFound) => {
                    return None;
                }
                Err(_) => tokio::time::sleep(RESUME_INTERVAL).await,
            }
        }
        None
    }
}

async fn say(attached: &Attached, word: Word) -> Result<(), mpsc::error::SendError<ReceiveRequest>> {
    attached.words.send(ReceiveRequest { word: Some(word) }).await
}

/// Waits until the owner has heard the last word, which ends the call.
async fn settle(mut attached: Attached) {
    let heard = async { while let Ok(Some(_)) = attached.answers.message().await {} };
    let _ = timeout(LAST_WORD, heard).await;
}
