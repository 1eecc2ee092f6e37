//! Chaos with real agents in network namespaces: processes die, stop and starve, links break, lose, turn one-way and heal,
//! and through all of it the dead vanish from every answer, the living never do, and in the end all agree.
//!
//! Five agents in every run; twenty with `cargo test --test chaos -- --ignored`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test outside the core's virtual time")]

mod field;
mod process;

use std::time::{Duration, Instant};

use field::{Field, Post};
use process::until;
use rustix::process::{Resource, Rlimit, Signal, prlimit};
use tokio::time::sleep;

/// A fault lasts as long as it lasts: the one thing here that is waited for by the clock.
async fn last(span: Duration) {
    sleep(span).await;
}

/// It lasts, and whenever any node is asked it shows the services of all.
async fn all_are_shown_while_it_lasts(field: &Field, span: Duration, during: &str) {
    let begun = Instant::now();
    while begun.elapsed() < span {
        for post in &field.posts {
            for other in &field.posts {
                assert!(post.shows(&other.node).await, "{during}: {} shows {} no more", post.node, other.node);
            }
        }
        last(Duration::from_millis(20)).await;
    }
}

/// Nobody was taken for dead who was not.
async fn nobody_died(field: &Field, marks: &[String], during: &str) {
    let died = field.seen_since(marks, "down").await;
    assert!(died.is_empty(), "{during}: {died:#?}");
}

/// A registration made now reaches everybody.
async fn news_travel(field: &Field, from: usize, name: &str) {
    field.posts[from].register(name).await;
    for post in &field.posts {
        post.until_shown(name, true).await;
    }
}

/// A crash, told by the last will; then one with nobody left to tell.
async fn crashes(field: &mut Field) {
    let crashed = field.posts.pop().unwrap();
    let node = crashed.node.clone();
    let marks = field.marks().await;
    crashed.agent.signal(Signal::KILL);
    for post in &field.posts {
        post.until_shown(&node, false).await;
    }
    field.until_all_see("down", &[&node]).await;
    // Who is not linked with those who read it, as just after a partition, may find out by itself.
    let deaths = field.seen_since(&marks, "down").await;
    let by_will = deaths.iter().filter(|death| death.contains("(\"will\")")).count();
    assert!(by_will * 2 > deaths.len(), "{deaths:#?}");
    drop(crashed);
    let silent = field.posts.pop().unwrap();
    let node = silent.node.clone();
    silent.agent.kill_both().await;
    for post in &field.posts {
        post.until_shown(&node, false).await;
    }
}

/// One node's links are cut: the others drop it, it keeps what it knew, and all is as before once the links are back.
async fn a_cut(field: &Field) {
    let cut = field.posts.last().unwrap();
    let others = &field.posts[..field.posts.len() - 1];
    cut.cut();
    for post in others {
        post.until_shown(&cut.node, false).await;
    }
    until("the one cut off knows that it is", async || {
        let events = cut.get("/api/v1/events").await;
        events.as_array().unwrap().iter().any(|event| event["event"] == "partition_began").then_some(())
    })
    .await;
    for post in others {
        assert!(cut.shows(&post.node).await, "it serves what it last knew");
    }
    cut.heal();
    field.until_all_see("alive", &field.nodes()).await;
    field.until_equal().await;
    for post in &field.posts {
        post.until_shown(&cut.node, true).await;
    }
}

/// The mesh falls into two halves, each goes on by itself, and they find together again.
async fn halves(field: &Field) {
    let (few, many) = field.posts.split_at(field.posts.len() / 2);
    for post in few {
        for other in many {
            post.rule(&format!("input ip saddr {} drop", other.address()));
            post.rule(&format!("output ip daddr {} drop", other.address()));
        }
    }
    for post in many {
        for other in few {
            post.until_shown(&other.node, false).await;
        }
    }
    many[0].register("of-many").await;
    few[0].register("of-few").await;
    few.last().unwrap().until_shown("of-few", true).await;
    many.last().unwrap().until_shown("of-many", true).await;
    few.iter().for_each(Post::heal);
    field.until_all_see("alive", &field.nodes()).await;
    for post in &field.posts {
        post.until_shown("of-many", true).await;
        post.until_shown("of-few", true).await;
    }
    field.until_equal().await;
}

