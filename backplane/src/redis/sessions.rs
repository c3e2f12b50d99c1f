//! Which node owns a session: a key for each, in the partition of its name, that dies unless its owner renews it.

use std::{collections::BTreeMap, sync::Arc};

use redis::{Pipeline, RedisResult, Value};

use super::{Redis, history, keys, publish::millis};
use crate::{Cluster as _, ClusterError, HistoryError, Ownership, SESSION_LEASE, SessionKey};

/// How many are asked about at once: Redis does nothing else meanwhile.
const BATCH: usize = 256;

impl Ownership for Redis {
    async fn claim(&self, sessions: &[SessionKey], former: Option<&str>) -> Result<Vec<Arc<str>>, ClusterError> {
        self.run("claim", sessions, former).await
    }

    async fn owner(&self, session: SessionKey) -> Result<Option<Arc<str>>, ClusterError> {
        let partition = keys::partition_of_digest(&session.0);
        let link = self.0.masters.link_of(partition).ok_or(ClusterError::Unavailable(None))?;
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(self.0.keys.session(&session.0));
        let answer = link.ask(&pipeline).await.and_then(|mut answers| read(answers.pop().unwrap_or_default()));
        Ok(answer.map_err(unavailable)?.map(Into::into))
    }

    async fn release(&self, sessions: &[SessionKey]) -> Result<(), ClusterError> {
        self.run("release", sessions, None).await.map(drop)
    }
}

impl Redis {
    /// Runs the script for each, those of one master together. Gives who owns each now, in their order.
    async fn run(
        &self,
        step: &str,
        sessions: &[SessionKey],
        former: Option<&str>,
    ) -> Result<Vec<Arc<str>>, ClusterError> {
        let incarnation = self.incarnation();
        let mut of_master = BTreeMap::<usize, Vec<usize>>::new();
        for (place, session) in sessions.iter().enumerate() {
            let master = self.0.masters.inboxes.owner_of(keys::partition_of_digest(&session.0));
            of_master.entry(master.ok_or(ClusterError::Unavailable(None))?).or_default().push(place);
        }
        let mut owners: Vec<Arc<str>> = vec!["".into(); sessions.len()];
        for places in
            of_master.into_values().flat_map(|places| places.chunks(BATCH).map(<[usize]>::to_vec).collect::<Vec<_>>())
        {
            let partition = keys::partition_of_digest(&sessions[places[0]].0);
            let link = self.0.masters.link_of(partition).ok_or(ClusterError::Unavailable(None))?;
            let mut pipeline = Pipeline::with_capacity(places.len());
            for place in &places {
                let mut call = link.scripts().session.call(&[&self.0.keys.session(&sessions[*place].0)]);
                call.arg(step).arg(&*incarnation).arg(millis(SESSION_LEASE)).arg(former.unwrap_or_default());
                pipeline.add_command(call);
            }
            let answers = link.ask(&pipeline).await.map_err(unavailable)?;
            for (place, answer) in places.into_iter().zip(answers) {
                owners[place] = read(answer).map_err(unavailable)?.unwrap_or_default().into();
            }
        }
        Ok(owners)
    }
}

fn read(answer: Value) -> RedisResult<Option<String>> {
    Ok(redis::from_redis_value(answer.extract_error()?)?)
}

fn unavailable(error: redis::RedisError) -> ClusterError {
    let HistoryError::Unavailable(cause) = history::unavailable(error);
    ClusterError::Unavailable(cause)
}
