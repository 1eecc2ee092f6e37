//! What settings become, and whom a mistake is blamed on.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use tempfile::TempDir;

use super::*;
use crate::model::{Alias, CheckKind, Rules};

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
    let mistakes = Config::load(&sources(&folder(files))).unwrap_err();
    let [error] = mistakes.all() else { panic!("{mistakes}") };
    error.clone()
}

/// A wrong text's mistakes: the line and the reason of each.
fn mistakes(name: &str, text: &str) -> Vec<(usize, String)> {
    let mistakes = Config::load(&sources(&folder(&[(name, text)]))).unwrap_err();
    let line = |error: &Error| error.place.rsplit(' ').next().unwrap().parse().unwrap();
    mistakes.all().iter().map(|error| (line(error), error.why.clone())).collect()
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
fn a_file_that_is_none_is_blamed_and_not_waited_for() {
    let folder = folder(&[("hobnob.toml", "node = \"n1\"\n")]);
    let settings = folder.path().join("conf.d");
    let services = folder.path().join("services.d");
    let secret = folder.path().join("secret");
    fs::create_dir(&settings).unwrap();
    fs::create_dir(&services).unwrap();
    let pipes = [settings.join("a.toml"), services.join("p.json"), services.join("p.toml"), secret.clone()];
    assert!(std::process::Command::new("mkfifo").arg("-m").arg("600").args(&pipes).status().unwrap().success());
    let mut sources = sources(&folder);
    sources.flags.push(("--secret-file", "secret_file", secret.to_str().unwrap().into()));
    let mistakes = Config::load(&sources).unwrap_err();
    let told: Vec<_> = mistakes.all().iter().map(|error| (Path::new(&error.place), &*error.why)).collect();
    assert_eq!(told, pipes.each_ref().map(|pipe| (&**pipe, "is no regular file")));
}

#[test]
fn a_script_is_refused_where_scripts_are_off() {
    let script = "[[services]]\nname = \"a\"\nport = 1\n\n[[services]]\nname = \"b\"\nport = 2\n\
                  checks = [{ttl = \"1s\"},\n{script = [\"/bin/true\"]}]\n";
    let error = refusal(&[("hobnob.toml", "node = \"n1\"\n"), ("services.d/b.toml", script)]);
    assert!(error.place.ends_with("services.d/b.toml, line 9"), "{error}");
    assert!(error.why.contains("checks[1] of \"b\"") && error.why.contains("script_checks = true"), "{error}");
    let on = folder(&[("hobnob.toml", "node = \"n1\"\nscript_checks = true\n"), ("services.d/b.toml", script)]);
    assert_eq!(Config::load(&sources(&on)).unwrap().services.len(), 2);
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
    assert!(error.place.ends_with("line 7"), "{error}");
    assert_eq!(error.why, "services[1].port is 0; a port is 1 to 65535");
    let error = refusal(&[
        ("hobnob.toml", "[[services]]\nname = \"a\"\n"),
        ("services.d/a.toml", "[[services]]\nname = \"a\"\n"),
    ]);
    assert!(error.place.ends_with("a.toml, line 1") && error.why.contains("hobnob.toml, line 1"), "{error}");
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
    assert_eq!((web.id.as_str(), web.name.as_str(), web.weight, web.warning_weight), ("web-1", "web", 5, Some(1)));
    assert_eq!(web.checks[0].name.as_str(), "Service 'web' check");
    let text = r#"{"service": {"name": "db", "port": 1, "weights": {"warning": 2}, "Checks": [
        {"CheckID": "a", "Name": "A", "HTTP": "https://127.0.0.1/x", "TLSSkipVerify": true, "Interval": "10s",
         "Header": {"Accept": ["a", "b"]}, "SuccessBeforePassing": 2, "FailuresBeforeCritical": 3, "Notes": ""},
        {"http": "http://127.0.0.1/", "tls_skip_verify": true, "disable_redirects": true, "interval": "10s"},
        {"args": ["/bin/true"], "interval": "10s", "timeout": "1s"}, {"alias_service": "web"},
        {"grpc": "127.0.0.1:1/x", "grpc_use_tls": true, "interval": "5s"}, {"alias_node": "b"},
        {"alias_service": "web", "alias_node": "b"}]}}"#;
    let scripts = ("hobnob.toml", "script_checks = true\n");
    let config = Config::load(&sources(&folder(&[scripts, ("services.d/db.json", text)]))).unwrap();
    let checks = &config.services[0].checks;
    assert_eq!((config.services[0].weight, config.services[0].warning_weight), (1, Some(2)));
    assert_eq!((checks[0].id.as_str(), checks[0].name.as_str(), checks[0].rise, checks[0].fall), ("a", "A", 2, 3));
    let CheckKind::Http(http) = &checks[0].kind else { panic!("{checks:?}") };
    assert_eq!((http.headers["Accept"].as_str(), http.redirects), ("a, b", 10));
    assert!(http.tls.as_ref().is_some_and(|tls| !tls.verify));
    assert_eq!(
        checks[..5].iter().map(|check| check.kind.as_str()).collect::<Vec<_>>(),
        ["http", "http", "script", "alias", "grpc"]
    );
    let alias = |of: &str, node| CheckKind::Alias(Alias { of: of.try_into().unwrap(), node });
    assert_eq!(
        [&checks[5].kind, &checks[6].kind],
        [&alias("b", None), &alias("web", Some("b".try_into().unwrap()))],
        "a node alone is what the check stands for"
    );
    let ids: Vec<_> = checks[..5].iter().map(|check| check.id.as_str()).collect();
    assert_eq!(ids, ["a", "service:db:2", "service:db:3", "service:db:4", "service:db:5"], "as Consul numbers them");
    assert_eq!((checks[1].name.as_str(), checks[1].rules), ("Service 'db' check", Rules::Consul));
    let lost = refusal(&[(
        "services.d/a.json",
        r#"{"service": {"name": "a", "check": {"docker_container_id": "x", "ttl": "1s"}}}"#,
    )]);
    assert!(lost.why.contains("docker_container_id"), "{lost}");
    let error = refusal(&[("services.d/web.json", "{\"service\": {\"name\": \"web\", \"prot\": 80}}")]);
    assert_eq!(error.why, "service: unknown key `prot`; did you mean `port`?");
}

