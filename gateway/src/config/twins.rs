//! Settings that may stand in a file of their own: `secret` and `secret_file`. What belongs in no configuration file, nor
//! in an environment that `ps` and crash reports show, is mounted as a file.

use serde_json::Value as Json;

use super::{files::Files, layer::Path, problem::Problem, source::Sources};

const TWINS: [[&str; 2]; 4] =
    [["node", "secret"], ["backplane", "url"], ["backplane", "password"], ["backplane", "sentinel_password"]];
/// Of each webhook.
const OF_A_WEBHOOK: [&str; 2] = ["url", "secret"];
/// The twins in an entry of `auth.tokens.keys`.
const TOKEN_KEY: [&str; 2] = ["secret", "public_key"];
/// Where the backplane is: said in one of these ways.
const BACKPLANE: [&str; 3] = ["url", "url_file", "urls"];

/// The other name of the same setting.
pub(super) fn of(path: &[String]) -> Option<Path> {
    let (key, around) = path.split_last()?;
    let plain = key.strip_suffix("_file").unwrap_or(key);
    let known = match around {
        [section] => TWINS.iter().any(|[s, k]| s == section && *k == plain),
        [api, keys, _] => api == "api" && keys == "keys" && plain == "key",
        [webhooks, _] if webhooks == "webhooks" => OF_A_WEBHOOK.contains(&plain),
        [auth, tokens] => auth == "auth" && tokens == "tokens" && plain == "jwks_url",
        [auth, tokens, keys, _] => auth == "auth" && tokens == "tokens" && keys == "keys" && TOKEN_KEY.contains(&plain),
        _ => false,
    };
    let other = if plain == key { format!("{key}_file") } else { plain.to_owned() };
    known.then(|| [around, &[other]].concat())
}

/// What cannot stand beside this setting in one layer, and is replaced by it in lower ones: its other name, and another way
/// to say the same.
pub(super) fn instead_of(path: &[String]) -> impl Iterator<Item = Path> + use<> {
    let others = match path {
        [section, key] if section == "backplane" && BACKPLANE.contains(&key.as_str()) => {
            let others = BACKPLANE.iter().filter(|other| *other != key);
            others.map(|other| vec![section.clone(), (*other).to_owned()]).collect()
        }
        path => Vec::from_iter(of(path)),
    };
    others.into_iter()
}

/// Other files whose content counts, also when only that changes.
const CONTENT: [&str; 1] = ["/webhooks/ca"];

/// Puts what the files hold in the place of their twins. Paths are as the process sees them: relative ones start at its
/// working directory.
pub(super) fn read(tree: &mut Json, sources: &Sources, files: &mut Files, problems: &mut Vec<Problem>) {
    for file in CONTENT.iter().filter_map(|pointer| tree.pointer(pointer).and_then(Json::as_str)) {
        let _ = files.read(std::path::Path::new(file)); // it is read again, and refused, where it is used
    }
    if let Some(backplane) = tree.get_mut("backplane").and_then(Json::as_object_mut) {
        backplane.retain(|key, value| !(key == "urls" && value.is_null())); // a higher layer took it back
        if let Some(other) =
            ["url", "url_file"].into_iter().find(|key| backplane.get(*key).is_some_and(|url| !url.is_null()))
            && backplane.contains_key("urls")
        {
            let path = ["backplane", "urls"].map(str::to_owned);
            let message = format!("`{other}` is set too; set one of them");
            problems.push(Problem { place: sources.place(&path), key: path.join("."), message });
        }
    }
    for [section, key] in TWINS {
        if let Some(table) = tree.get_mut(section) {
            read_one(table, &[section.to_owned()], key, sources, files, problems);
        }
    }
    if let Some(hooks) = tree.get_mut("webhooks").and_then(Json::as_object_mut) {
        for (name, hook) in hooks.iter_mut().filter(|(_, hook)| hook.is_object()) {
            let around = ["webhooks", name].map(str::to_owned);
            for key in OF_A_WEBHOOK {
                read_one(hook, &around, key, sources, files, problems);
            }
        }
    }
    if let Some(keys) = tree.pointer_mut("/api/keys").and_then(Json::as_array_mut) {
        for (index, entry) in keys.iter_mut().enumerate() {
            let around = ["api", "keys", &index.to_string()].map(str::to_owned);
            read_one(entry, &around, "key", sources, files, problems);
        }
    }
    if let Some(tokens) = tree.pointer_mut("/auth/tokens") {
        read_one(tokens, &["auth", "tokens"].map(str::to_owned), "jwks_url", sources, files, problems);
    }
    if let Some(keys) = tree.pointer_mut("/auth/tokens/keys").and_then(Json::as_array_mut) {
        for (index, entry) in keys.iter_mut().enumerate() {
            let around = ["auth", "tokens", "keys", &index.to_string()].map(str::to_owned);
            for key in TOKEN_KEY {
                read_one(entry, &around, key, sources, files, problems);
            }
        }
    }
}

