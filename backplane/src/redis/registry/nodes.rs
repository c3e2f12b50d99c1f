//! Who is alive, and a way to speak to them.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use redis::{RedisResult, Value};
use skywave_proto::{Payload, v1};

use super::{Registry, control, policy, whole};
use crate::{
    Cluster, ClusterError, Delivery, Durability, HistoryError, NewPublication, NodeInfo, NodeRecord, PublishError,
    Target,
    redis::{Redis, history},
};

impl Registry {
    async fn nodes(&self) -> RedisResult<Vec<NodeRecord>> {
        let link = self.link().ok_or((redis::ErrorKind::Io, "the master of the registry is away"))?;
        let keys = self.keys();
        let mut pipeline = redis::pipe();
        pipeline.cmd("TIME");
        pipeline.cmd("ZRANGE").arg(keys.registry("n")).arg(0).arg(-1).arg("WITHSCORES");
        pipeline.cmd("SMEMBERS").arg(keys.registry("nr"));
        let mut answers = link.ask(&pipeline).await?.into_iter().map(Value::extract_error);
        let mut next = || answers.next().unwrap_or(Ok(Value::Nil));
        let (seconds, micros): (u64, u64) = redis::from_redis_value(next()?)?;
        let beats: Vec<(String, f64)> = redis::from_redis_value(next()?)?;
        let resigned: BTreeSet<String> = redis::from_redis_value(next()?)?;
        let now_ms = seconds * 1000 + micros / 1000;
        let age = |beat: f64| Duration::from_millis(now_ms.saturating_sub(whole(beat)));
        let alive: Vec<_> = beats
            .into_iter()
            .map(|(incarnation, beat)| (incarnation, age(beat)))
            .filter(|(incarnation, age)| *age <= self.0.lease && !resigned.contains(incarnation))
            .collect();
        if alive.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::pipe();
        for (incarnation, _) in &alive {
            pipeline.cmd("GET").arg(keys.registry(&format!("n:{incarnation}")));
        }
        let mut records = Vec::with_capacity(alive.len());
        for ((incarnation, beat_age), answer) in alive.into_iter().zip(link.ask(&pipeline).await?) {
            let info: Option<Vec<u8>> = redis::from_redis_value(answer.extract_error()?)?;
            let info = decode(&info.unwrap_or_default());
            records.push(NodeRecord { incarnation: incarnation.into(), info, beat_age });
        }
        records.sort_by(|a, b| (&a.info.name, &a.incarnation).cmp(&(&b.info.name, &b.incarnation)));
        Ok(records)
    }
}

impl Cluster for Redis {
    fn incarnation(&self) -> Arc<str> {
        self.0.registry.0.incarnation.read().clone()
    }

    fn announce(&self, info: NodeInfo) {
        *self.0.registry.0.info.lock() = info;
    }

    async fn nodes(&self) -> Result<Vec<NodeRecord>, ClusterError> {
        self.0.registry.nodes().await.map_err(|error| {
            let HistoryError::Unavailable(cause) = history::unavailable(error);
            ClusterError::Unavailable(cause)
        })
    }

    async fn signal(&self, to: Target, message: Bytes, delivery: Delivery) -> Result<(), ClusterError> {
        let channel = match &to {
            Target::All => control(None, delivery),
            Target::Node(incarnation) => control(Some(incarnation), delivery),
        };
        let signal = v1::Carried { from: self.incarnation().to_string(), message };
        let published = self.0.masters.publish(&NewPublication {
            channel,
            payload: Payload::binary(signal.encode_to_vec().into()),
            client: None,
            user: None,
            published_at_ms: 0,
            key: None,
            history: policy(delivery),
            durability: Durability::Accepted,
        });
        match published.await {
            Ok(_) => Ok(()),
            Err(PublishError::Unavailable { source, .. }) => Err(ClusterError::Unavailable(source)),
            Err(error) => Err(ClusterError::Unavailable(Some(Arc::new(error)))),
        }
    }
}

pub(super) fn encode(info: &NodeInfo) -> Vec<u8> {
    let info = v1::NodeInfo {
        name: info.name.to_string(),
        version: info.version.to_string(),
        started_at_ms: info.started_at_ms,
        connections: info.connections,
        channels: info.channels,
        advertise: info.advertise.to_string(),
    };
    info.encode_to_vec()
}

fn decode(bytes: &[u8]) -> NodeInfo {
    // A newer version's: what is not known is left out.
    let info = v1::NodeInfo::decode(bytes).unwrap_or_default();
    NodeInfo {
        name: info.name.into(),
        version: info.version.into(),
        started_at_ms: info.started_at_ms,
        connections: info.connections,
        channels: info.channels,
        advertise: info.advertise.into(),
    }
}
