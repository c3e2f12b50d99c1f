//! Surveys that this node has asked: who has answered, who is silent.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use skywave_backplane::NodeRecord;
use skywave_proto::v1::signal::answer::Answer;
use tokio::sync::mpsc;

/// Surveys that are open at once. More are refused.
const OPEN: usize = 64;

/// What came of a survey.
#[derive(Debug)]
pub struct Surveyed<T> {
    /// What the nodes said, each with its name.
    pub answers: Vec<(Arc<str>, T)>,
    /// The nodes that did not answer in time.
    pub silent: Vec<String>,
}

/// The incarnation of a node, its name, and its answer.
pub(super) type Said = (Arc<str>, Arc<str>, Answer);

/// The surveys that are open. Bound: [`OPEN`]. The lock is held for one look-up.
#[derive(Debug, Default)]
pub(super) struct Surveys {
    ids: AtomicU64,
    open: Mutex<HashMap<u64, mpsc::Sender<Said>>>,
}

/// One survey, open until it is dropped.
pub(super) struct Survey<'a> {
    surveys: &'a Surveys,
    pub(super) id: u64,
    pub(super) answers: mpsc::Receiver<Said>,
}

impl Surveys {
    /// Opens a survey for so many answers; `None` if too many are open.
    pub(super) fn open(&self, answers: usize) -> Option<Survey<'_>> {
        let mut open = self.open.lock();
        if open.len() >= OPEN {
            return None;
        }
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        // Bound: as many again may come from nodes that were not expected; what is over is not waited for.
        let (sender, answers) = mpsc::channel(2 * answers + 8);
        open.insert(id, sender);
        Some(Survey { surveys: self, id, answers })
    }

    /// A node has answered. Nothing happens if nobody waits any more.
    pub(super) fn answered(&self, id: u64, said: Said) {
        if let Some(survey) = self.open.lock().get(&id) {
            let _ = survey.try_send(said); // full: see where the queue is made
        }
    }
}

impl Drop for Survey<'_> {
    fn drop(&mut self) {
        self.surveys.open.lock().remove(&self.id);
    }
}

/// Who is expected to answer, and who has; pure.
#[derive(Debug)]
pub(super) struct Tally {
    /// Incarnation -> name.
    silent: BTreeMap<Arc<str>, Arc<str>>,
    /// Incarnations. Bound: what the queue of a survey lets through.
    heard: BTreeSet<Arc<str>>,
}

impl Tally {
    /// These are expected.
    pub(super) fn of(nodes: &[NodeRecord]) -> Self {
        let silent = nodes.iter().map(|node| (node.incarnation.clone(), node.info.name.clone()));
        Self { silent: silent.collect(), heard: BTreeSet::new() }
    }

    /// How many have not answered.
    pub(super) fn awaited(&self) -> usize {
        self.silent.len()
    }

    /// Whether all have answered.
    pub(super) fn is_complete(&self) -> bool {
        self.silent.is_empty()
    }

    /// A node has answered: its name, if it had not answered before. One that was not expected counts too: it may have
    /// come, or have become another incarnation, since the others were looked up.
    pub(super) fn count(&mut self, incarnation: &Arc<str>, name: &Arc<str>) -> Option<Arc<str>> {
        let known = self.silent.remove(incarnation);
        self.heard.insert(incarnation.clone()).then(|| known.unwrap_or_else(|| name.clone()))
    }

    /// The names of those that have not answered.
    pub(super) fn silent(self) -> Vec<String> {
        let mut names: Vec<_> = self.silent.into_values().map(|name| name.to_string()).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use skywave_backplane::NodeInfo;
    use skywave_proto::v1::signal;

    use super::*;

    fn node(incarnation: &str, name: &str) -> NodeRecord {
        let info = NodeInfo { name: name.into(), ..NodeInfo::default() };
        NodeRecord { incarnation: incarnation.into(), info, beat_age: Duration::ZERO }
    }

    #[test]
    fn each_node_counts_once_and_whoever_was_expected_and_did_not_answer_is_silent() {
        let mut tally = Tally::of(&[node("1", "paris"), node("2", "oslo"), node("3", "oslo")]);
        let mut count = |incarnation: &str, name: &str| tally.count(&incarnation.into(), &name.into());
        assert_eq!(count("1", "paris").as_deref(), Some("paris"));
        assert_eq!(count("1", "paris"), None, "twice");
        assert_eq!(count("9", "rome").as_deref(), Some("rome"), "it was not known yet");
        assert_eq!(count("9", "rome"), None);
        assert!(!tally.is_complete());
        assert_eq!(tally.count(&"3".into(), &"oslo".into()).as_deref(), Some("oslo"));
        assert_eq!(tally.silent(), ["oslo"]);
    }

    #[test]
    fn there_is_a_bound_and_a_survey_that_is_over_takes_no_answers() {
        let surveys = Surveys::default();
        let mut open: Vec<_> = (0..OPEN).map(|_| surveys.open(1).unwrap()).collect();
        assert!(surveys.open(1).is_none());
        let answer = (Arc::from("1"), Arc::from("paris"), Answer::Channels(signal::Channels::default()));
        surveys.answered(open[3].id, answer.clone());
        assert_eq!(open[3].answers.try_recv(), Ok(answer.clone()));
        let over = open.pop().unwrap().id;
        surveys.answered(over, answer);
        assert!(surveys.open(1).is_some(), "its place is free again");
    }
}
