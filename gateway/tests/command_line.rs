//! A wrong configuration ends with the place, the key and what is allowed, before a port is bound.
#![allow(missing_docs)]

use std::{
    fs,
    process::{Command, Output},
};

use skywave_gateway::config::{Flags, Settings};

fn skywave(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skywave"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.output().expect("the binary of this build runs")
}

/// What `config check` says of a file, and how it exits.
fn check(text: &str, variables: &[(&str, &str)]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("skywave.toml");
    fs::write(&file, text).expect("the folder is ours");
    let path = file.to_str().expect("UTF-8");
    let output = skywave(&["config", "check", "--config", path], variables);
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().expect("it exits"), String::from_utf8_lossy(&said).replace(path, "skywave.toml"))
}

#[test]
fn good_files_are_good() {
    let (code, said) = check("[auth]\nanonymous = true\n[namespaces.chat]\nsubscribe = \"anyone\"\n", &[]);
    assert_eq!((code, said.trim()), (0, "skywave.toml: ok"));
}

#[test]
fn mistakes_are_told_with_their_place_and_what_is_allowed() {
    for (text, place, words) in [
        ("[timeouts]\npingg = \"1s\"\n", "skywave.toml:2:1: timeouts.pingg", &["unknown", "ping_interval"][..]),
        ("[nodes]\nname = \"a\"\n", "skywave.toml:1:2: nodes", &["unknown", "node"]),
        ("[limits]\nconnections = \"lots\"\n", "skywave.toml:2:1: limits.connections", &["lots"]),
        ("[limits]\nconnections = 1.5\n", "skywave.toml:2:1: limits.connections", &["1.5"]),
        ("[auth]\nanonymous = 1\n", "skywave.toml:2:1: auth.anonymous", &["true or false"]),
        ("[timeouts]\nclose = 3\n", "skywave.toml:2:1: timeouts.close", &["unit"]),
        ("[timeouts]\nhandshake = \"0s\"\n", "skywave.toml:2:1: timeouts.handshake", &[]),
        ("[limits]\npublication_bytes = \"2MiB\"\n", "limits.publication_bytes", &["message_bytes"]),
        ("[drain]\nrate = 50\nwindow = \"5s\"\n", "skywave.toml:2:1: drain.rate", &["drain.window", "leave one out"]),
        (
            "[drain]\ndeadline = \"30s\"\nwindow = \"40s\"\n",
            "skywave.toml:3:1: drain.window",
            &["30s", "40s", "lower window"],
        ),
        ("[drain]\nwindow = \"5m\"\n", "skywave.toml:2:1: drain.window", &["5m", "raise deadline"]),
        ("[timeouts]\nconnection_age = { max = \"1h\", jitter = 2.0 }\n", "timeouts.connection_age", &["0 to 1"]),
        ("[node]\nlog = \"xml\"\n", "skywave.toml:2:1: node.log", &["text", "json"]),
        ("[node]\nshards = 129\n", "skywave.toml:2:1: node.shards", &["128"]),
        ("[public]\norigins = [\"example.com\"]\n", "public.origins", &["https://"]),
        (
            "[namespaces.a]\ndurability = { replicated = 1, within = \"1s\" }\n",
            "skywave.toml:2:1: namespaces.a.durability",
            &["memory", "accepted"],
        ),
        ("[backplane]\nurl = \"redis://a/7\"\n", "skywave.toml:2:1: backplane.url", &["database 0", "prefix"]),
        ("[backplane]\nurl = \"postgres://a\"\n", "skywave.toml:2:1: backplane.url", &["memory", "redis://"]),
        ("[api]\nkeys = [{ name = \"a\", key = \"short\", scopes = [\"publish\"] }]\n", "api.keys", &["16"]),
        (
            "[api]\nkeys = [{ name = \"a\", key = \"0123456789abcdef\", scopes = [\"all\"] }]\n",
            "api.keys",
            &["control"],
        ),
        ("[namespaces.\"a:b\"]\n", "namespaces", &[":"]),
        ("[namespaces.a]\nsubscribe = \"nobody\"\n", "skywave.toml:2:1: namespaces.a.subscribe", &["anyone", "users"]),
        ("[namespaces.a]\nhistory = { size = 5, ttl = \"2d\" }\n", "namespaces.a.history", &["meta_ttl"]),
        (
            "[namespaces.a]\nslow_consumer = \"resync\"\n",
            "skywave.toml:2:1: namespaces.a.slow_consumer",
            &["history", "disconnect"],
        ),
        ("[auth.tokens]\nissuer = \"x\"\n", "skywave.toml:2:1: auth.tokens.issuer", &["auth.tokens.keys"]),
        ("[public]\nlisten = [\"127.0.0.1:8001\"]\n", "internal.listen", &["8001"]),
        ("[node\n", "skywave.toml:1:", &[]),
    ] {
        let (code, said) = check(text, &[]);
        assert_eq!(code, 64, "{text}: {said}");
        assert!(said.contains(place), "{text}: {place:?} is not in {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{text}: {words:?} are not in {said}");
    }
}

