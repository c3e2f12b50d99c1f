//! Settings can be loaded again, from where they came from.

use std::{ffi::OsString, fmt};

use super::{
    Settings, contradictions, development,
    files::Files,
    flags::Flags,
    layer::{Layer, PREFIX},
    problem::ConfigError,
    schema,
    source::Sources,
    twins,
};

/// What a node was started with: loading again reads the same file with the same variables and flags on top, whatever
/// becomes of the process's environment. A node that nobody gave a name keeps the one that it was given at first.
#[derive(Clone)]
pub struct Loader {
    flags: Flags,
    /// Only those that begin with [`PREFIX`].
    environment: Vec<(OsString, OsString)>,
    made_name: String,
}

/// What one load read.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) settings: Settings,
    pub(super) sources: Sources,
}

impl Loader {
    /// Captures flags and variables. `env` is `std::env::vars_os()`, or what a test makes up; only names that begin with
    /// `SKYWAVE__` are kept.
    pub fn new<K, V>(flags: &Flags, env: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<OsString>,
        V: Into<OsString>,
    {
        let environment = env.into_iter().map(|(name, value)| (name.into(), value.into()));
        let is_ours = |(name, _): &(OsString, OsString)| name.as_encoded_bytes().starts_with(PREFIX.as_bytes());
        Self { flags: flags.clone(), environment: environment.filter(is_ours).collect(), made_name: super::new_name() }
    }

    /// Reads all layers, checks them and puts them together.
    ///
    /// Reads the configuration file and the files that `…_file` settings name; blocks while it does.
    ///
    /// # Errors
    /// Everything that is wrong and can be seen at once: what the file cannot say, or else, once it says what it may,
    /// what does not go together.
    pub fn load(&self) -> Result<Settings, ConfigError> {
        self.load_with_files().0
    }

    /// The same, and what it read: by that one can see later whether it is worth loading again. Also after an error.
    pub fn load_with_files(&self) -> (Result<Settings, ConfigError>, Files) {
        let mut files = Files::default();
        let outcome = self.read(&mut files).map(|loaded| loaded.settings);
        (outcome, files)
    }

    pub(super) fn read(&self, files: &mut Files) -> Result<Loaded, ConfigError> {
        let mut problems = Vec::new();
        let environment = Layer::environment(self.environment.iter().cloned(), &mut problems);
        let development = development::is_on(&self.flags, &environment);
        let defaults = if development { development::defaults() } else { Layer::default() };
        let read = Sources::read(self.flags.config.as_deref(), files, defaults, environment, self.flags.layer());
        let sources = read.map_err(|problem| ConfigError::new([problems.clone(), vec![problem]].concat()))?;
        let mut tree = sources.merge().map_err(|problem| ConfigError::new(vec![problem]))?;
        twins::read(&mut tree, &sources, files, &mut problems);
        let document = schema::read(tree, &sources, &mut problems);
        if problems.is_empty() {
            contradictions::check(&document, &sources, &mut problems);
        }
        if !problems.is_empty() {
            return Err(ConfigError::new(problems));
        }
        Ok(Loaded { settings: Settings::new(document, development, &self.made_name), sources })
    }
}

impl fmt::Debug for Loader {
    /// The names of the variables: their values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<_> = self.environment.iter().map(|(name, _)| name).collect();
        f.debug_struct("Loader").field("flags", &self.flags).field("variables", &variables).finish_non_exhaustive()
    }
}