/// A hears B, and B does not hear A: others hear both.
async fn one_way(field: &Field) {
    let marks = field.marks().await;
    let [a, b, ..] = &field.posts[..] else { panic!("two nodes at least") };
    b.rule(&format!("input ip saddr {} drop", a.address()));
    all_are_shown_while_it_lasts(field, Duration::from_secs(4), "a one-way link").await;
    nobody_died(field, &marks, "a one-way link").await;
    news_travel(field, 0, "one-way").await;
    b.heal();
}

/// Random loss at every node.
async fn loss(field: &Field, percent: u32, span: Duration) {
    let marks = field.marks().await;
    for post in &field.posts {
        post.rule(&format!("input iifname eth0 numgen random mod 100 < {percent} drop"));
    }
    news_travel(field, 1, &format!("loss-{percent}")).await;
    let during = format!("{percent} % loss");
    all_are_shown_while_it_lasts(field, span, &during).await;
    nobody_died(field, &marks, &during).await;
    field.posts.iter().for_each(Post::heal);
}

/// A process stops and goes on. It judges nobody for what it slept through, and is back whatever the others thought.
async fn a_pause(field: &Field, span: Duration) {
    let marks = field.marks().await;
    let paused = field.posts.last().unwrap();
    paused.agent.signal(Signal::STOP);
    last(span).await;
    paused.agent.signal(Signal::CONT);
    field.until_all_see("alive", &field.nodes()).await;
    for post in &field.posts {
        post.until_shown(&paused.node, true).await;
    }
    let mut died = field.seen_since(&marks, "down").await;
    if span > Duration::from_secs(1) {
        died.retain(|death| !death.contains(&format!(": \"{}\" ->", paused.node)));
    }
    assert!(died.is_empty(), "a pause of {span:?}: {died:#?}");
}

#[tokio::test]
async fn five_agents_survive_crashes_cuts_and_halves() {
    let Some(mut field) = Field::of(5).await else { return };
    a_cut(&field).await;
    halves(&field).await;
    crashes(&mut field).await;
}

#[tokio::test]
async fn five_agents_survive_loss_pauses_and_one_way_links() {
    let Some(field) = Field::of(5).await else { return };
    one_way(&field).await;
    loss(&field, 5, Duration::from_secs(2)).await;
    loss(&field, 30, Duration::from_secs(5)).await;
    a_pause(&field, Duration::from_millis(500)).await;
    a_pause(&field, Duration::from_secs(2)).await;
}

#[tokio::test]
#[ignore = "minutes: cargo test --test chaos -- --ignored"]
async fn twenty_agents_survive_everything() {
    let Some(mut field) = Field::of(20).await else { return };
    for percent in [1, 5, 30] {
        loss(&field, percent, Duration::from_secs(20)).await;
    }
    for millis in [500, 2_000, 10_000] {
        a_pause(&field, Duration::from_millis(millis)).await;
    }
    one_way(&field).await;
    a_cut(&field).await;
    halves(&field).await;
    crashes(&mut field).await;
}

