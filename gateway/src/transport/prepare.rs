//! Messages become the bytes that go out: compressed where that was agreed on, their header in front; once for all who get
//! them.

use std::cell::RefCell;

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::websocket::{Agreed, Deflater, Header};
use crate::push::{Frame, Window};

thread_local! {
    static DEFLATERS: RefCell<Deflaters> = RefCell::default();
}

/// When messages are compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Compression {
    /// What was agreed on in the handshake.
    pub(super) agreed: Agreed,
    /// Shorter messages, in bytes, are not.
    pub(super) threshold: usize,
}

impl Compression {
    fn window(&self) -> Window {
        if self.agreed.window_bits() == WINDOWS[0] { Window::Usual } else { Window::Small }
    }
}

/// The window of nearly all clients, in bits, and one that every other can take too (RFC 7692 §7.1.2).
const WINDOWS: [u8; 2] = [15, 9];
/// As small as 9 nearly, at a third of its cost: what is compressed once may have many receivers.
const LEVEL: u8 = 6;

/// One thread's compressors, by [`Window`]. Each is made when it is needed: it takes 200 to 300 KB.
#[derive(Default)]
struct Deflaters([Option<Deflater>; WINDOWS.len()]);

impl Deflaters {
    fn of(&mut self, window: Window) -> &mut Deflater {
        self.0[window as usize].get_or_insert_with(|| Deflater::new(LEVEL, WINDOWS[window as usize]))
    }
}

/// A message as it goes out, made once for all its receivers: compressed if that was agreed on and pays.
pub(super) fn wire(frame: &Frame, compression: Option<Compression>) -> &Bytes {
    if let Some(compression) = compression
        && frame.payload().len() >= compression.threshold
    {
        let window = compression.window();
        let deflate = |frame: &Frame| {
            let deflated = DEFLATERS.with_borrow_mut(|all| all.of(window).compress(frame.payload()))?;
            Some(framed(frame.is_text(), true, &deflated))
        };
        if let Some(deflated) = frame.deflated(window, deflate) {
            return deflated;
        }
    }
    frame.plain(|frame| framed(frame.is_text(), false, frame.payload()))
}

/// As [`wire`] for one receiver, and compressed whether it pays or not.
pub(super) fn compressed(frame: &Frame, compression: Option<Compression>) -> Bytes {
    let deflated = compression.and_then(|compression| {
        DEFLATERS.with_borrow_mut(|all| all.of(compression.window()).compress_always(frame.payload()))
    });
    match deflated {
        Some(deflated) => framed(frame.is_text(), true, &deflated),
        None => framed(frame.is_text(), false, frame.payload()),
    }
}

/// A control frame (RFC 6455 §5.5); its payload has at most 125 bytes.
pub(super) fn control(kind: Control, payload: &[u8]) -> Bytes {
    whole(OpCode::Control(kind), false, payload)
}

pub(super) fn framed(is_text: bool, is_compressed: bool, payload: &[u8]) -> Bytes {
    whole(OpCode::Data(if is_text { Data::Text } else { Data::Binary }), is_compressed, payload)
}

/// A frame with its header.
fn whole(opcode: OpCode, is_compressed: bool, payload: &[u8]) -> Bytes {
    let header = Header::new(opcode, is_compressed, payload.len(), None);
    let header: &[u8] = header.as_ref();
    let mut frame = Vec::with_capacity(header.len() + payload.len());
    frame.extend_from_slice(header);
    frame.extend_from_slice(payload);
    frame.into()
}
