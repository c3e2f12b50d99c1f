//! Settings that change while a node runs: what comes into force, who hears of it, and what a broken file does.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::json;
use skywave_gateway::{
    config::{Flags, Loader},
    node::Node,
    reload::Outcome,
};
use support::{DEADLINE, Running, back_end::BackEnd};
use tempfile::TempDir;

/// Clients without credentials may subscribe to `open:` and `other:`, and one back end may call.
const BEFORE: &str = r#"
[auth]
anonymous = true
[api]
keys = [{ name = "a", key = "the-key-of-a-back-end", scopes = ["publish", "read", "control"] }]
[namespaces.open]
subscribe = "anyone"
[namespaces.other]
subscribe = "anyone"
"#;

/// A node in this process, with the file that its settings come from.
struct Changing {
    node: Running,
    file: PathBuf,
    loader: Loader,
    _folder: TempDir,
}

impl Changing {
    async fn start(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("skywave.toml");
        fs::write(&file, text).unwrap();
        let flags = Flags {
            config: Some(file.clone()),
            listen: vec!["127.0.0.1:0".into()],
            internal_listen: vec!["127.0.0.1:0".into()],
            ..Flags::default()
        };
        let loader = Loader::new(&flags, [("SKYWAVE__NODE__SHARDS", "2")]);
        let node = Node::start(loader.load().unwrap(), None).await.unwrap();
        Self { node: Running { node }, file, loader, _folder: folder }
    }

    /// What a reload does once the file holds this.
    fn change(&self, text: &str) -> Outcome {
        fs::write(&self.file, text).unwrap();
        self.node.node.exchange().put_in_force(self.loader.load().unwrap())
    }

    /// The status of a call of the server API with this key.
    async fn call(&self, key: &str) -> u16 {
        let bearer = format!("Bearer {key}");
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        let body = json!({"channel": "open:a", "data": 1}).to_string();
        self.node.http("POST", "/api/v1/publish", &headers, &body).await.0
    }
}

#[tokio::test]
async fn a_key_is_withdrawn_and_another_is_given_out() {
    let changing = Changing::start(BEFORE).await;
    assert_eq!(
        (changing.call("the-key-of-a-back-end").await, changing.call("a-new-key-of-a-back-end").await),
        (200, 401)
    );
    let outcome = changing.change(&BEFORE.replace("the-key-of-a-back-end", "a-new-key-of-a-back-end"));
    assert_eq!(outcome, Outcome::Applied);
    assert_eq!(
        (changing.call("the-key-of-a-back-end").await, changing.call("a-new-key-of-a-back-end").await),
        (401, 200)
    );
}

#[tokio::test]
async fn tokens_are_believed_as_long_as_their_key_is_there() {
    const SECRET: &str = "the-secret-that-the-issuer-and-the-node-share";
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let claims = json!({"sub": "ada", "exp": 4_000_000_000_u64});
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    let changing = Changing::start(BEFORE).await;
    let answer = async || changing.node.socket("/ws").await.ask(json!({"connect": {"token": token}})).await;
    assert_eq!(answer().await["error"]["code"], "unauthenticated");
    let keys = format!("{BEFORE}[auth.tokens]\nkeys = [{{ alg = \"HS256\", secret = \"{SECRET}\" }}]\n");
    assert_eq!(changing.change(&keys), Outcome::Applied);
    assert!(answer().await["connected"].is_object());
    assert_eq!(changing.change(BEFORE), Outcome::Applied);
    assert_eq!(answer().await["error"]["code"], "unauthenticated");
}

#[tokio::test]
async fn who_loses_a_right_is_told_and_keeps_the_rest() {
    let changing = Changing::start(BEFORE).await;
    let mut client = changing.node.client(&["open:a", "other:a"]).await;
    let closed =
        BEFORE.replace("[namespaces.open]\nsubscribe = \"anyone\"", "[namespaces.open]\nsubscribe = \"token\"");
    assert_eq!(changing.change(&closed), Outcome::Applied);
    assert_eq!(client.push("unsubscribed").await, json!({"channel": "open:a", "reason": "permission"}));
    let refused = client.ask(json!({"subscribe": {"channel": "open:b"}})).await;
    assert_eq!(refused["error"]["code"], "permission_denied");

    // A namespace that is gone takes its subscriptions along; one that is new is there at once.
    let others = "\n[auth]\nanonymous = true\n[namespaces.fresh]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";
    assert_eq!(changing.change(others), Outcome::Applied);
    assert_eq!(client.push("unsubscribed").await["channel"], "other:a");
    assert!(client.ask(json!({"subscribe": {"channel": "fresh:a"}})).await["subscribed"].is_object());
    client.ask(json!({"publish": {"channel": "fresh:a", "data": 1}})).await;
    assert_eq!(client.data(1).await, [json!(1)]);
}