#[tokio::test]
async fn a_small_mtu_carries_a_mesh() {
    let Some(mut field) = Field::new() else { return };
    for _ in 0..3 {
        field.add().await;
    }
    // 1280 is the least that IPv6 asks of a link (RFC 8200 section 5), and QUIC's own packets fit (RFC 9000 section 14).
    for post in &field.posts {
        post.run("ip link set eth0 mtu 1280");
    }
    let large = ["a", "b", "c", "d"].map(|key| format!("\"{key}\": \"{}\"", "x".repeat(250))).join(", ");
    let body = format!(r#"{{"name": "large", "port": 80, "meta": {{{large}}}}}"#);
    assert_eq!(field.posts[2].call("PUT", "/api/v1/registrations/large", &body).await.unwrap().0, 201);
    let (joined, late) = ("n3", field.add().await);
    late.run("ip link set eth0 mtu 1280");
    late.until_shown("large", true).await;
    field.until_all_see("alive", &["n0", "n1", "n2", joined]).await;
}

#[tokio::test]
async fn a_nat_that_forgets_a_mapping_takes_nobody_down() {
    if !process::installed("conntrack") {
        return;
    }
    let Some(mut field) = Field::new() else { return };
    for _ in 0..2 {
        field.add().await;
    }
    let (router, _) = field.add_behind_nat().await;
    field.until_all_see("alive", &["n0", "n1", "inside"]).await;
    news_travel(&field, 2, "before").await;
    let marks = field.marks().await;
    for _ in 0..3 {
        field::must(&format!("ip netns exec {router} conntrack -D -p udp"));
        last(Duration::from_secs(1)).await;
    }
    news_travel(&field, 2, "after").await;
    news_travel(&field, 0, "back").await;
    nobody_died(&field, &marks, "NAT rebinding").await;
}

#[tokio::test]
async fn a_node_whose_address_changes_is_found_at_the_new_one() {
    let Some(mut field) = Field::new() else { return };
    for _ in 0..3 {
        field.add_anywhere().await;
    }
    for (node, from, to) in [(2, "10.77.0.3", "10.77.9.3"), (0, "10.77.0.1", "10.77.9.1")] {
        let moving = &field.posts[node];
        moving.register(&moving.node).await;
        field.until_all_resolve(&moving.node, from).await;
        moving.run(&format!("ip addr del {from}/16 dev eth0"));
        moving.run(&format!("ip addr add {to}/16 dev eth0"));
        field.until_all_resolve(&moving.node, to).await;
        field.until_all_see("alive", &field.nodes()).await;
    }
    news_travel(&field, 0, "after").await;
}

#[tokio::test]
async fn a_node_that_was_there_before_its_network_is_found_once_that_is() {
    let Some(mut field) = Field::new() else { return };
    for _ in 0..2 {
        field.add_anywhere().await;
    }
    let (address, early) = field.add_too_early().await;
    early.register("web").await;
    early.until_resolved("web", "127.0.0.1").await;
    early.run(&format!("ip addr add {address}/16 dev eth0"));
    field.until_all_resolve("web", &address).await;
}

#[tokio::test]
async fn who_runs_out_of_file_descriptors_stays_in_the_mesh_and_recovers() {
    let Some(field) = Field::of(3).await else { return };
    let starved = &field.posts[2];
    let pid = starved.agent.pid();
    let limit = |most| {
        let both = Rlimit { current: Some(most), maximum: Some(FILES) };
        prlimit(Some(pid), Resource::Nofile, both).unwrap();
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).unwrap().count();
    let marks = field.marks().await;
    limit(open as u64);
    field.posts[0].register("meanwhile").await;
    field.posts[1].until_shown("meanwhile", true).await;
    last(Duration::from_secs(3)).await;
    limit(FILES);
    until("it answers again, and has heard what happened", async || {
        let answer = starved.call("GET", "/api/v1/services/meanwhile", "").await;
        answer
            .is_ok_and(|(status, rows)| status == 200 && rows.as_array().is_some_and(|rows| !rows.is_empty()))
            .then_some(())
    })
    .await;
    nobody_died(&field, &marks, "exhausted file descriptors").await;
}

#[tokio::test]
async fn who_has_no_room_on_its_disk_stays_in_the_mesh_and_hears_all() {
    let Some(mut field) = Field::new() else { return };
    for _ in 0..2 {
        field.add().await;
    }
    let full = field.add_on_a_small_disk().await.node.clone();
    field.until_all_see("alive", &["n0", "n1", &full]).await;
    let marks = field.marks().await;
    let text = "x".repeat(250);
    let body = format!(r#"{{"name": "large", "port": 80, "meta": {{"a": "{text}", "b": "{text}", "c": "{text}"}}}}"#);
    let mut stored = 0;
    while field.posts[2].call("PUT", &format!("/api/v1/registrations/large-{stored}"), &body).await.unwrap().0 == 201 {
        stored += 1;
        assert!(stored < 5_000, "the disk is not small");
    }
    let status = field.posts[2].get("/api/v1/status").await;
    assert!(status["unstored"].as_str().is_some_and(|why| why.contains("No space")), "{status}");
    news_travel(&field, 0, "meanwhile").await;
    last(Duration::from_secs(3)).await;
    nobody_died(&field, &marks, "a full disk").await;
    let shown = field.posts[0].get("/api/v1/services/large").await;
    assert_eq!(shown.as_array().unwrap().len(), stored, "what was acknowledged, and nothing else");
}

/// More than an agent of three nodes ever opens.
const FILES: u64 = 4_096;
