//! A service as a stream of snapshots: what a load balancer would build its table from.
//!
//! `HOBNOB_SECRET=... cargo run --example watch -- web 10.0.0.1:7946` watches `web` in the mesh that is found there.

use futures_util::StreamExt;
use hobnob::agent::{Agent, Secret};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(service), Some(seed)) = (arguments.next(), arguments.next()) else {
        return Err("usage: watch SERVICE HOST:PORT".into());
    };
    let secret: Secret = std::env::var("HOBNOB_SECRET")?.parse()?;
    let watcher = format!("watch-{}", std::process::id());
    let agent = Agent::builder().node(&watcher).secret(secret).listen(([0; 8], 0).into()).join([seed]).start().await?;
    agent.ready().await?;

    let mut changes = agent.watch(&service);
    while let Some(now) = changes.next().await {
        let served: Vec<String> = now.served().map(|instance| format!("{}", instance.address())).collect();
        println!("{service}: {} of {} instances served: {}", served.len(), now.len(), served.join(" "));
    }
    Ok(())
}