#[tokio::test]
async fn what_is_published_keeps_its_order_when_its_hook_is_taken_away() {
    let back_end = BackEnd::start(|_| None).await;
    let open = "\n[auth]\nanonymous = true\n[namespaces.open]\nsubscribe = \"anyone\"\npublish = \"anyone\"\n";
    let url = back_end.url();
    let asks = format!("{open}[webhooks.publish]\nurl = \"{url}\"\ntimeout = \"2s\"\non_failure = \"allow\"\n");
    let changing = Changing::start(&asks).await;
    let mut client = changing.node.client(&["open:a", "open:b"]).await;
    let publish = |channel: &str, data: u32| json!({"publish": {"channel": channel, "data": data}});
    client.tell(publish("open:a", 1)).await;
    assert_eq!(back_end.asked().await["data"], 1);
    assert_eq!(changing.change(open), Outcome::Applied);
    client.tell(publish("open:a", 2)).await;
    client.tell(publish("open:b", 0)).await;
    assert_eq!(client.data(3).await, [json!(0), json!(1), json!(2)], "another channel waits for nothing");
}

#[tokio::test]
async fn limits_and_origins_count_from_then_on() {
    let changing = Changing::start(BEFORE).await;
    let mut client = changing.node.client(&["open:a", "open:b"]).await;
    let page = [("origin", "https://app.example.com")];
    assert_eq!(changing.node.refused("/ws", &page).await.0, 403);

    let tighter = format!("{BEFORE}[limits]\nchannels_per_connection = 2\n[public]\norigins = [\"{}\"]\n", page[0].1);
    assert_eq!(changing.change(&tighter), Outcome::Applied);
    assert_eq!(client.ask(json!({"subscribe": {"channel": "open:c"}})).await["error"]["code"], "limit");
    changing.node.try_socket("/ws", &page).await.expect("the page may now");

    assert_eq!(changing.change(BEFORE), Outcome::Applied);
    assert!(client.ask(json!({"subscribe": {"channel": "open:c"}})).await["subscribed"].is_object());
    assert_eq!(changing.node.refused("/ws", &page).await.0, 403);
}

#[tokio::test]
async fn what_a_node_is_built_with_stays() {
    let changing = Changing::start(BEFORE).await;
    assert_eq!(changing.change(BEFORE), Outcome::Unchanged);
    let moved = format!("{BEFORE}[backplane]\nurl = \"redis://127.0.0.1:1\"\n[drain]\ngrace = \"1s\"\n");
    assert_eq!(changing.change(&moved), Outcome::Applied, "grace can be taken");
    assert_eq!(changing.change(&format!("{moved}[internal]\nlisten = [\"127.0.0.1:1\"]\n")), Outcome::Unchanged);
    assert_eq!(changing.call("the-key-of-a-back-end").await, 200, "it is where it was, on its own backplane");
}

#[tokio::test]
async fn what_does_not_go_together_with_what_stays_is_refused_as_a_whole() {
    let changing = Changing::start(BEFORE).await;
    // Good as it is written, but this node goes on without replicas.
    let moved = BEFORE.replace(
        "[namespaces.open]",
        "[backplane]\nurl = \"redis://127.0.0.1:1\"\n[namespaces.open]\ndurability = { replicated = 1, within = \"1s\" }",
    );
    let moved = moved.replace("the-key-of-a-back-end", "a-new-key-of-a-back-end");
    assert_eq!(changing.change(&moved), Outcome::Refused);
    assert_eq!(changing.call("the-key-of-a-back-end").await, 200, "nothing of it is in force");
    assert_eq!(changing.call("a-new-key-of-a-back-end").await, 401);
}

