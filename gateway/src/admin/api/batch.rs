//! Several calls in one.

use std::{fmt, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{json, value::RawValue};
use skywave_proto::ErrorCode;
use tokio::time::Instant;

use super::{Answer, Internal, Problem, bad_request, guard::Caller, open, parse, raw, run};
use crate::admin::problem::error_object;

/// The method's word.
pub(super) const WORD: &str = "batch";
/// Calls in one batch.
const COMMANDS: usize = 100;
/// Once the answers have so many bytes, what is left of a batch is refused.
const ANSWER_BYTES: usize = 4 << 20;
/// After so long no further call of a batch is begun. One that has begun goes on: what becomes of it is known.
const BATCH_WITHIN: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    /// Each `{"method": {…}}`.
    #[serde(borrow)]
    commands: Vec<Command<'a>>,
}

/// The fields of an object, a repeated one too.
struct Command<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Command<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Command<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one field, its method")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Command<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Command(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// What is left for the calls of a batch.
struct Room {
    bytes: usize,
    until: Instant,
}

impl Room {
    fn is_left(&self, now: Instant) -> Result<(), Problem> {
        if self.bytes > ANSWER_BYTES {
            let message = "the answers before this one fill the batch: nothing was done, ask in another one";
            return Err(Problem::new(ErrorCode::TooLarge, message));
        }
        if now >= self.until {
            let message =
                format!("the calls before this one took {BATCH_WITHIN:?}: nothing was done, ask in another batch");
            return Err(Problem::new(ErrorCode::Unavailable, message));
        }
        Ok(())
    }
}

/// `batch`: one call after the other, whatever becomes of the ones before. One result for each, in their order: what the
/// method answers, or an error. Each needs the scope of its method.
pub(super) async fn batch(internal: &Internal, caller: Caller<'_>, body: &[u8]) -> Answer {
    let Batch { commands } = parse(body)?;
    if commands.len() > COMMANDS {
        return Err(Problem::new(ErrorCode::TooLarge, format!("a batch has at most {COMMANDS} commands")));
    }
    // All of them are looked at before the first is carried out.
    let commands = commands.iter().map(only).collect::<Result<Vec<_>, _>>()?;
    let mut results = Vec::with_capacity(commands.len());
    let mut room = Room { bytes: 0, until: Instant::now() + BATCH_WITHIN };
    for (word, words) in commands {
        let outcome = match open(caller, word).and_then(|method| room.is_left(Instant::now()).map(|()| method)) {
            Ok(method) => run(internal, caller, method, words.get().as_bytes()).await,
            Err(problem) => Err(problem),
        };
        let result = outcome.map_or_else(
            |Problem(refusal, _)| json!({ "error": error_object(&refusal) }).to_string(),
            |answer| answer.get().to_owned(),
        );
        room.bytes += result.len();
        results.push(result);
    }
    raw(format!("{{\"results\":[{}]}}", results.join(",")))
}

fn only<'a>(command: &'a Command<'a>) -> Result<(&'a str, &'a RawValue), Problem> {
    match &command.0[..] {
        [(word, _)] if word == WORD => Err(bad_request("a batch has no batch in it")),
        [(word, words)] => Ok((word, words)),
        _ => Err(bad_request("a command is an object with one field, its method: {\"publish\":{…}}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_has_a_bound_in_bytes_and_in_time() {
        let until = Instant::now();
        let before = until.checked_sub(Duration::from_millis(1)).unwrap();
        let code = |bytes, now| Room { bytes, until }.is_left(now).map_err(|Problem(refusal, _)| refusal.code);
        assert_eq!(code(ANSWER_BYTES, before), Ok(()));
        assert_eq!(code(0, until), Err(ErrorCode::Unavailable));
        assert_eq!(code(ANSWER_BYTES + 1, before), Err(ErrorCode::TooLarge));
    }
}
