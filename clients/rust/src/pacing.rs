//! When to come back. Pure.

use std::time::Duration;

/// A client that was told nothing waits at most so long the first time …
const FIRST: Duration = Duration::from_secs(1);
/// … and never longer than this.
const LONGEST: Duration = Duration::from_secs(20);

/// How long to wait before the `attempt`th try in a row (from 0). `said` is what the node has said: it knows when each of its
/// clients is to come back. Otherwise a random moment of a span that doubles ("full jitter"). `chance` is from 0 to 1.
pub(crate) fn rest(attempt: u32, said: Option<Duration>, chance: f64) -> Duration {
    let span = FIRST.saturating_mul(1 << attempt.min(8)).min(LONGEST);
    match said {
        // What it said was for the first try. Then it is as for everybody.
        Some(said) if attempt == 0 => said,
        _ => span.mul_f64(chance.clamp(0.0, 1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_doubles_up_to_its_bound_and_the_node_goes_first() {
        let seconds = |attempt, chance| rest(attempt, None, chance).as_secs_f64();
        assert_eq!([0, 1, 4, 5, 60].map(|attempt| seconds(attempt, 1.0)), [1.0, 2.0, 16.0, 20.0, 20.0]);
        assert_eq!(seconds(3, 0.0), 0.0);
        let said = Some(Duration::from_millis(350));
        assert_eq!((rest(0, said, 1.0), rest(1, said, 0.5)), (Duration::from_millis(350), Duration::from_secs(1)));
    }
}
