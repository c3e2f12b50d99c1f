//! The layers of settings, lowest first: defaults, file, environment, flags; and which of them said what.

use std::path::Path;

use ::config::{Config, File, FileFormat};
use serde_json::Value as Json;
use toml_edit::Document;

use super::{
    files::Files,
    layer::{Layer, is_list, read_toml},
    locate::{line_and_column, locate},
    problem::{Place, Problem},
    twins,
};

/// All layers of one start.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// What development mode changes.
    defaults: Layer,
    file: Option<ConfigFile>,
    environment: Layer,
    flags: Layer,
}

#[derive(Debug)]
struct ConfigFile {
    name: String,
    document: Document<String>,
}

impl Sources {
    /// Reads the file, if one was given.
    ///
    /// # Errors
    /// It cannot be read, or is not TOML.
    pub(super) fn read(
        file: Option<&Path>,
        files: &mut Files,
        defaults: Layer,
        environment: Layer,
        flags: Layer,
    ) -> Result<Self, Problem> {
        let file = file.map(|path| ConfigFile::read(path, files)).transpose()?;
        Ok(Self { defaults, file, environment, flags })
    }

    /// One tree of all layers, a higher layer winning.
    ///
    /// # Errors
    /// A file that `toml_edit` takes and `config` does not.
    pub(super) fn merge(&self) -> Result<Json, Problem> {
        let mut builder = Config::builder().add_source(self.defaults.clone());
        if let Some(file) = &self.file {
            builder = builder.add_source(File::from_str(file.document.raw(), FileFormat::Toml));
        }
        let merged = builder.add_source(self.environment.clone()).add_source(self.flags.clone()).build();
        merged.and_then(Config::try_deserialize).map_err(|error| {
            let place = self.file.as_ref().map_or(Place::Default, |file| file.place(None));
            Problem { place, key: String::new(), message: error.to_string() }
        })
    }

    /// Who said what stands at `path`: the highest layer that sets it (or its `_file` twin), else whoever set the nearest
    /// table around it, else something in it, else the file as a whole.
    pub(super) fn place(&self, path: &[String]) -> Place {
        let twin = twins::of(path);
        for layer in [&self.flags, &self.environment] {
            if let Some(place) = layer.place(path).or_else(|| layer.place(twin.as_deref()?)) {
                return place.clone();
            }
        }
        let in_file = |path: &[String]| {
            let file = self.file.as_ref()?;
            locate(&file.document, path).map(|(at, exact)| (file.place(Some(at)), exact))
        };
        let exact = in_file(path).filter(|(_, exact)| *exact).or_else(|| in_file(twin.as_deref()?));
        if let Some((place, true)) = exact {
            return place;
        }
        for layer in [&self.flags, &self.environment] {
            if let Some(place) = layer.place_below(path) {
                return place.clone();
            }
        }
        match in_file(path) {
            Some((place, _)) => place,
            None => self.file.as_ref().map_or(Place::Default, |file| file.place(None)),
        }
    }

    /// Whether anybody wrote exactly this setting, or its `_file` twin.
    pub(super) fn is_set(&self, path: &[String]) -> bool {
        let twin = twins::of(path);
        [Some(path), twin.as_deref()].into_iter().flatten().any(|path| {
            let in_file =
                self.file.as_ref().and_then(|file| locate(&file.document, path)).is_some_and(|(_, exact)| exact);
            in_file || self.flags.place(path).is_some() || self.environment.place(path).is_some()
        })
    }

    /// Where the value at `path` comes from: where it was written, else whose default it is.
    pub(super) fn origin(&self, path: &[String]) -> Place {
        if self.is_set(path) {
            return self.place(path);
        }
        self.defaults.place(path).cloned().unwrap_or(Place::Default)
    }

    /// Another reading of the text that a variable put at `path`, where the schema takes no text: a TOML scalar, or a
    /// list with commas. None if the file says it: there `"5"` is a text and a mistake.
    pub(super) fn reread(&self, path: &[String], text: &str) -> Option<Json> {
        self.flags.place(path).or_else(|| self.environment.place(path))?;
        if is_list(path) {
            return Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect());
        }
        let value = read_toml(text)?;
        (!value.is_str() && !value.is_datetime()).then(|| serde_json::to_value(value).ok()).flatten()
    }
}

impl ConfigFile {
    fn read(path: &Path, files: &mut Files) -> Result<Self, Problem> {
        let name = path.display().to_string();
        let text = files.read(path).map_err(|error| Problem {
            place: Place::Flag("--config".to_owned()),
            key: String::new(),
            message: format!("cannot read {name}: {error}"),
        })?;
        let document = Document::parse(text.clone()).map_err(|error| Problem {
            place: Place::File { name: name.clone(), at: error.span().map(|span| line_and_column(&text, span.start)) },
            key: String::new(),
            message: error.message().replace('\n', ", "),
        })?;
        Ok(Self { name, document })
    }

    fn place(&self, at: Option<(usize, usize)>) -> Place {
        Place::File { name: self.name.clone(), at }
    }
}