/// A node of its own process, as it is run.
struct Process {
    child: Child,
    file: PathBuf,
    secret: PathBuf,
    lines: Receiver<String>,
    internal: String,
    _folder: TempDir,
}

impl Process {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let (file, secret) = (folder.path().join("skywave.toml"), folder.path().join("key"));
        fs::write(&secret, "the-key-of-a-back-end\n").unwrap();
        fs::write(&file, Self::text(&secret)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_skywave"))
            .args(["serve", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (line, lines) = channel();
        let output = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|said| line.send(said)));
        let mut process = Self { child, file, secret, lines, internal: String::new(), _folder: folder };
        let said = process.line("listening for back ends").pop().unwrap();
        process.internal = said.rsplit_once("address=").unwrap().1.trim().to_owned();
        process.line("in a browser");
        process
    }

    fn text(secret: &std::path::Path) -> String {
        format!(
            "[api]\nkeys = [{{ name = \"a\", key_file = \"{}\", scopes = [\"publish\"] }}]\n[namespaces.open]\n",
            secret.display()
        )
    }

    /// The lines of the log up to one with these words.
    fn line(&self, words: &str) -> Vec<String> {
        let (mut said, until) = (Vec::new(), Instant::now() + 2 * DEADLINE);
        while !said.last().is_some_and(|line: &String| line.contains(words)) {
            let left = until.saturating_duration_since(Instant::now());
            said.push(self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("nobody says {words:?}: {said:#?}")));
        }
        said
    }

    fn hang_up(&self) {
        let sent = Command::new("kill").args(["-HUP", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    async fn publish(&self, key: &str) -> u16 {
        let bearer = format!("Bearer {key}");
        let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
        let body = json!({"channel": "open:a", "data": 1}).to_string();
        support::request(&self.internal, "POST", "/api/v1/publish", &headers, &body).await.0
    }

    /// Waits until the line of metrics with these words says 1.
    async fn counted(&self, words: &str) {
        let until = Instant::now() + DEADLINE;
        loop {
            let (_, metrics) = support::request(&self.internal, "GET", "/metrics", &[], "").await;
            let found = metrics.lines().find(|line| words.split(' ').all(|word| line.contains(word)));
            if found.is_some_and(|line| line.ends_with(" 1")) {
                return;
            }
            assert!(Instant::now() < until, "{words}: {found:?}");
            tokio::time::sleep(Duration::from_millis(10)).await; // between two looks at the condition
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_says_so() {
    let process = Process::start();
    let good = fs::read_to_string(&process.file).unwrap();
    fs::write(&process.file, format!("{good}presense = true\n")).unwrap();
    process.hang_up();
    let said = process.line("those from before stay in force").pop().unwrap();
    let place = format!("{}:4:1: namespaces.open.presense", process.file.display());
    assert!(said.contains("ERROR") && said.contains(&place), "{said}");
    assert_eq!(process.publish("the-key-of-a-back-end").await, 200);
    process.counted("skywave_config_reloads_total{ refused").await;

    fs::write(&process.file, format!("{good}presence = true\n")).unwrap();
    process.hang_up();
    let said = process.line("new settings are in force").pop().unwrap();
    assert!(said.contains("changed=\"namespaces.open.presence\""), "{said}");
    process.counted("skywave_config_reloads_total{ applied").await;
    let version = said.split("version=").nth(1).unwrap()[..14].trim_matches('"').to_owned();
    process.counted(&format!("skywave_config_info{{ {version}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_taken_without_being_told() {
    let process = Process::start();
    // The file itself stays as it is; what it names changes.
    fs::write(&process.secret, "a-new-key-of-a-back-end\n").unwrap();
    let said = process.line("new settings are in force");
    assert!(!said.concat().contains("-key-of-a-back-end"), "no secret is in the log");
    assert_eq!(
        (process.publish("the-key-of-a-back-end").await, process.publish("a-new-key-of-a-back-end").await),
        (401, 200)
    );

    fs::write(&process.file, "[node]\nname = \"other\"\n").unwrap();
    let said = process.line("new settings are in force").concat();
    assert!(said.contains("node.name") && said.contains("need a restart"), "{said}");
    assert_eq!(process.publish("a-new-key-of-a-back-end").await, 401);
}
