//! The backplane's metrics: name, unit, help. Labels come from small closed sets.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{BackplaneState, Gap, Unreadable};

const STATE: &str = "skywave_backplane_state";
const PROBE: &str = "skywave_backplane_probe_seconds";
const RECOVERED: &str = "skywave_backplane_recovered_publications_total";
const GAPS: &str = "skywave_backplane_gaps_total";
const SESSIONS: &str = "skywave_backplane_connects_total";
const SWEEP: &str = "skywave_backplane_sweep_seconds";
const DROPPED: &str = "skywave_backplane_overflows_total";
const UNREADABLE: &str = "skywave_backplane_unreadable_total";
const UNKNOWN: &str = "skywave_backplane_unknown_outcomes_total";
const RING_HITS: &str = "skywave_backplane_history_reads_total";
const RING_BYTES: &str = "skywave_backplane_ring_bytes";

/// Describes them to the recorder that is installed, and opens counters at 0.
pub fn describe_metrics() {
    describe_gauge!(STATE, Unit::Count, "0 never reached, 1 degraded, 2 live; one for each master");
    describe_histogram!(PROBE, Unit::Seconds, "From publishing a probe to hearing it, while nothing else is heard");
    describe_counter!(
        RECOVERED,
        Unit::Count,
        "Publications that were fetched from history because they were not heard"
    );
    describe_counter!(GAPS, Unit::Count, "Gaps that the channels of this node were told, by kind");
    describe_counter!(SESSIONS, Unit::Count, "Times that a master was reached, subscribed and caught up with");
    describe_histogram!(SWEEP, Unit::Seconds, "From reaching a master to having caught up on all of its channels");
    describe_counter!(DROPPED, Unit::Count, "Times that publications came in faster than they were taken");
    describe_counter!(
        UNREADABLE,
        Unit::Count,
        "What other nodes wrote that this version cannot read and drops, by kind"
    );
    describe_counter!(UNKNOWN, Unit::Count, "Publications that were sent and not answered");
    describe_counter!(RING_HITS, Unit::Count, "Histories that were read, by where from: ring (this node) or backplane");
    describe_gauge!(RING_BYTES, Unit::Bytes, "Recent publications that this node keeps itself");
    for kind in ["reset", "rollback", "possible"] {
        counter!(GAPS, "kind" => kind).absolute(0);
    }
    for kind in Unreadable::ALL {
        counter!(UNREADABLE, "kind" => kind.word()).absolute(0);
    }
    for source in ["ring", "backplane"] {
        counter!(RING_HITS, "source" => source).absolute(0);
    }
    for name in [RECOVERED, SESSIONS, DROPPED, UNKNOWN] {
        counter!(name).absolute(0);
    }
}

/// The state of one master; `None`: it is none any more.
pub(crate) fn state(master: usize, state: Option<BackplaneState>) {
    // Few, and their numbers are used again.
    let gauge = gauge!(STATE, "shard" => master.to_string());
    gauge.set(match state {
        None | Some(BackplaneState::Never) => 0.0,
        Some(BackplaneState::Degraded) => 1.0,
        Some(BackplaneState::Live) => 2.0,
    });
}

pub(crate) fn probe_took(time: Duration) {
    histogram!(PROBE).record(time);
}

pub(crate) fn recovered(publications: usize) {
    counter!(RECOVERED).increment(publications as u64);
}

pub(crate) fn gap(gap: Gap) {
    let kind = match gap {
        Gap::Reset { .. } => "reset",
        Gap::Rollback { .. } => "rollback",
        Gap::Possible => "possible",
    };
    counter!(GAPS, "kind" => kind).increment(1);
}

pub(crate) fn caught_up(time: Duration) {
    counter!(SESSIONS).increment(1);
    histogram!(SWEEP).record(time);
}

pub(crate) fn overflowed() {
    counter!(DROPPED).increment(1);
}

pub(crate) fn unreadable(kind: Unreadable) {
    counter!(UNREADABLE, "kind" => kind.word()).increment(1);
}

pub(crate) fn outcome_unknown() {
    counter!(UNKNOWN).increment(1);
}

pub(crate) fn history_read(from_ring: bool) {
    counter!(RING_HITS, "source" => if from_ring { "ring" } else { "backplane" }).increment(1);
}

pub(crate) fn ring_bytes(bytes: usize) {
    #[allow(clippy::cast_precision_loss)] // below 2^52
    gauge!(RING_BYTES).set(bytes as f64);
}
