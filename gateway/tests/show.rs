//! `config show` and `config reference`: what is in force, where it comes from, and no secret in it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::{fs, path::Path, process::Command};

use skywave_gateway::config::{Flags, Loader, show, show_json};
use tempfile::TempDir;

const FILE: &str = r##"
[node]
secret = "hunter2-hunter2-hunter2-hunter2-hunter2"
[public]
origins = ["https://*.example.com"]
trusted_proxies = ["10.0.0.0/8"]
[backplane]
url = "redis://ada:hunter2@h"
[[api.keys]]
name = "a"
key = "hunter2-hunter2-hunter2"
scopes = ["read", "control"]
[[api.keys]]
name = "b"
key_file = "DIR/key"
scopes = ["publish"]
[limits]
connections = 0
message_bytes = 1500000
outbox_bytes = "2MiB"
[timeouts]
ping_interval = "1m 30s"
[namespaces."a.b"]
presence = true
durability = { replicated = 2, within = "300ms" }
history = { size = 5, ttl = "1h", meta_ttl = "7d" }
[namespaces."#user"]
presence = true
[webhooks.rpc]
url = "https://h/hunter2"
"##;

struct Start {
    folder: TempDir,
    flags: Flags,
    variables: Vec<(&'static str, &'static str)>,
}

impl Start {
    fn new(text: &str, variables: &[(&'static str, &'static str)]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("key"), "hunter2-of-another-back-end\n").unwrap();
        let mut start = Self { folder, flags: Flags::default(), variables: variables.to_vec() };
        start.write("skywave.toml", text);
        start
    }

    fn write(&mut self, name: &str, text: &str) {
        let file = self.folder.path().join(name);
        fs::write(&file, text.replace("DIR", &self.dir())).unwrap();
        self.flags.config = Some(file);
    }

    fn dir(&self) -> String {
        self.folder.path().display().to_string()
    }

    fn loader(&self) -> Loader {
        Loader::new(&self.flags, self.variables.iter().copied())
    }

    fn shown(&self) -> String {
        show(&self.loader()).unwrap_or_else(|error| panic!("{error}")).replace(&self.dir(), "DIR")
    }
}

#[test]
fn every_setting_stands_there_with_its_origin() {
    let mut start = Start::new(FILE, &[("SKYWAVE__TIMEOUTS__PONG", "7s"), ("SKYWAVE__NODE__SHARDS", "3")]);
    start.flags.listen = vec!["127.0.0.1:0".into()];
    let shown = start.shown();
    for line in [
        "secret = \"***\"  # DIR/skywave.toml:3:1",
        "shards = 3  # environment variable SKYWAVE__NODE__SHARDS",
        "log = \"text\"  # default",
        "listen = [\"127.0.0.1:0\"]  # --listen",
        "origins = [\"https://*.example.com\"]  # DIR/skywave.toml:5:1",
        "url = \"redis://***@h\"  # DIR/skywave.toml:8:1",
        "# password is not set",
        "[[api.keys]]",
        "key = \"***\"  # DIR/skywave.toml:11:1",
        "key_file = \"DIR/key\"  # DIR/skywave.toml:15:1",
        "connections = 0  # DIR/skywave.toml:18:1",
        "message_bytes = 1500000  # DIR/skywave.toml:19:1",
        "outbox_bytes = \"2MiB\"  # DIR/skywave.toml:20:1",
        "ping_interval = \"1m 30s\"  # DIR/skywave.toml:22:1",
        "pong = \"7s\"  # environment variable SKYWAVE__TIMEOUTS__PONG",
        "[namespaces.\"a.b\".history]",
        "ttl = \"1h\"  # DIR/skywave.toml:26:23",
        "publish = \"token\"  # default",
        "[namespaces.\"#user\"]",
        "url = \"https://h/***\"  # DIR/skywave.toml:30:1",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
    }
    for begin in ["# name = ", "# node_outbox_bytes = "] {
        let line = shown.lines().find(|line| line.starts_with(begin)).unwrap();
        assert!(line.contains("  # default: "), "what depends on the machine says so: {line}");
    }
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn what_is_shown_is_a_file_with_the_same_settings() {
    let mut start = Start::new(FILE, &[("SKYWAVE__NODE__NAME", "a")]);
    let before = start.loader().load().unwrap();
    // Whoever uses it as a file puts the secrets in again; the user of Redis is one of them.
    let shown = start.shown().replace("ada:hunter2@", "***@").replace("\"redis://***@h\"", "\"redis://ada:hunter2@h\"");
    let shown = shown.replace("https://h/***", "https://h/hunter2");
    let shown = shown.replacen("\"***\"", "\"hunter2-hunter2-hunter2\"", 1);
    let shown = shown.replacen("\"***\"", "\"hunter2-hunter2-hunter2-hunter2-hunter2\"", 1);
    start.write("again.toml", &shown);
    let after = start.loader().load().unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(after.differences(&before), Vec::<String>::new());
}

#[test]
fn development_mode_says_what_it_opens() {
    let start = Start { flags: Flags { dev: true, ..Flags::default() }, ..Start::new("", &[]) };
    let shown = start.shown();
    for line in ["anonymous = true  # development mode", "subscribe = \"anyone\"  # development mode"] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in\n{shown}");
    }
}

#[test]
fn json_has_the_same() {
    let all = show_json(&Start::new(FILE, &[]).loader()).unwrap();
    assert_eq!(all["api.keys.0.key"]["value"], "***");
    assert_eq!(all["timeouts.pong"], serde_json::json!({"value": "10s", "from": "default"}));
    assert!(all["timeouts.ping_interval"]["from"].as_str().unwrap().ends_with("skywave.toml:22:1"));
    assert!(!all.to_string().contains("hunter2"));
}

#[test]
fn a_wrong_file_is_not_shown() {
    let start = Start::new("[nodes]\n", &[]);
    assert!(show(&start.loader()).unwrap_err().to_string().contains("nodes"));
}

fn skywave(arguments: &[&str], config: Option<&Path>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skywave"));
    command.args(arguments).env_clear();
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn the_commands_print_it() {
    let (code, page) = skywave(&["config", "reference"], None);
    assert!(code == Some(0) && page.starts_with("# Configuration\n") && page.contains("## `[[api.keys]]`"), "{page}");

    let folder = TempDir::new().unwrap();
    let file = folder.path().join("reference.toml");
    let (code, text) = skywave(&["config", "reference", "--format", "toml"], None);
    fs::write(&file, text).unwrap();
    assert_eq!((code, skywave(&["config", "check"], Some(&file)).0), (Some(0), Some(0)));
    let (code, shown) = skywave(&["config", "show"], Some(&file));
    assert!(code == Some(0) && shown.contains("reference.toml:"), "{shown}");
    let (code, shown) = skywave(&["config", "show", "--format", "json"], Some(&file));
    assert!(code == Some(0) && serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{shown}");
    fs::write(&file, "[nodes]\n").unwrap();
    assert_eq!(skywave(&["config", "show"], Some(&file)).0, Some(64));
}