#[test]
fn consul_s_words_without_a_meaning_here_are_kept() {
    let text = r#"{"service": {"name": "filesvc", "id": "f1", "port": 80, "enable_tag_override": true,
        "TaggedAddresses": {"wan": {"Address": "1.2.3.4", "Port": 9}},
        "check": {"id": "c1", "name": "my", "notes": "nn", "ttl": "600s", "failures_before_critical": 3}}}"#;
    let config = Config::load(&sources(&folder(&[("services.d/f.json", text)]))).unwrap();
    let (service, echo) = (&config.services[0], config.services[0].echo.as_ref().unwrap());
    assert_eq!((service.checks[0].id.as_str(), service.checks[0].fall), ("c1", 1));
    assert!(echo.enable_tag_override);
    assert_eq!(echo.tagged_addresses["wan"], ("1.2.3.4".into(), 9));
    let said = &echo.checks[&service.checks[0].id];
    assert_eq!((said.notes.as_str(), said.kind.as_str()), ("nn", "ttl"));
    let wrong = refusal(&[(
        "services.d/f.json",
        "{\"service\": {\"name\": \"a\", \"tagged_addresses\": {\n\"wan\": {\"address\": \"a b\"}}}}",
    )]);
    assert!(wrong.place.ends_with("line 2") && wrong.why.contains("tagged_addresses.wan"), "{wrong}");
}

#[test]
fn every_mistake_of_a_file_is_told_with_its_line() {
    let text = "nod = \"a\"\nzone = 3\njoin = [\"a:0\", \"b:1\"]\n[listen]\nhtpp = \"x\"\ndns = \"nowhere\"\n\
                [[services]]\nname = \"a b\"\nport = 0\ntags = [\"ok\", \"\\t\", \"\\n\"]\n[[services.checks]]\n\
                tll = \"1s\"\n[[services]]\nport = 1\n";
    let found = mistakes("hobnob.toml", text);
    let lines: Vec<usize> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [1, 2, 3, 5, 6, 8, 9, 10, 10, 12, 13], "{found:#?}");
    let said = |line: usize, words: &str| found.iter().any(|(at, why)| *at == line && why.contains(words));
    for (line, words) in [
        (1, "did you mean `node`?"),
        (3, "port 0"),
        (5, "did you mean `http`?"),
        (6, "no IP address"),
        (8, "services[0].name"),
        (9, "services[0].port is 0"),
        (10, "services[0].tags[1]"),
        (10, "services[0].tags[2]"),
        (12, "did you mean `ttl`?"),
        (13, "services[1].name is missing"),
    ] {
        assert!(said(line, words), "{line} {words}: {found:#?}");
    }
    let found = mistakes("conf.d/a.toml", "node =\nzone = \"a\nmesh = \"b\"\n");
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2], "{found:?}");
}

