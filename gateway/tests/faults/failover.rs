//! Faults 9 to 11: sentinels, and a master that dies, stands still, or sits on the wrong side of a network cut in two.

use std::time::Duration;

use crate::{
    ledger::Word,
    node,
    redis::EMPTY,
    sentinel::Watched,
    traffic::{Outcome, PLAN, Plan, Traffic},
    wait::{last, until},
};

#[tokio::test]
async fn a_master_that_dies_is_a_delay() {
    let mut watched = Watched::start(1, EMPTY).await;
    let [paris, oslo] = node::pair(&watched.url(), &watched.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    watched.server(0).kill();
    watched.until_promoted(0).await;
    traffic.flow(10).await;
    traffic.end().await.assert_lost_what_was_on_its_way_at_most();
}

/// The zombie wakes up as a master and is made a replica.
#[tokio::test]
#[ignore = "long"]
async fn a_master_that_stands_still_is_a_delay() {
    let mut watched = Watched::start(1, EMPTY).await;
    let [paris, oslo] = node::pair(&watched.url(), &watched.url()).await;
    let traffic = Traffic::begin(PLAN, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    watched.server(0).stall();
    watched.until_promoted(0).await;
    traffic.flow(10).await;
    watched.server(0).resume();
    until("the old master to follow", async || watched.role(0).await.as_deref() == Some("slave")).await;
    traffic.flow(10).await;
    traffic.end().await.assert_lost_what_was_on_its_way_at_most();
}

/// Both sides publish on every channel for eight seconds; then there is one network again.
async fn partition(options: &[&str]) -> (Outcome, usize) {
    let watched = Watched::start(2, &[EMPTY, options].concat()).await;
    let [paris, oslo] = node::pair(&watched.url(), &watched.url()).await;
    let traffic = Traffic::begin(Plan { publishers: 2, ..PLAN }, &[&paris, &oslo]).await;
    traffic.flow(10).await;
    watched.part(0, &[&paris]);
    tokio::join!(last(Duration::from_secs(8)), watched.until_promoted(0));
    assert_eq!(watched.role(0).await.as_deref(), Some("master"), "there is one on each side");
    watched.heal();
    until("the old master to follow", async || watched.role(0).await.as_deref() == Some("slave")).await;
    traffic.flow(10).await;
    let outcome = traffic.end().await;
    let verdicts = outcome.judge();
    let overwritten = verdicts.iter().map(|(.., verdict)| verdict.overwritten).max().unwrap();
    (outcome, overwritten)
}

#[tokio::test]
#[ignore = "long"]
async fn what_a_cut_off_master_acknowledged_is_told_to_those_who_saw_it() {
    let (outcome, overwritten) = partition(&[]).await;
    println!("at most {overwritten} of a channel were acknowledged and lost");
    for (name, record) in &outcome.records {
        for (channel, account) in &record.channels {
            let told = account.told();
            if name.contains("paris") {
                assert!(told.contains(&Word::Rollback), "{name} of {channel}: {told:?}");
            } else {
                assert_eq!(told, [], "{name} of {channel} has lost nothing of its line");
            }
        }
    }
}

#[tokio::test]
#[ignore = "long"]
async fn a_cut_off_master_that_needs_a_replica_acknowledges_little() {
    let (_, with) = partition(&["--min-replicas-to-write", "1", "--min-replicas-max-lag", "2"]).await;
    println!("at most {with} of a channel were acknowledged and lost");
    // Three seconds at one every 30 ms, of the eight.
    assert!(with < 130, "{with} of a channel were acknowledged and lost");
}