fn read_one(
    table: &mut Json,
    around: &[String],
    key: &str,
    sources: &Sources,
    files: &mut Files,
    problems: &mut Vec<Problem>,
) {
    let twin = format!("{key}_file");
    let Some(table) = table.as_object_mut() else { return };
    // A higher layer took these back.
    for name in [key, &twin] {
        if table.get(name).is_some_and(Json::is_null) {
            table.remove(name);
        }
    }
    // Anything but a text is for the schema to refuse.
    let Some(file) = table.get(&twin).and_then(Json::as_str).map(str::to_owned) else { return };
    let path = [around, &[twin]].concat();
    let mut problem = |message| {
        problems.push(Problem { place: sources.place(&path), key: path.join("."), message });
    };
    if table.contains_key(key) {
        return problem(format!("`{key}` is set too; set one of them"));
    }
    match files.read(std::path::Path::new(&file)) {
        Ok(text) => {
            let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
            table.insert(key.to_owned(), text.into());
        }
        // Not repeated: who writes the secret itself here by mistake must not find it in a log.
        Err(error) => problem(format!("is the path of a file, and that cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twins_know_each_other() {
        let of = |path: &str| of(&path.split('.').map(Into::into).collect::<Vec<_>>()).map(|path| path.join("."));
        assert_eq!(of("node.secret").as_deref(), Some("node.secret_file"));
        assert_eq!(of("backplane.url_file").as_deref(), Some("backplane.url"));
        assert_eq!(of("api.keys.3.key").as_deref(), Some("api.keys.3.key_file"));
        assert_eq!(of("webhooks.rpc.secret").as_deref(), Some("webhooks.rpc.secret_file"));
        assert_eq!(of("webhooks.ca"), None);
        assert_eq!(of("auth.tokens.jwks_url").as_deref(), Some("auth.tokens.jwks_url_file"));
        assert_eq!(of("auth.tokens.keys.0.secret_file").as_deref(), Some("auth.tokens.keys.0.secret"));
        assert_eq!(of("auth.tokens.keys.0.public_key").as_deref(), Some("auth.tokens.keys.0.public_key_file"));
        assert_eq!(of("auth.tokens.keys.0.kid"), None);
        assert_eq!(of("node.name"), None);
        assert_eq!(of("limits.url"), None);
    }

    #[test]
    fn what_says_the_same_is_replaced() {
        let instead_of = |path: &str| {
            let path: Vec<_> = path.split('.').map(Into::into).collect();
            instead_of(&path).map(|path| path.join(".")).collect::<Vec<_>>()
        };
        assert_eq!(instead_of("backplane.urls"), ["backplane.url", "backplane.url_file"]);
        assert_eq!(instead_of("backplane.url"), ["backplane.url_file", "backplane.urls"]);
        assert_eq!(instead_of("node.secret"), ["node.secret_file"]);
        assert!(instead_of("backplane.prefix").is_empty());
    }
}
