//! What a node says to prove that it knows the cluster's secret. Pure.
//!
//! Both sides sign all that was said: who asks, who is meant, and a fresh random number of each. So nothing recorded is of
//! use a second time, nor towards another node, nor in the other direction. The caller signs first: who only knocks hears
//! nothing that was made with the secret.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use skywave_proto::v1::prove_request::Hello;

use crate::session::Seal;

/// What else the secret is used for signs other words: this key is of no use there, and theirs of none here.
const LABEL: &[u8] = b"skywave.v1.Node proof";

/// How long a nonce is, in bytes.
pub(super) const NONCE_BYTES: usize = 32;
/// How long what stands for a process is, or for a receiver, in bytes.
pub(super) const ID_BYTES: usize = 16;
/// The longest name or incarnation that is looked at, in bytes.
const NAME_BYTES: usize = 256;

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Caller,
    Asked,
}

/// Signs and checks.
pub(super) struct Prover(Hmac<Sha256>);

impl Prover {
    pub(super) fn new(seal: &Seal) -> Self {
        Self(Hmac::new_from_slice(&seal.derive(LABEL)).expect("HMAC takes a key of any length"))
    }

    /// What this side says to prove it. `nonce`: the asked one's.
    pub(super) fn sign(&self, side: Side, hello: &Hello, nonce: &[u8]) -> Vec<u8> {
        self.said(side, hello, nonce).finalize().into_bytes().to_vec()
    }

    /// Whether the other side has proven it, in constant time.
    pub(super) fn is_proven(&self, side: Side, hello: &Hello, nonce: &[u8], mac: &[u8]) -> bool {
        self.said(side, hello, nonce).verify_slice(mac).is_ok()
    }

    fn said(&self, side: Side, hello: &Hello, nonce: &[u8]) -> Hmac<Sha256> {
        let side: &[u8] = match side {
            Side::Caller => b"caller",
            Side::Asked => b"asked",
        };
        let mut mac = self.0.clone();
        let Hello { nonce: theirs, name, incarnation, process, to_name, to_incarnation } = hello;
        let words = [name, incarnation, to_name, to_incarnation].map(String::as_bytes);
        for part in [side, theirs.as_ref(), nonce, process.as_ref()].into_iter().chain(words) {
            // The lengths keep the parts apart.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

/// Whether what was said has the shape that it should have.
pub(super) fn is_well_formed(hello: &Hello) -> bool {
    let Hello { nonce, name, incarnation, process, to_name, to_incarnation } = hello;
    nonce.len() == NONCE_BYTES
        && process.len() == ID_BYTES
        && [name, incarnation, to_name, to_incarnation].iter().all(|word| word.len() <= NAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            nonce: vec![1; NONCE_BYTES].into(),
            name: "paris".into(),
            incarnation: "a".into(),
            process: vec![2; ID_BYTES].into(),
            to_name: "oslo".into(),
            to_incarnation: "b".into(),
        }
    }

    #[test]
    fn a_proof_is_of_one_conversation_only() {
        let (ours, theirs) = (Prover::new(&Seal::new(&[1; 32])), Prover::new(&Seal::new(&[2; 32])));
        let nonce = [3; NONCE_BYTES];
        let mac = ours.sign(Side::Caller, &hello(), &nonce);
        assert!(ours.is_proven(Side::Caller, &hello(), &nonce, &mac));
        assert!(!theirs.is_proven(Side::Caller, &hello(), &nonce, &mac), "another secret");
        assert!(!ours.is_proven(Side::Asked, &hello(), &nonce, &mac), "sent back to who said it");
        assert!(!ours.is_proven(Side::Caller, &hello(), &[4; NONCE_BYTES], &mac), "recorded");
        assert!(!ours.is_proven(Side::Caller, &hello(), &nonce, &mac[..31]) && !mac.is_empty());
        let others = [
            Hello { nonce: vec![9; NONCE_BYTES].into(), ..hello() },
            Hello { name: "rome".into(), ..hello() },
            Hello { name: "parisa".into(), incarnation: String::new(), ..hello() },
            Hello { process: vec![9; ID_BYTES].into(), ..hello() },
            Hello { to_name: "rome".into(), ..hello() },
            Hello { to_incarnation: "c".into(), ..hello() },
        ];
        for other in others {
            assert!(!ours.is_proven(Side::Caller, &other, &nonce, &mac), "{other:?}");
        }
    }

    #[test]
    fn shapes_are_bounded() {
        assert!(is_well_formed(&hello()));
        assert!(!is_well_formed(&Hello { nonce: vec![1; 31].into(), ..hello() }));
        assert!(!is_well_formed(&Hello { process: vec![1; 17].into(), ..hello() }));
        assert!(!is_well_formed(&Hello { name: "x".repeat(257), ..hello() }));
    }
}
