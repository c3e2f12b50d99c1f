//! What kinds of clients there are, and how many of each.

use std::str::FromStr;

use serde::Serialize;

use crate::{client::SUBPROTOCOL, upgrade::Manner};

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `skywave.v1.json`.
    Json,
    /// `skywave.v1.protobuf`.
    Protobuf,
    /// Nothing: a bare WebSocket on `/raw/CHANNEL`, which gets payloads only.
    Raw,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Json, Self::Protobuf, Self::Raw];

    /// As it is written on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Protobuf => "protobuf",
            Self::Raw => "raw",
        }
    }

    pub(super) fn manner(self, manner: Manner) -> Manner {
        let subprotocol = match self {
            Self::Json => Some(SUBPROTOCOL),
            Self::Protobuf => Some("skywave.v1.protobuf"),
            Self::Raw => None,
        };
        Manner { subprotocol, ..manner }
    }
}

/// The shares of the kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix([usize; 3]);

impl Mix {
    /// Of all kinds alike.
    pub const EQUAL: Self = Self([1, 1, 1]);

    /// The kind of client `n`, and its number among those who come before the kinds begin again: kinds take turns, so that
    /// each is everywhere.
    pub(super) fn kind(self, n: usize) -> (Kind, usize) {
        let turn = self.0.iter().sum::<usize>().max(1);
        let mut place = n % turn;
        for (kind, share) in Kind::ALL.into_iter().zip(self.0) {
            if place < share {
                return (kind, n / turn);
            }
            place -= share;
        }
        (Kind::Json, n / turn)
    }
}

/// `json=2,protobuf=2,raw=1`; without a number it is 1.
impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut shares = [0; 3];
        for part in text.split(',') {
            let (name, share) = part.split_once('=').unwrap_or((part, "1"));
            let wrong = || format!("{part} is no kind with its share: write json=2,protobuf=2,raw=1");
            let place = Kind::ALL.iter().position(|kind| kind.name() == name).ok_or_else(wrong)?;
            shares[place] = share.parse::<u16>().map_err(|_| wrong())?.into();
        }
        if shares == [0; 3] { Err("there must be a client of some kind".to_owned()) } else { Ok(Self(shares)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_take_turns_by_their_shares() {
        let mix: Mix = "json=2,raw".parse().unwrap();
        let kinds: Vec<_> = (0..4).map(|n| mix.kind(n)).collect();
        assert_eq!(kinds, [(Kind::Json, 0), (Kind::Json, 0), (Kind::Raw, 0), (Kind::Json, 1)]);
        assert_eq!("raw,json,protobuf".parse(), Ok(Mix::EQUAL));
    }

    #[test]
    fn what_is_no_mix_is_refused() {
        for wrong in ["", "jsn", "json=", "json=-1", "json=0", "json=1;raw=1"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }
}
