//! Where nodes are reached: what this one tells others, and what they told.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

use skywave_backplane::Cluster as _;
use tokio::{net::UdpSocket, sync::Mutex, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Known, PeerError, Peers};
use crate::config::Settings;

/// For how long a list of nodes counts as new.
const FRESH: Duration = Duration::from_secs(1);

/// The nodes that are alive, as the backplane last said. Bound: the nodes of the cluster.
#[derive(Default)]
pub(super) struct Whereabouts(Mutex<Option<Listed>>);

/// When they were listed, and by incarnation.
type Listed = (Instant, HashMap<Arc<str>, Arc<Known>>);

impl Peers {
    /// Where the node of an incarnation is; `None`: it is not any more.
    pub(super) async fn whereabouts_of(&self, incarnation: &str) -> Result<Option<Arc<Known>>, PeerError> {
        // One asks at a time, and the others have its answer.
        let mut known = self.whereabouts.0.lock().await;
        if let Some((at, nodes)) = &*known
            && at.elapsed() < FRESH
            && let Some(node) = nodes.get(incarnation)
        {
            return Ok(Some(node.clone()));
        }
        // A second-old list that lacks it does not say that it is dead: it may be new.
        let records = self.relay.backplane().nodes().await.map_err(|_| PeerError::Unavailable)?;
        let nodes: HashMap<_, _> = records
            .into_iter()
            .map(|record| {
                let (name, address) = (record.info.name, record.info.advertise);
                (record.incarnation.clone(), Arc::new(Known { name, incarnation: record.incarnation, address }))
            })
            .collect();
        self.forget_links(|incarnation| nodes.contains_key(incarnation));
        let found = nodes.get(incarnation).cloned();
        *known = Some((Instant::now(), nodes));
        Ok(found)
    }
}

/// How often it is tried again while this node does not know where it is.
const FIND_INTERVAL: Duration = Duration::from_secs(2);

/// Finds out what others are told, and puts it into `found`.
pub(crate) async fn find_address(
    settings: Arc<Settings>,
    listener: SocketAddr,
    found: Arc<OnceLock<Arc<str>>>,
    gone: CancellationToken,
) {
    if let Some(address) = &settings.node.advertise {
        let _ = found.set(address.as_str().into()); // nobody else sets it
        return;
    }
    let redis = settings.backplane.redis().first().map(|url| first_host(url.reveal()));
    if listener.ip().is_unspecified() && redis.is_none() {
        return; // a node alone
    }
    loop {
        if let Some(address) = address_towards(listener, redis.as_deref()).await {
            let _ = found.set(address.to_string().into());
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(FIND_INTERVAL) => {}
            () = gone.cancelled() => return,
        }
    }
}

/// The first `host:port` of a URL of Redis.
fn first_host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let hosts = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = hosts.rsplit_once('@').map_or(hosts, |(_, hosts)| hosts);
    let host = hosts.split(',').next().unwrap_or_default();
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
    if has_port { host.to_owned() } else { format!("{host}:6379") }
}

/// What others are told: the listener's address, or, where it listens on all, the one that this machine has towards
/// `redis`, a `host:port`. `None` while that is not known.
pub(crate) async fn address_towards(listener: SocketAddr, redis: Option<&str>) -> Option<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return Some(listener);
    }
    // Nothing is sent: the socket only says which way it would go.
    let redis = tokio::net::lookup_host(redis?).await.ok()?.next()?;
    let any: IpAddr = if redis.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(redis).await.ok()?;
    Some(SocketAddr::new(socket.local_addr().ok()?.ip(), listener.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_several_hosts_will_do() {
        for (url, host) in [
            ("redis://h", "h:6379"),
            ("rediss://u:p%40@h:7/0?x=y", "h:7"),
            ("redis://[::1]", "[::1]:6379"),
            ("redis-cluster://:p@a:1,b:2", "a:1"),
            ("redis-sentinel://a,b/name", "a:6379"),
        ] {
            assert_eq!(first_host(url), host);
        }
    }

    #[tokio::test]
    async fn a_listener_on_all_addresses_is_reached_where_redis_is() {
        let towards = async |listener: &str, redis| {
            address_towards(listener.parse().unwrap(), redis).await.map(|address| address.to_string())
        };
        assert_eq!(towards("10.1.2.3:8001", None).await.unwrap(), "10.1.2.3:8001");
        assert_eq!(towards("0.0.0.0:8001", Some("127.0.0.1:6379")).await.unwrap(), "127.0.0.1:8001");
        assert_eq!(towards("[::]:8001", Some("127.0.0.1:6379")).await.unwrap(), "127.0.0.1:8001");
        assert_eq!(towards("0.0.0.0:8001", None).await, None);
    }
}
