//! First join and last leave are exact.
#![allow(missing_docs)]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use skywave_proto::ChannelName;

#[tokio::test]
async fn members_joins_and_leaves_are_seen_by_those_who_ask() {
    let node = support::node(&[]).await;
    let mut ada = node.socket("/ws").await;
    let id = ada.ask(json!({"connect": {"info": {"name": "Ada"}}})).await["connected"]["client"].clone();
    let reply = ada.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let own = json!({"client": id, "info": {"name": "Ada"}});
    assert_eq!((&reply["subscribed"]["members"], &reply["subscribed"]["total"]), (&json!([own]), &json!(1)));

    let mut bob = node.socket("/ws").await;
    let bobs_id = bob.ask(json!({"connect": {"info": {"name": "Bob"}}})).await["connected"]["client"].clone();
    let reply = bob.ask(json!({"subscribe": {"channel": "a"}})).await;
    assert!(reply["subscribed"].get("members").is_none(), "bob did not ask");
    let join = ada.push("join").await;
    assert_eq!(join, json!({"channel": "a", "member": {"client": bobs_id, "info": {"name": "Bob"}}}));

    let listed = bob.ask(json!({"presence": {"channel": "a"}})).await;
    assert_eq!(listed["presence"]["total"], 2);
    bob.ask(json!({"unsubscribe": {"channel": "a"}})).await;
    assert_eq!(ada.push("leave").await["member"]["client"], bobs_id);
}

#[tokio::test]
async fn a_close_by_the_client_is_a_leave_at_once_and_a_cut_waits_for_the_client_to_come_back() {
    let node = support::node(&[("SKYWAVE__TIMEOUTS__SESSION_GRACE", "3s")]).await;
    let mut watcher = node.client(&[]).await;
    watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;

    let mut client = node.socket("/ws").await;
    let connected = client.ask(json!({"connect": {}})).await["connected"].clone();
    client.ask(json!({"subscribe": {"channel": "a"}})).await;
    assert_eq!(watcher.push("join").await["member"]["client"], connected["client"]);
    drop(client);

    let mut back = node.socket("/ws").await;
    let subscribe = json!({"connect": {"session": connected["session"], "subscribe": [{"channel": "a"}]}});
    assert_eq!(back.ask(subscribe).await["connected"]["client"], connected["client"]);

    let mut other = node.client(&["a"]).await;
    assert_ne!(watcher.push("join").await["member"]["client"], connected["client"], "the client had never left");
    other.stream.close(None).await.unwrap();
    back.stream
        .close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 1000.into(), reason: "".into() }))
        .await
        .unwrap();
    assert_eq!(watcher.push("leave").await["member"]["client"], connected["client"], "1000 is a leave at once");
    watcher.push("leave").await; // without a code the grace is waited for, and ends
}

#[tokio::test]
async fn a_storm_of_joins_and_leaves_ends_in_the_truth() {
    let node = support::node(&[]).await;
    let mut watcher = node.client(&[]).await;
    let reply = watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let mut seen: BTreeSet<_> =
        reply["subscribed"]["members"].as_array().unwrap().iter().map(|m| m["client"].to_string()).collect();
    let mut clients = Vec::new();
    for n in 0..30 {
        let mut client = node.client(&["a"]).await;
        if n % 3 == 0 {
            client.ask(json!({"unsubscribe": {"channel": "a"}})).await;
        }
        clients.push(client);
    }
    while seen.len() != 21 {
        let event = watcher.next().await;
        if let Some(client) = event.pointer("/join/member/client") {
            assert!(seen.insert(client.to_string()), "joined twice");
        } else if let Some(client) = event.pointer("/leave/member/client") {
            assert!(seen.remove(&client.to_string()), "left without having joined");
        }
    }
    let listed = watcher.ask(json!({"presence": {"channel": "a"}})).await;
    let listed: BTreeSet<_> =
        listed["presence"]["members"].as_array().unwrap().iter().map(|m| m["client"].to_string()).collect();
    assert_eq!(listed, seen);
}