#[test]
fn every_mistake_of_consul_s_json_is_told_with_its_line() {
    let text = "{\"services\": [\n{\"Name\": \"web\",\n \"port\": \"80\",\n \"connect\": {\"native\": true},\n \
                \"check\": {\"tll\": \"1s\"}},\n{\"name\": \"db\", \"tags\": [\"\\t\"],\n \"meta\": {\"\": \"v\"}}]}";
    let found = mistakes("services.d/a.json", text);
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [3, 4, 5, 6, 7], "{found:#?}");
    for (name, text, line) in
        [("a", "{\n\"service\": [}", 2), ("b", "{\n\n\"checks\": []}", 3), ("c", "", 1), ("d", "7", 1)]
    {
        assert_eq!(mistakes(&format!("services.d/{name}.json"), text)[0].0, line, "{text}");
    }
    let one = "{\"service\": {\"name\": \"w\", \"port\": 1,\n\"check\": {\"http\": \"x\"}}}";
    let found = mistakes("services.d/one.json", one);
    assert!(
        found.len() == 1 && found[0].1.contains("\"x\" is no URL"),
        "what follows from a mistake is none: {found:?}"
    );
    let deep = "[".repeat(100_000);
    assert_eq!(mistakes("services.d/e.json", &deep).len(), 1);
}

#[test]
fn consul_s_words_are_taken_by_what_they_say() {
    let check = |more: &str| {
        format!(
            "{{\"service\": {{\"name\": \"w\", \"check\": {{\"http\": \"https://a/\", \"interval\": \"9s\",\n{more}}}}}}}"
        )
    };
    for (more, words) in [
        ("\"tls_skip_verify\": \"false\"", "`tls_skip_verify` is not true or false"),
        ("\"TLSSkipVerify\": 0", "`TLSSkipVerify` is not true or false"),
        ("\"tcp_use_tls\": \"\"", "`tcp_use_tls` is not true or false"),
        ("\"disable_redirects\": \"nope\"", "`disable_redirects` is not true or false"),
        ("\"header\": {\"A\": [5, true]}", "header `A` is not a text or a list of texts"),
        ("\"header\": 5", "`header` is not {\"NAME\": [\"text\"]}"),
        ("\"Interval\": \"8s\"", "`Interval` is said a second time"),
        ("\"notes\": \"a\", \"Notes\": \"b\"", "`Notes` is said a second time"),
        ("\"checkid\": \"a\", \"ID\": \"b\"", "`ID` is said a second time"),
        ("\"interval\": \"9s\"", "`interval` is said a second time"),
    ] {
        assert_eq!(mistakes("services.d/a.json", &check(more)), [(2, words.to_owned())]);
    }
    for (text, words) in [
        ("{\"service\": {\"name\": \"w\"},\n\"service\": {\"name\": \"v\"}}", "`service` is said a second time"),
        (
            "{\"service\": {\"name\": \"w\", \"tagged_addresses\": {\"wan\": {\"address\": \"1.2.3.4\",\n\"Address\": \"1.2.3.5\"}}}}",
            "`Address` is said a second time",
        ),
        ("{\"service\": {\"name\": \"w\",\n\"Name\": \"v\"}}", "`Name` is said a second time"),
        ("{\"service\": {\"name\": \"w\",\n\"weights\": 5}}", "`weights` is not {\"passing\": 10, \"warning\": 1}"),
        (
            "{\"service\": {\"name\": \"w\",\n\"weights\": {\"pasing\": 10}}}",
            "weights: unknown key `pasing`; did you mean `passing`?",
        ),
    ] {
        assert_eq!(mistakes("services.d/a.json", text), [(2, words.to_owned())]);
    }
    let marked = format!("\u{feff}{}", check("\"tls_skip_verify\": false, \"id\": \"\", \"check_id\": \"c\""));
    let config = Config::load(&sources(&folder(&[("services.d/a.json", &marked)]))).unwrap();
    let CheckKind::Http(http) = &config.services[0].checks[0].kind else { panic!("{config:?}") };
    assert!(http.tls.is_none() && http.redirects == 10, "{http:?}");
}

