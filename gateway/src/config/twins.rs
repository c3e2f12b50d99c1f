//! Settings that may stand in a file of their own: `secret` and `secret_file`. What belongs in no configuration file, nor
//! in an environment that `ps` and crash reports show, is mounted as a file.

use serde_json::Value as Json;

use super::{layer::Path, problem::Problem, source::Sources};

const TWINS: [[&str; 2]; 3] = [["node", "secret"], ["backplane", "url"], ["backplane", "password"]];

/// The other name of the same setting.
pub(super) fn of(path: &[String]) -> Option<Path> {
    let (key, around) = path.split_last()?;
    let plain = key.strip_suffix("_file").unwrap_or(key);
    let known = match around {
        [section] => TWINS.iter().any(|[s, k]| s == section && *k == plain),
        [api, keys, _] => api == "api" && keys == "keys" && plain == "key",
        _ => false,
    };
    let other = if plain == key { format!("{key}_file") } else { plain.to_owned() };
    known.then(|| [around, &[other]].concat())
}

/// Puts what the files hold in the place of their twins. Paths are as the process sees them: relative ones start at its
/// working directory.
pub(super) fn read(tree: &mut Json, sources: &Sources, problems: &mut Vec<Problem>) {
    for [section, key] in TWINS {
        if let Some(table) = tree.get_mut(section) {
            read_one(table, &[section.to_owned()], key, sources, problems);
        }
    }
    if let Some(keys) = tree.pointer_mut("/api/keys").and_then(Json::as_array_mut) {
        for (index, entry) in keys.iter_mut().enumerate() {
            let around = ["api", "keys", &index.to_string()].map(str::to_owned);
            read_one(entry, &around, "key", sources, problems);
        }
    }
}

fn read_one(table: &mut Json, around: &[String], key: &str, sources: &Sources, problems: &mut Vec<Problem>) {
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
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let text = text.strip_suffix('\n').map_or(&*text, |line| line.strip_suffix('\r').unwrap_or(line));
            table.insert(key.to_owned(), text.into());
        }
        Err(error) => problem(format!("cannot read {file}: {error}")),
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
        assert_eq!(of("node.name"), None);
        assert_eq!(of("limits.url"), None);
    }
}
