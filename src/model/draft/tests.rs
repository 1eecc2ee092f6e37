//! What a check may be written as, and what is said of what it may not.

use super::*;
use crate::model::RegistrationDraft;

/// Reads `key=value key=value`: this floor has neither JSON nor TOML.
fn parse(text: &str) -> CheckDraft {
    let fields = text.split_whitespace().map(|field| field.split_once('=').unwrap());
    let mut draft = CheckDraft::default();
    for (key, value) in fields {
        let text = Some(value.to_owned());
        match key {
            "http" => draft.http = text,
            "tcp" => draft.tcp = text,
            "udp" => draft.udp = text,
            "grpc" => draft.grpc = text,
            "ttl" => draft.ttl = text,
            "script" => draft.script = Some(value.split(',').map(String::from).collect()),
            "pid" => draft.pid = value.parse().ok(),
            "pid_file" => draft.pid_file = text,
            "dns" => draft.dns = text,
            "alias" => draft.alias = text,
            "node" => draft.node = text,
            "name" => draft.name = text,
            "interval" => draft.interval = text,
            "timeout" => draft.timeout = text,
            "rise" => draft.rise = value.parse().ok(),
            "status" => draft.status = Some(StatusDraft(value.split(',').map(String::from).collect())),
            "method" => draft.method = text,
            "host" => draft.host = text,
            "header" => draft.headers = Some([(value.into(), "5".into())].into()),
            "send" => draft.send = text,
            "expect" => draft.expect = text,
            "service" => draft.service = text,
            "query" => draft.query = text,
            "server" => draft.server = text,
            "tls" => draft.tls = Some(TlsOptions { ca: Some(value.into()), ..TlsOptions::default() }),
            other => panic!("{other}"),
        }
    }
    draft
}

#[test]
fn every_kind_is_built_and_shown_as_it_was_asked_for() {
    for text in [
        "ttl=30s",
        "http=http://127.0.0.1:8080/health status=200,301-302,5xx method=post host=web.example",
        "http=/health tls=/ca.pem",
        "http=:8443/health interval=100ms timeout=1s",
        "tcp=127.0.0.1:80 send=PING expect=PONG",
        "tcp=",
        "udp=:53 send=x",
        "grpc=127.0.0.1:9000/web.Health tls=/ca.pem",
        "script=/bin/true,-v",
        "pid=1",
        "pid_file=/run/web.pid interval=1s",
        "dns=127.0.0.1:53 query=example.com expect=10.0.0.1",
        "dns=127.0.0.1",
        "dns=example.com server=[::1]:53",
        "alias=db node=web-2",
        "alias=db name=database",
    ] {
        let built = parse(text).build(0, "checks[0]").unwrap();
        let again = CheckDraft::from(&built).build(0, "checks[0]").unwrap();
        assert_eq!(built, again, "{text}");
    }
}

#[test]
fn a_wrong_check_names_its_field_and_says_why() {
    for (text, field, why) in [
        ("", "", "names no kind: it is one of http, tcp"),
        ("rise=2", "", "names no kind"),
        ("http=/a tcp=:1", ".tcp", "is a second kind beside http"),
        ("http=", ".http", "is missing"),
        ("http=health", ".http", "is no URL such as"),
        ("http=/a interval=0s", ".interval", "must be at least 100ms"),
        ("http=/a interval=99ms", ".interval", "must be at least 100ms"),
        ("http=/a interval=often", ".interval", "is not a duration"),
        ("http=/a timeout=0s", ".timeout", "longer than nothing"),
        ("http=/a rise=0", ".rise", "must be at least 1"),
        ("http=/a status=2000", ".status", "is no status"),
        ("http=/a method=G=T", ".method", "is no method"),
        ("http=/a method=connect", ".method", "asks for a tunnel"),
        ("http=/a host=a\u{7f}b", ".headers", "control character"),
        ("http=/a header=Content-Length", ".headers", "follows from `body`"),
        ("http=/a header=transfer-encoding", ".headers", "follows from `body`"),
        ("http=http://a/ tls=/ca", ".tls", "write https://"),
        ("tcp=a:1 method=GET", ".method", "is no option of a tcp check, but of http"),
        ("ttl=0s", ".ttl", "must be at least 100ms"),
        ("ttl=10s interval=1s", ".interval", "is no option of a ttl check"),
        ("pid=0", ".pid", "must be the id of a process"),
        ("pid=99999999999", ".pid", "must be the id of a process"),
        ("pid_file=", ".pid_file", "names no file"),
        ("pid_file=run/web.pid", ".pid_file", "\"run/web.pid\" is relative"),
        ("script=", ".script", "names no program"),
        ("dns=127.0.0.1:53 server=b:1", ".server", "named twice"),
        ("dns=not_a_name!", ".dns", "no domain name"),
        ("grpc=a:1/x service=y", ".service", "is named twice"),
        ("alias=", ".alias", "is empty"),
    ] {
        let error = parse(text).build(0, "checks[0]").unwrap_err();
        assert_eq!(error.field, format!("checks[0]{field}"), "{text}: {error}");
        assert!(error.why.contains(why), "{text}: {error}");
    }
}

#[test]
fn what_is_relative_needs_something_to_be_relative_to() {
    let web = |port, check: CheckDraft| {
        RegistrationDraft { name: "web".into(), port, checks: vec![check], ..RegistrationDraft::default() }.build()
    };
    assert!(web(Some(80), CheckDraft::http("/health")).is_ok());
    assert!(web(None, CheckDraft::tcp(":80")).is_ok());
    assert_eq!(web(None, CheckDraft::http("/health")).unwrap_err().field, "checks[0].http");
    assert_eq!(web(None, CheckDraft::alias("web")).unwrap_err().field, "checks[0].alias");
}

#[test]
fn a_check_is_called_by_its_name_unless_it_has_an_id() {
    let built =
        |draft: CheckDraft| draft.build(2, "c").map(|spec| (spec.id.to_string(), spec.name.to_string())).unwrap();
    let pair = |id: &str, name: &str| (id.to_owned(), name.to_owned());
    assert_eq!(built(CheckDraft::http("/")), pair("http-3", "http-3"));
    assert_eq!(built(CheckDraft::http("/").named("front page")), pair("front page", "front page"));
    assert_eq!(built(CheckDraft { id: Some("a".into()), ..CheckDraft::http("/").named("b") }), pair("a", "b"));
}