#[test]
fn mistakes_of_all_sources_are_told_together() {
    let folder = folder(&[("hobnob.toml", "nod = 1\n"), ("services.d/a.json", "{}"), ("services.d/b.toml", "x = 1")]);
    let mut sources = sources(&folder);
    sources.environment.insert("HOBNOB_ZOEN".into(), "a".into());
    sources.environment.insert("HOBNOB_SECRET".into(), "hunter2".into());
    sources.flags.push(("--http", "listen.http", "nowhere".into()));
    let found = Config::load(&sources).unwrap_err();
    let places: Vec<_> = found.all().iter().map(|error| error.place.rsplit('/').next().unwrap()).collect();
    assert_eq!(places, ["hobnob.toml, line 1", "b.toml, line 1", "HOBNOB_ZOEN", "--http", "HOBNOB_SECRET"]);
    assert!(!format!("{found} {sources:?}").contains("hunter2"), "a secret is never told");
}

#[test]
fn what_the_agent_would_refuse_is_found_before_it_starts() {
    for (text, place) in [
        ("advertise = \"0.0.0.0:7946\"\n", "hobnob.toml, line 1"),
        ("advertise = \"224.0.0.1:5\"\n", "hobnob.toml, line 1"),
        ("advertise = \"240.0.0.1:7\"\n", "hobnob.toml, line 1"),
        ("advertise = \"0.1.2.3:7\"\n", "hobnob.toml, line 1"),
        ("advertise = \"255.255.255.255:9\"\n", "hobnob.toml, line 1"),
        ("advertise = \"[ff02::1]:9\"\n", "hobnob.toml, line 1"),
        ("\nadvertise = \"10.0.0.1:0\"\n", "hobnob.toml, line 2"),
        ("zone = \"a\"\ndatacenter = \"a b\"\n", "hobnob.toml, line 2"),
        ("node = \"a\"\n[listen]\nhttp = \"0.0.0.0:8500\"\n", "hobnob.toml, line 3"),
        ("[http]\nsocket = \"\"\n", "hobnob.toml, line 2"),
    ] {
        let error = refusal(&[("hobnob.toml", text)]);
        assert!(error.place.ends_with(place), "{error}");
    }
}

#[test]
fn what_is_of_the_wrong_kind_is_named() {
    for (name, text, why) in [
        ("hobnob.toml", "zone = 3\n", "zone: invalid type: integer `3`, expected a string"),
        ("a.toml", "[[services]]\nname = 10\n", "services[0].name: invalid type: integer `10`, expected a string"),
        (
            "a.toml",
            "[[services]]\nname = \"a\"\nchecks = [{ttl = \"9s\", initial = \"ok\"}]\n",
            "services[0].checks[0].initial: \"ok\" is not passing, warning or critical",
        ),
    ] {
        let name = if name == "a.toml" { "services.d/a.toml" } else { name };
        let [(_, said)] = &mistakes(name, text)[..] else { panic!("{text}") };
        assert_eq!(said, why);
    }
}

#[test]
fn what_settings_lead_to_is_looked_for_when_they_are_checked() {
    let text = "[[services]]\nname = \"a\"\nport = 1\nchecks = [\
                {http = \"https://b/\", tls = {ca = \"/no/ca\", cert = \"/no/cert\", key = \"key.pem\"}}, \
                {script = [\"/no/x\"]}, {script = [\"/etc\"]}, {script = [\"bin/x\"]}, {script = [\"sh\"]}]\n";
    let settings = "script_checks = true\n[[hooks]]\nservice = \"a\"\ncommand = [\"no-such-program\"]\n";
    let files = [("hobnob.toml", settings), ("services.d/a.toml", text)];
    let found = Config::check(&sources(&folder(&files))).unwrap_err();
    let said: Vec<_> = found.all().iter().map(|error| error.why.as_str()).collect();
    let expected = [
        "tls.ca /no/ca: ",
        "tls.cert /no/",
        "tls.key key.pem is relative",
        "script /no/x: ",
        "script /etc is no program",
        "script bin/x is relative",
        "hooks[0].command: no-such-program is in no folder",
    ];
    assert_eq!(said.len(), expected.len(), "{found}");
    for (why, words) in said.iter().zip(expected) {
        assert!(why.contains(words), "{why}");
    }
    let (hook, checks) = found.all().split_last().unwrap();
    assert!(checks.iter().all(|error| error.place.ends_with("a.toml, line 1")), "{found}");
    assert!(hook.place.ends_with("hobnob.toml, line 4"), "{found}");
}

