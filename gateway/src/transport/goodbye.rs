//! Why a connection ends that has done nothing wrong on the wire, whatever carries it.

use skywave_proto::CloseCode;

use crate::push::Goodbye;

/// A client whose connection is too old is asked to wait at most this long before it comes back.
const COME_BACK_WITHIN_MS: u64 = 1000;

/// The connection has lasted as long as one may (`timeouts.connection_age`).
pub(super) fn too_old() -> Goodbye {
    let after_ms = rand::random_range(0..=COME_BACK_WITHIN_MS);
    Goodbye { after_ms, ..CloseCode::ConnectionTooOld.into() }
}

/// Nobody has said in time who the client is.
pub(super) fn overdue() -> Goodbye {
    let reason = "nothing was said within timeouts.connect".into();
    Goodbye { code: CloseCode::ClientProtocolError, reason, after_ms: 0 }
}
