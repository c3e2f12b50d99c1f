//! The promises of [`Cluster`].

use bytes::Bytes;

use super::{Recorder, World};
use crate::{Cluster, Delivery, NodeInfo, Target};

/// Every node is listed with what it told of itself.
pub async fn nodes_know_each_other<W: World>(world: &W) {
    let mut nodes = vec![world.node(Recorder::new()).await];
    if W::JOINS_NODES {
        nodes.push(world.node(Recorder::new()).await);
    }
    for (number, node) in nodes.iter().enumerate() {
        let name = format!("gw-{number}");
        node.announce(NodeInfo {
            name: name.as_str().into(),
            version: "1.2.3".into(),
            connections: 7,
            leaving: number == 0,
            ..NodeInfo::default()
        });
    }
    let deadline = tokio::time::Instant::now() + super::DEADLINE;
    loop {
        let known = nodes[0].nodes().await.expect("the backplane is there");
        let names: Vec<_> = known.iter().map(|node| &*node.info.name).collect();
        if names == ["gw-0", "gw-1"][..nodes.len()] {
            assert!(known.iter().all(|node| &*node.info.version == "1.2.3" && node.info.connections == 7));
            assert!(known.iter().all(|node| node.info.leaving == (&*node.info.name == "gw-0")));
            let mut expected: Vec<_> = nodes.iter().map(Cluster::incarnation).collect();
            let mut incarnations: Vec<_> = known.into_iter().map(|node| node.incarnation).collect();
            expected.sort();
            incarnations.sort();
            assert_eq!(incarnations, expected);
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{names:?}");
        world.pass(std::time::Duration::from_millis(20)).await;
    }
}

/// What is said to all reaches all, what is said to one reaches it and nobody else.
pub async fn a_signal_reaches_those_it_is_for<W: World>(world: &W) {
    let (here, elsewhere) = (Recorder::new(), Recorder::new());
    let node = world.node(here.clone()).await;
    let other = if W::JOINS_NODES { Some(world.node(elsewhere.clone()).await) } else { None };
    let last = Bytes::from_static(b"to all");
    let receiver = other.as_ref().unwrap_or(&node).incarnation();
    node.signal(Target::Node(receiver), Bytes::from_static(b"to one"), Delivery::Kept)
        .await
        .expect("the backplane is there");
    node.signal(Target::Node("nobody".into()), Bytes::from_static(b"to none"), Delivery::Live)
        .await
        .expect("the backplane is there");
    for delivery in [Delivery::Live, Delivery::Kept] {
        node.signal(Target::All, last.clone(), delivery).await.expect("the backplane is there");
    }
    for heard in [&here, &elsewhere] {
        if std::sync::Arc::ptr_eq(heard, &elsewhere) && !W::JOINS_NODES {
            continue;
        }
        let signals = heard
            .until("the signal to all", |heard| {
                let signals = heard.signals();
                (signals.iter().filter(|(_, message)| *message == last).count() == 2).then_some(signals)
            })
            .await;
        assert!(signals.iter().all(|(from, _)| *from == node.incarnation()));
        let is_receiver = other.is_none() || std::sync::Arc::ptr_eq(heard, &elsewhere);
        assert_eq!(signals.len(), if is_receiver { 3 } else { 2 }, "{signals:?}");
    }
}