#[tokio::test]
async fn after_a_gap_followers_get_the_list_again_and_stay() {
    let node = support::node(&[]).await;
    let (sink, channel) = (node.node.sink(), ChannelName::parse("a").unwrap());
    let mut followers = Vec::new();
    for _ in 0..4 {
        let mut client = node.client(&[]).await;
        let reply = client.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
        assert!(reply["subscribed"]["members"].is_array(), "{reply}");
        followers.push(client);
    }
    let mut other = node.client(&["a"]).await;
    let position = node.publish("a", json!(1)).await["position"].take();
    sink.presence_gap(&channel);
    for follower in &mut followers {
        let list = follower.push("subscribed").await;
        assert_eq!((&list["channel"], &list["total"], &list["position"]), (&json!("a"), &json!(5), &position));
        assert_eq!(list["members"].as_array().unwrap().len(), 5);
    }
    let late = node.client(&["a"]).await;
    for follower in &mut followers {
        assert!(follower.push("join").await["member"]["client"].is_string(), "changes go on behind the list");
    }
    drop(late);
    node.publish("a", json!(2)).await;
    assert_eq!(other.next().await["publication"]["data"], 1);
    assert_eq!(other.next().await["publication"]["data"], 2, "who did not ask for members hears nothing of it");
}

#[tokio::test]
async fn gaps_in_the_middle_of_joins_and_leaves_end_in_the_truth() {
    let node = support::node(&[]).await;
    let (sink, channel) = (node.node.sink(), ChannelName::parse("a").unwrap());
    let mut watcher = node.client(&[]).await;
    let clients = |members: &Value| -> BTreeSet<String> {
        members.as_array().unwrap().iter().map(|member| member["client"].to_string()).collect()
    };
    let reply = watcher.ask(json!({"subscribe": {"channel": "a", "presence": true}})).await;
    let mut seen = clients(&reply["subscribed"]["members"]);
    let mut members = Vec::new();
    for n in 0..60 {
        let mut member = node.client(&["a"]).await;
        if n % 20 == 7 {
            sink.presence_gap(&channel);
        }
        if n % 3 == 0 {
            member.ask(json!({"unsubscribe": {"channel": "a"}})).await;
        }
        members.push(member);
    }
    let mut lists = 0;
    while seen.len() != 41 || lists == 0 {
        let push = watcher.next().await;
        if let Some(list) = push.get("subscribed") {
            seen = clients(&list["members"]);
            assert_eq!(list["total"], seen.len());
            lists += 1;
        } else if let Some(client) = push.pointer("/join/member/client") {
            assert!(seen.insert(client.to_string()), "joined twice");
        } else if let Some(client) = push.pointer("/leave/member/client") {
            assert!(seen.remove(&client.to_string()), "left without having joined");
        }
    }
    let listed = watcher.ask(json!({"presence": {"channel": "a"}})).await;
    assert_eq!(clients(&listed["presence"]["members"]), seen);
}

#[tokio::test]
async fn presence_that_is_off_is_refused_with_the_setting() {
    let closed = "{ subscribe = \"anyone\" }";
    let node = support::node(&[("SKYWAVE__NAMESPACES__OFF", closed)]).await;
    let mut client = node.client(&["off:a"]).await;
    for command in
        [json!({"presence": {"channel": "off:a"}}), json!({"subscribe": {"channel": "off:b", "presence": true}})]
    {
        let error = client.ask(command).await["error"].clone();
        assert_eq!(error["code"], "bad_request");
        assert!(error["message"].as_str().unwrap().contains("namespaces.off.presence"), "{error}");
    }
}

/// A page that mounts its effect twice does just that: the answers to the first subscription must not be taken for
/// those to the second.
#[tokio::test]
async fn subscribing_again_at_once_gets_members_and_what_follows() {
    let node = support::node(&[]).await;
    let mut keepers = Vec::new();
    for _ in 0..4 {
        keepers.push(node.client(&["a"]).await); // the channel is live on every shard
    }
    for _ in 0..20 {
        let mut client = node.client(&[]).await;
        let commands = [
            json!({"subscribe": {"channel": "a"}}),
            json!({"unsubscribe": {"channel": "a"}}),
            json!({"id": 1000, "subscribe": {"channel": "a", "presence": true}}),
        ];
        client.send(commands.map(|command| command.to_string()).join("\n")).await;
        let reply = client.reply(1000).await;
        assert_eq!(reply["subscribed"]["total"], 5, "{reply}");
        let late = node.client(&["a"]).await;
        assert!(client.push("join").await["member"]["client"].is_string());
        for mut leaving in [late, client] {
            leaving.ask(json!({"unsubscribe": {"channel": "a"}})).await;
        }
    }
}