#[test]
fn mistakes_in_the_environment_and_in_flags_are_told_by_their_names() {
    let (code, said) = check("", &[("SKYWAVE__LIMITS__CONNECTIONS", "many")]);
    assert!(code == 64 && said.contains("SKYWAVE__LIMITS__CONNECTIONS"), "{said}");
    let (code, said) = check("", &[("SKYWAVE__LIMITS__CONECTIONS", "1")]);
    assert!(code == 64 && said.contains("SKYWAVE__LIMITS__CONECTIONS") && said.contains("connections"), "{said}");
    let output = skywave(&["serve", "--listen", "nowhere"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && said.contains("--listen"), "{said}");
    let output = skywave(&["serve", "--lisen", "127.0.0.1:0"], &[]);
    assert_eq!(output.status.code(), Some(64));
    let output = skywave(&["--config", "/nowhere/skywave.toml"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(64) && said.contains("/nowhere/skywave.toml"), "{said}");
}

#[test]
fn a_secret_is_never_shown() {
    let secret = "hunter2hunter2hunter2";
    for text in [
        format!("[backplane]\nurl = \"redis://user:{secret}@host:port\"\n"),
        format!("[api]\nkeys = [{{ name = \"a\", key = \"{secret}\", scopes = [] }}]\n"),
        format!("[node]\nsecret = \"{secret}\"\n"),
    ] {
        let (code, said) = check(&text, &[]);
        assert!(code == 64 && !said.contains(secret), "{said}");
    }
}

#[test]
fn a_port_in_use_is_told_and_is_no_mistake_of_the_configuration() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output = skywave(&["--listen", &address, "--internal-listen", "127.0.0.1:0"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("--listen"), "{said}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("skywave.toml");
    let text = "[node]\nname = \"file\"\n[limits]\nconnections = 1\n[timeouts]\nclose = \"1s\"\n";
    fs::write(&file, text).expect("the folder is ours");
    let flags = Flags { config: Some(file), name: Some("flag".into()), ..Flags::default() };
    let variables = [("SKYWAVE__NODE__NAME", "variable"), ("SKYWAVE__LIMITS__CONNECTIONS", "2")];
    let settings = Settings::load(&flags, variables).expect("all is well");
    assert_eq!(settings.node.name, "flag");
    assert_eq!(settings.limits.connections.map(u32::from), Some(2));
    assert_eq!(settings.timeouts.close.as_secs(), 1);
}

#[test]
fn development_mode_is_for_who_configures_nothing_or_asks_for_it() {
    let load = |flags: Flags, variables: &[(&str, &str)]| {
        Settings::load(&flags, variables.iter().copied()).expect("all is well")
    };
    let development = load(Flags::default(), &[]);
    assert!(development.development() && development.auth.anonymous && development.demo.enabled);
    assert!(development.public.listen.iter().all(|address| address.ip().is_loopback()));
    assert!(development.namespace("whatever").is_some() && development.namespace("#users").is_none());
    for settings in [
        load(Flags::default(), &[("SKYWAVE__NODE__NAME", "a")]),
        load(Flags { backplane: Some("redis://127.0.0.1".into()), ..Flags::default() }, &[]),
    ] {
        assert!(!settings.development() && !settings.auth.anonymous && !settings.demo.enabled);
        assert!(settings.namespace("whatever").is_none() && settings.namespace("default").is_none());
    }
    let asked = Flags { dev: true, backplane: Some("redis://127.0.0.1".into()), ..Flags::default() };
    let settings = load(asked, &[("SKYWAVE__AUTH__ANONYMOUS", "false")]);
    assert!(settings.development() && !settings.auth.anonymous, "what is written wins");
    let open = Flags { listen: vec!["0.0.0.0:0".into()], ..Flags::default() };
    assert!(!load(open, &[]).warnings().is_empty(), "an open door in development mode is warned of");
}

mod tokens {
    use skywave_gateway::{
        auth::{Authority, Claims},
        clock::now_ms,
        config::TokenSettings,
        outbound::Outbound,
    };
    use skywave_proto::ChannelName;

    use super::*;

    const SECRET: &str = "a secret of thirty-two bytes or more";

    struct Place {
        folder: tempfile::TempDir,
        settings: TokenSettings,
    }

    fn place(tokens: &str) -> Place {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("skywave.toml");
        fs::write(&file, format!("[auth.tokens]\n{tokens}\n")).expect("the folder is ours");
        let flags = Flags { config: Some(file), ..Flags::default() };
        let none: [(&str, &str); 0] = [];
        let settings = Settings::load(&flags, none).expect("all is well").auth.tokens;
        Place { folder, settings }
    }

    impl Place {
        /// What the command prints, and how it exits.
        fn token(&self, arguments: &[&str]) -> (i32, String, String) {
            let file = self.folder.path().join("skywave.toml");
            let all = [&["token", "--config", file.to_str().expect("UTF-8")], arguments].concat();
            let output = skywave(&all, &[]);
            let [out, err] = [output.stdout, output.stderr].map(|said| String::from_utf8(said).expect("UTF-8"));
            (output.status.code().expect("it exits"), out, err)
        }

        fn authority(&self) -> Authority {
            Authority::new(&self.settings, Outbound::new(None).expect("TLS"))
        }

        async fn claims(&self, arguments: &[&str]) -> Claims {
            let (code, token, error) = self.token(arguments);
            assert_eq!((code, error.as_str()), (0, ""));
            self.authority().verify(token.trim_end(), now_ms()).await.expect("a node believes it")
        }
    }

    #[tokio::test]
    async fn a_token_that_it_makes_opens_what_was_asked_for() {
        let place = place(&format!(
            "keys = [{{ alg = \"HS256\", secret = \"{SECRET}\", kid = \"a\" }}]\nissuer = \"us\"\naudience = [\"here\", \"there\"]"
        ));
        let claims = place
            .claims(&[
                "--client",
                "ada",
                "--subscribe",
                "chat:*",
                "--subscribe",
                "news",
                "--publish",
                "chat:lobby",
                "--channel",
                "news",
                "--info",
                r#"{"name":"Ada"}"#,
                "--expires",
                "10m",
                "--id",
                "t1",
            ])
            .await;
        let has = |name: &str| claims.subscribe.matches(&ChannelName::parse(name).expect("a name"));
        assert!(has("chat:a") && has("news") && !has("other"));
        assert!(claims.publish.matches(&ChannelName::parse("chat:lobby").expect("a name")));
        assert_eq!((claims.user.as_deref(), claims.id.as_deref()), (Some("ada"), Some("t1")));
        assert_eq!(claims.channels[0].as_str(), "news");
        assert_eq!(claims.info.as_deref(), Some(&br#"{"name":"Ada"}"#[..]));
        let left = claims.expires_at_ms.expect("it ends") - now_ms();
        assert!((590_000..=600_000).contains(&left), "{left}");

        let (code, token, _) = place.token(&["--client", "ada", "--only", "chat:a"]);
        let ticket = place.authority().verify_channel(token.trim_end(), now_ms()).await.expect("a node believes it");
        assert_eq!((code, &*ticket.user, ticket.channel.as_str()), (0, "ada", "chat:a"));
        assert_eq!(token.lines().count(), 1, "the token only");
    }

    #[tokio::test]
    async fn a_key_of_ones_own_signs_too() {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let place = place(&format!(
            "keys = [{{ alg = \"EdDSA\", kid = \"e\", public_key = \"\"\"\n{}\"\"\" }}]",
            pair.public_key_pem()
        ));
        let file = place.folder.path().join("key.pem");
        fs::write(&file, pair.serialize_pem()).expect("the folder is ours");
        let file = file.to_str().expect("UTF-8");
        let claims = place.claims(&["--client", "ada", "--key-file", file, "--alg", "EdDSA", "--kid", "e"]).await;
        assert_eq!(claims.user.as_deref(), Some("ada"));
        let (code, out, error) = place.token(&["--client", "ada", "--key-file", file, "--alg", "ES256"]);
        assert!(code == 64 && out.is_empty() && error.contains("openssl pkcs8"), "{error}");
        let (code, out, error) = place.token(&["--client", "ada", "--key-file", file, "--alg", "HS256"]);
        assert!(code == 64 && out.is_empty() && error.contains("is `alg` right?"), "{error}");
        // Only the public half is here.
        let (code, out, error) = place.token(&["--client", "ada"]);
        assert!(code == 64 && out.is_empty() && error.contains("openssl rand -base64 32"), "{error}");
    }

    #[test]
    fn what_no_node_would_believe_is_not_made() {
        let place = place(&format!("keys = [{{ alg = \"HS256\", secret = \"{SECRET}\" }}]"));
        for (arguments, words) in [
            (&["--client", "ada", "--subscribe", "a*"][..], "whole segment"),
            (&["--client", "ada", "--channel", "#user:7"], "`#`"),
            (&["--client", ""], "`sub`"),
            (&["--client", "ada", "--info", "[1]"], "JSON object"),
            (&["--client", "ada", "--info", "{"], "--info is not JSON"),
            (&["--client", "ada", "--expires", "0s"], "--expires"),
            (&["--client", "ada", "--expires", "soon"], "--expires"),
            (&["--client", "ada", "--only", "a", "--subscribe", "b"], "--only"),
            (&["--client", "ada", "--alg", "HS256"], "--key-file"),
            (&["--client", "ada", "--alg", "none", "--key-file", "x"], "HS256"),
            (&["--client", "ada", "--alg", "HS256", "--key-file", "/nowhere"], "/nowhere"),
            (&["--subscribe", "a"], "--client"),
        ] {
            let (code, out, error) = place.token(arguments);
            assert!(code == 64 && out.is_empty() && error.contains(words), "{arguments:?}: {error}");
            assert!(!error.contains(SECRET));
        }
        let output = skywave(&["token", "--client", "ada"], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(64) && said.contains("openssl rand -base64 32"), "{said}");
    }
}
