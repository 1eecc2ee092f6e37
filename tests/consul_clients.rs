//! Programs that people run against Consul, run against an agent of ours. Each test skips where its program is missing.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may look at clocks, and fails by panic")]

mod process;

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio};

use process::{Agent, Mesh, finish, hobnob, installed, until};
use serde_json::Value;
use tokio::process::Command;

/// An agent under this name at given addresses: one that a client can find again after a restart.
async fn start_at(mesh: &Mesh, node: &str, http: SocketAddr, dns: &str) -> Agent {
    let mut command = hobnob();
    command.args(["agent", "--node", node, "--mesh", "test", "--listen", "127.0.0.1:0", "--dns", dns]);
    command.args(["--http", &http.to_string()]);
    let ready = format!("{node}.ready");
    let places = [("--config", "empty"), ("--secret-file", "secret"), ("--data-dir", node), ("--ready-file", &*ready)];
    for (flag, place) in places {
        command.arg(flag).arg(mesh.path(place));
    }
    mesh.launch(node, &mut command).await
}

async fn put(agent: &Agent, path: &str, body: &str) {
    let (status, answer) = agent.call("PUT", path, body).await;
    assert_eq!(status, 200, "{path}: {answer}");
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The URLs that vmagent scrapes now, in order.
async fn targets(vmagent: SocketAddr) -> Option<Vec<String>> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", &format!("http://{vmagent}/api/v1/targets")]);
    let answer: Value = serde_json::from_str(&finish(&mut curl).await.out).ok()?;
    let active = answer["data"]["activeTargets"].as_array()?;
    let mut urls: Vec<_> = active.iter().filter_map(|target| target["scrapeUrl"].as_str().map(String::from)).collect();
    urls.sort();
    Some(urls)
}

async fn until_scraped(vmagent: SocketAddr, expected: &[&str]) {
    let what = format!("vmagent scrapes {expected:?}");
    until(&what, async || (targets(vmagent).await? == expected).then_some(())).await;
}

