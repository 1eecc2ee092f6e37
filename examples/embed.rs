//! A node inside your own program: register, look up, pick, leave.
//!
//! `cargo run --example embed` runs two nodes in one process; real ones run on two machines and share the secret.

use hobnob::{Agent, Check, Registration, Secret, agent::Builder, secs};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let secret = Secret::random();
    let web_1 = node("web-1", &secret).start().await?;
    let app_1 = node("app-1", &secret).join([web_1.address().to_string()]).start().await?;
    app_1.ready().await?;

    // The guard withdraws the instance when it is dropped.
    let beat = Check::ttl(secs(30)).named("beat");
    let web = web_1.register(Registration::new("web", 8080).tag("v2").check(beat)).await?;
    web.heartbeat().await?;

    let mut index = app_1.view().subscribe();
    while app_1.pick("web").is_err() {
        index.changed().await?;
    }
    for instance in app_1.lookup("web").iter() {
        println!("{} on {} is {}", instance.registration.id, instance.node.name, instance.health());
    }
    let one = app_1.pick("web")?;
    println!("talk to {}:{}", one.address(), one.registration.port.map_or(0, u16::from));

    web.deregister().await?;
    app_1.leave().await;
    web_1.leave().await;
    Ok(())
}

/// A node on loopback, in memory; a real one needs only a name, the secret and somebody to join.
fn node(name: &str, secret: &Secret) -> Builder {
    Agent::builder().node(name).secret(secret.clone()).listen(([127, 0, 0, 1], 0).into())
}
