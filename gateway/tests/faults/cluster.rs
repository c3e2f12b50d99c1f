//! A Redis Cluster: three masters with a replica each.

use std::collections::BTreeMap;

use crate::{
    redis::{EMPTY, Redis, free_port},
    wait::until,
};

const SLOTS: u16 = 16384;
const MASTERS: usize = 3;

/// See the module. Ends when it is dropped.
pub struct Cluster {
    pub servers: Vec<Redis>,
    bus: Vec<String>,
    ids: Vec<String>,
}

impl Cluster {
    /// Returns when all of it is well.
    pub async fn start() -> Self {
        let mut cluster = Self::apart().await;
        cluster.form().await;
        cluster
    }

    /// Servers that do not know each other yet, and have no slots.
    pub async fn apart() -> Self {
        let mut servers = Vec::new();
        let mut bus = Vec::new();
        for _ in 0..2 * MASTERS {
            bus.push(free_port().to_string());
            let more = [
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus[bus.len() - 1],
                "--cluster-node-timeout",
                "2000",
                "--cluster-allow-pubsubshard-when-down",
                "no",
                "--cluster-replica-validity-factor",
                "0",
            ];
            servers.push(Redis::start(&[EMPTY, &more].concat()).await);
        }
        Self { servers, bus, ids: Vec::new() }
    }

    /// Makes a cluster of them.
    pub async fn form(&mut self) {
        for (place, server) in self.servers.iter().enumerate() {
            self.ids.push(server.command::<String>(&["CLUSTER", "MYID"]).await);
            server.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]).await;
            if let Ok(place) = u16::try_from(place)
                && usize::from(place) < MASTERS
            {
                let share = SLOTS / 3 + 1;
                let (first, last) = (place * share, ((place + 1) * share).min(SLOTS) - 1);
                server.command::<()>(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            }
        }
        for (server, bus) in self.servers.iter().zip(&self.bus).skip(1) {
            self.servers[0].command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &server.port().to_string(), bus]).await;
        }
        self.until_all("to know each other", |info| info.contains("cluster_known_nodes:6")).await;
        for place in MASTERS..2 * MASTERS {
            let master = &self.ids[place - MASTERS];
            // It may not have heard yet that the other is a master.
            let replicate = ["CLUSTER", "REPLICATE", master];
            until("a replica", async || self.servers[place].try_command(&replicate).await.is_ok()).await;
            self.until_follows(place).await;
        }
        self.until_all("to be well", |info| info.contains("cluster_state:ok")).await;
    }

    /// How nodes find it.
    pub fn url(&self) -> String {
        let seeds: Vec<_> = self.servers.iter().map(|server| server.address().to_string()).collect();
        format!("redis-cluster://{}", seeds.join(","))
    }

    /// Waits until every server that runs says so.
    pub async fn until_all(&self, what: &str, holds: impl Fn(&str) -> bool) {
        for server in self.servers.iter().filter(|server| server.is_running()) {
            until(&format!("the servers {what}"), async || {
                let info = server.try_command(&["CLUSTER", "INFO"]).await;
                info.is_ok_and(|info| redis::from_redis_value::<String>(info).is_ok_and(|info| holds(&info)))
            })
            .await;
        }
    }

    /// Waits until this one follows a master.
    pub async fn until_follows(&self, place: usize) {
        until("the replica to follow its master", async || {
            let info: String = self.servers[place].command(&["INFO", "replication"]).await;
            info.contains("role:slave") && info.contains("master_link_status:up")
        })
        .await;
    }

    pub async fn is_master(&self, place: usize) -> bool {
        let info = self.servers[place].try_command(&["INFO", "replication"]).await;
        info.is_ok_and(|info| redis::from_redis_value::<String>(info).is_ok_and(|info| info.contains("role:master")))
    }

    /// The slots of the keys that a server has under a pattern.
    pub async fn slots(&self, place: usize, pattern: &str) -> Vec<u16> {
        let keys: Vec<String> = self.servers[place].command(&["KEYS", pattern]).await;
        let mut slots = BTreeMap::new();
        for key in keys {
            slots.insert(self.servers[place].command::<u16>(&["CLUSTER", "KEYSLOT", &key]).await, ());
        }
        slots.into_keys().collect()
    }

    /// Moves a slot with all its keys, as `redis-cli --cluster reshard` does.
    pub async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let slot = slot.to_string();
        let (source, target) = (&self.servers[from], &self.servers[to]);
        target.command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]).await;
        source.command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]).await;
        let port = target.port().to_string();
        loop {
            let keys: Vec<String> = source.command(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]).await;
            if keys.is_empty() {
                break;
            }
            let migrate = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
            let keys = keys.iter().map(String::as_str);
            source.command::<()>(&migrate.into_iter().chain(keys).collect::<Vec<_>>()).await;
        }
        for server in [target, source] {
            server.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]]).await;
        }
    }
}