#[tokio::test]
async fn vmagent_follows_services_through_a_restart_of_their_agent() {
    if !installed("vmagent") || !installed("curl") {
        return;
    }
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    let register = "/v1/agent/service/register";
    put(&agent, register, r#"{"Name": "web", "ID": "web-1", "Address": "127.0.0.1", "Port": 11}"#).await;
    let config = format!(
        "scrape_configs:\n- job_name: mesh\n  consul_sd_configs:\n  - server: '{}'\n    services: [web]\n",
        agent.http
    );
    let config = mesh.file("scrape.yml", &config);
    let listen = free_port();
    let mut command = Command::new("vmagent");
    command.arg(format!("-promscrape.config={}", config.display())).arg(format!("-httpListenAddr={listen}"));
    command.args([
        "-remoteWrite.url=http://127.0.0.1:1/",
        "-promscrape.consulSDCheckInterval=1s",
        "-loggerLevel=ERROR",
    ]);
    command.arg(format!("-remoteWrite.tmpDataPath={}", mesh.path("vmagent").display()));
    let mut vmagent = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    until_scraped(listen, &["http://127.0.0.1:11/metrics"]).await;
    put(&agent, register, r#"{"Name": "web", "ID": "web-2", "Address": "127.0.0.1", "Port": 22}"#).await;
    until_scraped(listen, &["http://127.0.0.1:11/metrics", "http://127.0.0.1:22/metrics"]).await;
    let http = agent.http;
    agent.kill().await;
    let agent = start_at(&mesh, "n1", http, "127.0.0.1:0").await;
    put(&agent, "/v1/agent/service/deregister/web-1", "").await;
    until_scraped(listen, &["http://127.0.0.1:22/metrics"]).await;
    vmagent.kill().await.unwrap();
}

/// The ports that each of Prometheus' jobs scrapes now.
async fn ports_by_job(prometheus: SocketAddr) -> Option<BTreeMap<String, Vec<String>>> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", &format!("http://{prometheus}/api/v1/targets")]);
    let answer: Value = serde_json::from_str(&finish(&mut curl).await.out).ok()?;
    let mut jobs = BTreeMap::<_, Vec<_>>::new();
    for target in answer["data"]["activeTargets"].as_array()? {
        let url = target["scrapeUrl"].as_str()?.strip_suffix("/metrics")?;
        jobs.entry(target["labels"]["job"].as_str()?.to_owned()).or_default().push(url.rsplit(':').next()?.to_owned());
    }
    jobs.values_mut().for_each(|ports| ports.sort());
    Some(jobs)
}

async fn until_both_jobs_scrape(prometheus: SocketAddr, ports: &[&str]) {
    let what = format!("Prometheus scrapes {ports:?} by both of its ways");
    let both = |jobs: BTreeMap<String, Vec<String>>| jobs.len() == 2 && jobs.values().all(|found| found == ports);
    until(&what, async || both(ports_by_job(prometheus).await?).then_some(())).await;
}

/// Debian's Prometheus has no consul_sd, which vmagent has. It asks the system's resolver, which has no port to choose: the agent is that resolver, in a namespace of
/// Prometheus' own where a file says so.
#[tokio::test]
async fn prometheus_finds_the_same_by_http_and_by_dns() {
    if !["prometheus", "curl", "unshare"].into_iter().all(installed) {
        return;
    }
    const RESOLVER: &str = "127.0.86.53";
    let may_mount = finish(Command::new("unshare").args(["--mount", "true"])).await.code == Some(0);
    if !may_mount || std::net::UdpSocket::bind((RESOLVER, 53)).is_err() {
        eprintln!("skipped: only root can be the system's resolver, and {RESOLVER}:53 must be free");
        return;
    }
    let mesh = Mesh::new();
    let agent = start_at(&mesh, "n1", free_port(), &format!("{RESOLVER}:53")).await;
    let http = agent.http;
    let config = format!(
        "global: {{scrape_interval: 1h}}\nscrape_configs:\n\
         - job_name: http\n  http_sd_configs: [{{url: 'http://{http}/api/v1/prometheus?service=web', refresh_interval: 1s}}]\n\
         - job_name: dns\n  dns_sd_configs: [{{names: [web.service.mesh.internal], type: SRV, refresh_interval: 1s}}]\n"
    );
    let (config, resolv) = (mesh.file("prometheus.yml", &config), mesh.file("resolv.conf", "nameserver 127.0.86.53\n"));
    let register = "/v1/agent/service/register";
    put(&agent, register, r#"{"Name": "web", "ID": "web-1", "Address": "127.0.0.1", "Port": 11}"#).await;
    let listen = free_port();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#]).arg(resolv);
    command.arg("prometheus").arg(format!("--config.file={}", config.display()));
    command.arg(format!("--storage.tsdb.path={}", mesh.path("prometheus").display()));
    command.arg(format!("--web.listen-address={listen}"));
    let log = std::fs::File::create(mesh.path("prometheus.log")).unwrap();
    let mut prometheus = command.stdout(Stdio::null()).stderr(log).kill_on_drop(true).spawn().unwrap();
    until_both_jobs_scrape(listen, &["11"]).await;
    put(&agent, register, r#"{"Name": "web", "ID": "web-2", "Address": "127.0.0.1", "Port": 22}"#).await;
    until_both_jobs_scrape(listen, &["11", "22"]).await;
    // Its agent is started again under it, and what was registered is there as before.
    agent.kill().await;
    let agent = start_at(&mesh, "n1", http, &format!("{RESOLVER}:53")).await;
    put(&agent, "/v1/agent/service/deregister/web-1", "").await;
    until_both_jobs_scrape(listen, &["22"]).await;
    prometheus.kill().await.unwrap();
}

const PYTHON: &str = r#"
import consul, sys
c = consul.Consul(port=int(sys.argv[1]))
# Debian's is older than Consul 1.0, and writes by GET, which that refuses as we do.
def write(path, call, *args):
    return c.http.put(consul.base.CB.bool(), path) if consul.__version__ < "1" else call(*args)
c.agent.service.register("web", service_id="web-1", address="10.0.0.5", port=80, tags=["a"], check=consul.Check.ttl("1h"))
index, nodes = c.health.service("web", passing=True)
assert nodes == [], nodes
assert write("/v1/agent/check/pass/service:web-1", c.agent.check.ttl_pass, "service:web-1", "fine")
index, nodes = c.health.service("web", passing=True)
assert [n["Service"]["ID"] for n in nodes] == ["web-1"], nodes
later, nodes = c.health.service("web", index=index, wait="200ms")
assert later == index, (later, index)
assert c.catalog.services()[1] == {"web": ["a"]}, c.catalog.services()
assert list(c.agent.services()) == ["web-1"] and list(c.agent.checks()) == ["service:web-1"]
assert c.catalog.node("n1")[1]["Node"]["Node"] == "n1"
assert c.kv.get("nothing")[1] is None
assert c.status.leader() and c.agent.self()["Config"]["Datacenter"] == "dc1"
c.agent.maintenance(True, "why"); c.agent.maintenance(False)
c.agent.service.maintenance("web-1", True, "why")
assert c.health.service("web", passing=True)[1] == []
write("/v1/agent/service/deregister/web-1", c.agent.service.deregister, "web-1")
assert c.catalog.service("web")[1] == []
print("ok")
"#;

#[tokio::test]
async fn py_consul_registers_waits_and_leaves() {
    // Debian's package is for Debian's Python, which need not be the first one on the path.
    let mut found = 0;
    for python in ["python3", "/usr/bin/python3"] {
        if finish(Command::new(python).args(["-c", "import consul"])).await.code == Some(0) {
            let mesh = Mesh::new();
            let agent = mesh.start("n1", &[]).await;
            let ended = finish(Command::new(python).args(["-c", PYTHON, &agent.http.port().to_string()])).await;
            assert_eq!((ended.code, &*ended.out), (Some(0), "ok\n"), "{python}: {}", ended.err);
            found += 1;
        }
    }
    if found == 0 {
        eprintln!("skipped: no Python has the module `consul`; .ci/run installs it");
    }
}

const NODE: &str = r#"
const Consul = require("consul");
const consul = new Consul({ port: Number(process.argv[1]) });
const assert = require("assert");
(async () => {
  await consul.agent.service.register({ name: "web", id: "web-1", port: 80, check: { ttl: "1h" } });
  await consul.agent.check.pass("service:web-1");
  const found = await consul.health.service({ service: "web", passing: true });
  assert.strictEqual(found[0].Service.ID, "web-1");
  const watch = consul.watch({ method: consul.health.service, options: { service: "web", passing: true } });
  await new Promise((resolve, reject) => {
    watch.on("error", reject);
    watch.on("change", (now) => {
      if (now.length === 1) consul.agent.check.fail("service:web-1").catch(reject);
      else resolve();
    });
  });
  watch.end();
  await consul.agent.service.deregister("web-1");
  assert.deepStrictEqual(await consul.catalog.service.list(), {});
  console.log("ok");
})().catch((why) => { console.error(why); process.exit(1); });
"#;

#[tokio::test]
async fn node_consul_watches_a_check_fail() {
    if !installed("node") || !installed("npm") {
        return;
    }
    let modules = finish(Command::new("npm").args(["root", "--global"])).await.out;
    let node = |script: &str| {
        let mut command = Command::new("node");
        command.env("NODE_PATH", modules.trim()).args(["-e", script]);
        command
    };
    if finish(&mut node("require('consul')")).await.code != Some(0) {
        eprintln!("skipped: npm's module `consul` is not installed; .ci/run installs it");
        return;
    }
    let mesh = Mesh::new();
    let agent = mesh.start("n1", &[]).await;
    let ended = finish(node(NODE).arg(agent.http.port().to_string())).await;
    assert_eq!((ended.code, &*ended.out), (Some(0), "ok\n"), "{}", ended.err);
}
