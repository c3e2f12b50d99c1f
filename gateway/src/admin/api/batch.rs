//! Several calls in one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{json, value::RawValue};
use skywave_proto::ErrorCode;

use super::{Answer, Internal, Problem, bad_request, guard::Caller, open, parse, raw, run};
use crate::admin::problem::error_object;

/// The method's word.
pub(super) const WORD: &str = "batch";
/// Calls in one batch.
const COMMANDS: usize = 100;
/// Once the answers have so many bytes, what is left of a batch is refused.
const ANSWER_BYTES: usize = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch<'a> {
    /// Each `{"method": {…}}`.
    #[serde(borrow)]
    commands: Vec<BTreeMap<String, &'a RawValue>>,
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
    let mut bytes = 0;
    for (word, words) in commands {
        let outcome = match open(caller, word) {
            Ok(_) if bytes > ANSWER_BYTES => {
                let message = "the answers before this one fill the batch: nothing was done, ask in another one";
                Err(Problem::new(ErrorCode::TooLarge, message))
            }
            Ok(method) => run(internal, caller, method, words.get().as_bytes()).await,
            Err(problem) => Err(problem),
        };
        let result = outcome.map_or_else(
            |Problem(refusal, _)| json!({ "error": error_object(&refusal) }).to_string(),
            |answer| answer.get().to_owned(),
        );
        bytes += result.len();
        results.push(result);
    }
    raw(format!("{{\"results\":[{}]}}", results.join(",")))
}

fn only<'a>(command: &'a BTreeMap<String, &'a RawValue>) -> Result<(&'a str, &'a RawValue), Problem> {
    let mut methods = command.iter();
    match (methods.next(), methods.next()) {
        (Some((word, _)), None) if word == WORD => Err(bad_request("a batch has no batch in it")),
        (Some((word, words)), None) => Ok((word, words)),
        _ => Err(bad_request("a command is an object with one field, its method: {\"publish\":{…}}")),
    }
}