#[test]
fn https_may_stand_in_several_files_and_what_is_missing_is_told_where_it_belongs() {
    let (cert, more) = ("[http.tls]\ncert = \"/c.pem\"\n", ("conf.d/10.toml", "\n[http.tls]\nclient_ca = \"/ca\"\n"));
    let why = refusal(&[("hobnob.toml", cert), more]);
    assert!(
        why.to_string().ends_with("10.toml, line 2: http.tls.key: is missing: [http.tls] wants cert and key"),
        "{why}"
    );
    let folder = folder(&[("hobnob.toml", cert), more, ("conf.d/20.toml", "[http.tls]\nkey = \"/k.pem\"\n")]);
    assert!(Config::load(&sources(&folder)).unwrap().http.tls.is_some_and(|tls| tls.client_ca.is_some()));
    let torn = refusal(&[("hobnob.toml", cert), ("conf.d/10.toml", "[http.tls]\nkey = 1\n")]);
    assert!(torn.why.contains("invalid type"), "{torn}");
}

#[test]
fn a_setting_that_leads_nowhere_is_blamed_on_the_line_that_counts() {
    let hooks = "[[hooks]]\nservice = \"a\"\ncommand = [\"true\"]\n[[hooks]]\nservice = \"b\"\ncommand = [\"/no/x\"]\n";
    let folder = folder(&[
        ("hobnob.toml", &format!("[tls]\nca = \"/no/old\"\ncert = \"/no/cert\"\nkey = \"key.pem\"\n\n{hooks}")),
        ("conf.d/10.toml", "\n[tls]\nca = \"/no/ca\"\nca_key = \"/no/ca_key\"\n"),
    ]);
    let mut sources = sources(&folder);
    let beside = Config::check(&sources).unwrap_err();
    assert!(beside.all().iter().any(|error| error.place == "HOBNOB_SECRET" && error.why.contains("beside [tls]")));
    assert!(format!("{beside:?}").contains("unset HOBNOB_SECRET"));
    sources.environment.clear();
    let at = |sources: &Sources| {
        let found = Config::check(sources).unwrap_err();
        let place = |error: &Error| error.place.rsplit('/').next().unwrap().to_owned();
        let word = |error: &Error| error.why.split(' ').next().unwrap().to_owned();
        found.all().iter().map(|error| (place(error), word(error))).collect::<Vec<_>>()
    };
    let pair = |(place, word): (&str, &str)| (place.to_owned(), word.to_owned());
    let all = [
        ("10.toml, line 3", "tls.ca:"),
        ("hobnob.toml, line 3", "tls.cert:"),
        ("hobnob.toml, line 4", "tls.key:"),
        ("10.toml, line 4", "tls.ca_key:"),
        ("hobnob.toml, line 8", "hooks[1].command:"),
    ];
    assert_eq!(at(&sources)[..4], all[..4].iter().copied().map(pair).collect::<Vec<_>>()[..]);
    assert_eq!(at(&sources).len(), all.len());
    sources.environment.insert("HOBNOB_TLS__CERT".into(), "/no/where".into());
    assert_eq!(at(&sources)[1], pair(("HOBNOB_TLS__CERT", "tls.cert:")));
    // Where all are there, what they hold.
    for file in ["c", "k"] {
        fs::write(folder.path().join(file), "no PEM").unwrap();
        fs::set_permissions(folder.path().join(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (c, k) = (path("c"), path("k"));
    let papers =
        format!("[http.tls]\ncert = \"{c}\"\nkey = \"{k}\"\n[tls]\nca = \"{c}\"\ncert = \"{c}\"\nkey = \"{k}\"\n");
    fs::write(folder.path().join("hobnob.toml"), papers).unwrap();
    fs::write(folder.path().join("conf.d/10.toml"), "").unwrap();
    sources.environment.clear();
    assert_eq!(at(&sources), [("hobnob.toml, line 4", "tls:"), ("hobnob.toml, line 1", "http.tls:")].map(pair));
    // All that is missing, beside all that leads nowhere and all that is wrong in other files.
    fs::write(folder.path().join("hobnob.toml"), format!("zone = \"a\"\n[tls]\nrenew = true\n{hooks}")).unwrap();
    fs::write(folder.path().join("conf.d/10.toml"), "datacentre = \"a\"\n").unwrap();
    let all = [
        ("10.toml, line 1", "unknown"),
        ("hobnob.toml, line 2", "tls.ca:"),
        ("hobnob.toml, line 2", "tls.cert:"),
        ("hobnob.toml, line 2", "tls.key:"),
        ("hobnob.toml, line 9", "hooks[1].command:"),
    ];
    assert_eq!(at(&sources), all.map(pair));
}

#[test]
fn what_a_mistake_has_cost_is_no_second_mistake() {
    for text in ["secret_file = \"s\"\nnode = \"a\nzone = \"b\"\n", "node = \"a\"\nnode = \"b\"\n", "secret_file = 5\n"]
    {
        let folder = folder(&[("hobnob.toml", text)]);
        let sources = Sources { files: vec![folder.path().into()], ..Sources::default() };
        let found = Config::load(&sources).unwrap_err();
        assert!(found.all().iter().all(|error| error.place.contains("hobnob.toml, line")), "{found}");
    }
}

#[test]
fn what_a_reload_cannot_change_is_known() {
    let load = |text: &str| Config::load(&sources(&folder(&[("hobnob.toml", text)]))).unwrap();
    let old = load("node = \"a\"\njoin = [\"a:1\"]\n[listen]\nhttp = \"127.0.0.1:1\"\n");
    assert_eq!(old.fixed(&load("node = \"a\"\njoin = [\"b:1\"]\n[listen]\nhttp = \"127.0.0.1:1\"\n")), [""; 0]);
    let newer = load("node = \"b\"\nzone = \"c\"\n");
    assert_eq!(old.fixed(&newer), ["join", "listen", "node", "zone"][1..]);
    assert!(!old.is_same(&newer) && old.with(newer.clone()).is_same(&newer), "it is told of once");
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
    assert!(Config::load(&sources).unwrap_err().first().next.starts_with("hobnob keygen"));
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
    assert!(shown.contains("ready_after = \"1m\"") && shown.contains("protect_for = \"300000ms\""), "{shown}");
    let json = super::shown(&sources(&folder)).unwrap();
    assert_eq!((&json["node"], &json["listen"]["dns"]), (&"n1".into(), &"127.0.0.1:8600".into()), "{json}");
    let mut mistakes = Vec::new();
    layer::parse(document::Source { name: "shown", text: &shown }, &mut mistakes);
    assert_eq!(mistakes, []);
}

#[test]
fn kubernetes_may_talk_of_a_service_called_hobnob() {
    assert_eq!(layer::variable("HOBNOB_SERVICE_HOST", "10.0.0.1"), Ok(None));
    assert_eq!(layer::variable("HOBNOB_PORT_8500_TCP", "tcp://10.0.0.1"), Ok(None));
    for (name, value) in [
        ("HOBNOB_PORT", "tcp://10.0.0.1:8500"),
        ("HOBNOB_DNS_SERVICE_HOST", "10.0.0.1"),
        ("HOBNOB_DNS_SERVICE_PORT_DNS_UDP", "53"),
        ("HOBNOB_DNS_PORT", "udp://10.0.0.1:53"),
        ("HOBNOB_DNS_PORT_53_UDP_ADDR", "10.0.0.1"),
        ("HOBNOB_WEB_UI_PORT_80_TCP", "tcp://10.0.0.1:80"),
    ] {
        assert_eq!(layer::variable(name, value), Ok(None), "{name}");
    }
    assert!(layer::variable("HOBNOB_DNS_PORT", "53").is_err(), "that is somebody's mistake");
}

#[test]
fn a_hook_names_a_service_and_a_program() {
    let config = Config::load(&sources(&folder(&[(
        "hobnob.toml",
        "[[hooks]]\nservice = \"web\"\ncommand = [\"true\"]\ntimeout = \"5s\"\n",
    )])));
    let hooks = config.unwrap().hooks;
    assert_eq!((hooks[0].service.as_str(), hooks[0].timeout.as_secs()), ("web", 5));
    let found = mistakes("hobnob.toml", "[[hooks]]\nservice = \"\"\n[[hooks]]\nservice = \"a\"\ncommand = []\n");
    assert_eq!(found.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 5], "{found:?}");
}
