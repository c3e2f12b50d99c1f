//! Which settings a node runs with, in twelve letters: by them a fleet is compared.

use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{Authorities, Settings, secret::without_fingerprint};

/// What each node has for itself, so that nodes of one configuration have one version.
const OWN: [&[&str]; 5] = [
    &["node", "name"],
    &["node", "shards"],
    &["public", "listen"],
    &["internal", "listen"],
    &["limits", "node_outbox_bytes"],
];

impl Settings {
    /// The first 12 hexadecimal digits of SHA-256 over all settings but those that each node has for itself (its name, its
    /// addresses, what depends on its machine).
    ///
    /// A key that changed changes it. Passwords that people make up have no part in it, nor could they change in a running
    /// node: whoever reads metrics could otherwise try whether a guess is right.
    pub fn version(&self) -> String {
        let mut tree = self.tree();
        for path in OWN {
            take_out(&mut tree, path);
        }
        for section in ["node", "backplane"] {
            tree.get_mut(section).into_iter().for_each(mask);
        }
        let mut hash = Sha256::new_with_prefix(tree.to_string().as_bytes());
        // The tree has its path, and not what the file holds.
        hash.update(self.webhooks.ca.as_ref().map_or(&[][..], Authorities::pem));
        let hash = hash.finalize();
        hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

fn take_out(tree: &mut Json, path: &[&str]) {
    let [around @ .., key] = path else { return };
    let table = around.iter().try_fold(tree, |tree, key| tree.get_mut(*key));
    if let Some(table) = table.and_then(Json::as_object_mut) {
        table.remove(*key);
    }
}

/// Takes the fingerprints of all secrets out.
pub(super) fn mask(tree: &mut Json) {
    match tree {
        Json::String(text) => {
            if let Some(shown) = without_fingerprint(text) {
                *text = shown;
            }
        }
        Json::Array(list) => list.iter_mut().for_each(mask),
        Json::Object(table) => table.values_mut().for_each(mask),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Flags, Loader};

    fn version(variables: &[(&str, &str)]) -> String {
        let version = Loader::new(&Flags::default(), variables.iter().copied()).load().unwrap().version();
        assert!(version.len() == 12 && version.bytes().all(|b| b.is_ascii_hexdigit()), "{version}");
        version
    }

    const KEYS: &str = "SKYWAVE__API__KEYS";
    const KEY: &str = r#"[{ name = "a", key = "0123456789abcdef", scopes = ["read"] }]"#;
    const OTHER: &str = r#"[{ name = "a", key = "0123456789abcdeX", scopes = ["read"] }]"#;

    #[test]
    fn nodes_of_one_configuration_have_one_version() {
        let one = version(&[(KEYS, KEY), ("SKYWAVE__NODE__NAME", "a"), ("SKYWAVE__PUBLIC__LISTEN", "127.0.0.1:1")]);
        assert_eq!(one, version(&[(KEYS, KEY), ("SKYWAVE__NODE__NAME", "b"), ("SKYWAVE__NODE__SHARDS", "3")]));
        assert_ne!(one, version(&[(KEYS, OTHER)]), "another key");
        assert_ne!(one, version(&[(KEYS, KEY), ("SKYWAVE__TIMEOUTS__PONG", "11s")]), "another setting");
    }

    #[test]
    fn another_authority_under_the_same_name_is_another_version() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let versions = [(); 2].map(|()| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            std::fs::write(&ca, made.cert.pem()).unwrap();
            let hook = ("SKYWAVE__WEBHOOKS__RPC", "{ url = \"https://h/\" }");
            version(&[("SKYWAVE__WEBHOOKS__CA", ca.to_str().unwrap()), hook])
        });
        assert_ne!(versions[0], versions[1]);
    }

    #[test]
    fn a_password_cannot_be_guessed_by_it() {
        let url = ("SKYWAVE__BACKPLANE__URL", "redis://h");
        let one = version(&[url, ("SKYWAVE__BACKPLANE__PASSWORD", "hunter2")]);
        assert_eq!(one, version(&[url, ("SKYWAVE__BACKPLANE__PASSWORD", "hunter3")]));
        assert_ne!(one, version(&[url]), "that there is one");
    }
}
