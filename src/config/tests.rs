//! What settings become, and whom a mistake is blamed on.

use std::{fs, os::unix::fs::PermissionsExt};

use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    folder
}

fn sources(folder: &TempDir) -> Sources {
    let secret = Secret::random().reveal().to_string();
    let environment = BTreeMap::from([("HOBNOB_SECRET".to_owned(), secret)]);
    Sources { files: vec![folder.path().to_path_buf()], environment, ..Sources::default() }
}

fn refusal(files: &[(&str, &str)]) -> Error {
    Config::load(&sources(&folder(files))).unwrap_err()
}

#[test]
fn a_flag_beats_the_environment_beats_a_file_beats_the_default() {
    let folder = folder(&[
        ("hobnob.toml", "node = \"n1\"\nzone = \"a\"\n[listen]\nhttp = \"127.0.0.1:1\"\ndns = \"127.0.0.1:1\"\n"),
        ("conf.d/10.toml", "zone = \"b\"\n"),
    ]);
    let mut sources = sources(&folder);
    sources.environment.insert("HOBNOB_LISTEN__HTTP".into(), "127.0.0.1:2".into());
    sources.environment.insert("HOBNOB_LISTEN__DNS".into(), "127.0.0.1:2".into());
    sources.environment.insert("HOBNOB_JOIN".into(), "10.0.0.1:7946, seeds.example.com".into());
    sources.flags.push(("--dns", "listen.dns", "127.0.0.1:3".into()));
    let config = Config::load(&sources).unwrap();
    assert_eq!((config.agent.node.as_str(), config.agent.zone.as_str()), ("n1", "b"));
    assert_eq!((config.listen.http.port(), config.listen.dns.port(), config.listen.mesh.port()), (2, 3, 7946));
    assert_eq!(config.agent.join, ["10.0.0.1:7946", "seeds.example.com:7946"]);
    assert_eq!(config.agent.data_dir.as_deref(), Some(Path::new(DATA_DIR)));
}

#[test]
fn an_unknown_key_is_blamed_with_file_line_and_a_guess() {
    let error = refusal(&[("hobnob.toml", "node = \"n1\"\n[listen]\nhtpp = \"127.0.0.1:1\"\n")]);
    assert!(error.place.ends_with("hobnob.toml, line 3"), "{error}");
    assert_eq!(error.why, "unknown key `htpp`; did you mean `http`?");
    let error = layer::variable("HOBNOB_LISTEN__HTPP", "x").unwrap_err();
    assert_eq!(error.to_string(), "HOBNOB_LISTEN__HTPP: unknown key `htpp`; did you mean `http`?");
    let error = layer::flag("--http", "listen.http", &"nowhere".into()).unwrap_err();
    assert_eq!(error.to_string(), "--http: is no IP address with a port, such as 127.0.0.1:8500 or [::]:7946");
}

#[test]
fn a_mistake_in_a_service_is_blamed_with_its_line() {
    let error = refusal(&[("hobnob.toml", "\n[[services]]\nname = \"a\"\n\n[[services]]\nname = \"b\"\nport = 0\n")]);
    assert!(error.place.ends_with("line 5"), "{error}");
    assert_eq!(error.why, "services[1].port is 0; a port is 1 to 65535");
    let error = refusal(&[
        ("hobnob.toml", "[[services]]\nname = \"a\"\n"),
        ("services.d/a.toml", "[[services]]\nname = \"a\"\n"),
    ]);
    assert!(error.why.contains("twice"), "{error}");
    let error = refusal(&[("services.d/a.toml", "node = \"x\"")]);
    assert!(error.why.contains("[[services]] alone"), "{error}");
}

#[test]
fn consul_s_service_files_are_read() {
    let text = r#"{"services": [{"ID": "web-1", "Name": "web", "Port": 80, "Tags": ["v2"], "EnableTagOverride": false,
        "Weights": {"Passing": 5}, "check": {"id": "alive", "ttl": "30s", "status": "passing",
        "deregister_critical_service_after": "1m"}}]}"#;
    let config = Config::load(&sources(&folder(&[("services.d/web.json", text)]))).unwrap();
    let [web] = &config.services[..] else { panic!("{:?}", config.services) };
    assert_eq!((web.id.as_str(), web.name.as_str(), web.weight), ("web-1", "web", 5));
    assert_eq!(web.checks[0].name.as_str(), "alive");
    let error = refusal(&[("services.d/web.json", "{\"service\": {\"name\": \"web\", \"prot\": 80}}")]);
    assert_eq!(error.why, "unknown key `prot`; did you mean `port`?");
}

#[test]
fn a_secret_file_is_for_its_owner_alone() {
    let secret = Secret::random().reveal().to_string();
    let folder = folder(&[("secret", &format!("# first signs\n{secret}\n")), ("wrong", "hunter2\n"), ("empty", "")]);
    let path = folder.path().join("secret");
    assert_eq!(secrets::read(&path).unwrap().len(), 1);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = secrets::read(&path).unwrap_err();
    assert!(error.why.contains("mode 640") && error.next.starts_with("chmod 600"), "{error:?}");
    assert!(!secrets::read(&folder.path().join("wrong")).unwrap_err().to_string().contains("hunter2"));
    assert!(secrets::read(&folder.path().join("empty")).unwrap_err().why.contains("no secret"));
    assert!(secrets::read(&folder.path().join("none")).unwrap_err().next.starts_with("hobnob keygen --out"));
}

#[test]
fn serving_needs_a_secret_and_trying_does_not() {
    let folder = folder(&[("hobnob.toml", "node = \"n1\"")]);
    let mut sources = Sources { files: vec![folder.path().into()], ..Sources::default() };
    assert!(Config::load(&sources).unwrap_err().next.starts_with("hobnob keygen"));
    sources.purpose = Purpose::Try;
    let config = Config::load(&sources).unwrap();
    assert!(config.agent.data_dir.is_none() && config.agent.listen.ip().is_loopback());
    sources.files = vec![folder.path().join("none.toml")];
    assert!(Config::load(&sources).is_err());
}

#[test]
fn what_is_shown_can_be_read_again() {
    let folder = folder(&[("hobnob.toml", "node = \"n1\"\nready_after = \"1m\"")]);
    let shown = show(&sources(&folder)).unwrap();
    assert!(shown.contains("ready_after = \"60000ms\""), "{shown}");
    layer::parse("shown", &shown).unwrap();
}

#[test]
fn kubernetes_may_talk_of_a_service_called_hobnob() {
    assert_eq!(layer::variable("HOBNOB_SERVICE_HOST", "10.0.0.1"), Ok(None));
    assert_eq!(layer::variable("HOBNOB_PORT_8500_TCP", "tcp://10.0.0.1"), Ok(None));
}

#[test]
fn a_seed_is_host_and_port() {
    for (text, seed) in
        [("10.0.0.1", "10.0.0.1:7946"), ("::1", "[::1]:7946"), ("[::1]:1", "[::1]:1"), ("a.b:2", "a.b:2")]
    {
        assert_eq!(String::from(text.parse::<Seed>().unwrap()), seed);
    }
    for bad in ["", ":1", "a:0", "a:65536", "a b:1", "a:b"] {
        assert!(bad.parse::<Seed>().is_err(), "{bad}");
    }
}
