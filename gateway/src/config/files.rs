//! The files that settings were read from, and whether they hold something else by now.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

type Content = [u8; 32];

/// What the files of one load held: the configuration file, and those that `…_file` settings name. Two are equal if they
/// name the same files and each holds the same. Bound: the files that the operator names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<PathBuf, Option<Content>>);

impl Files {
    /// Reads a file, and remembers what it held, also that it could not be read.
    ///
    /// # Errors
    /// Of the system, and for what is not UTF-8.
    pub(super) fn read(&mut self, path: &Path) -> io::Result<String> {
        let read = fs::read(path);
        self.0.insert(path.to_owned(), read.as_ref().ok().map(|bytes| content(bytes)));
        String::from_utf8(read?).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
    }

    /// The same files as they are now. A pipe is as it was: it cannot be read twice. Blocks while it reads.
    pub fn look(&self) -> Self {
        let now = |(path, before): (&PathBuf, &Option<Content>)| {
            let now = if is_pipe(path) { *before } else { fs::read(path).ok().map(|bytes| content(&bytes)) };
            (path.clone(), now)
        };
        Self(self.0.iter().map(now).collect())
    }

    /// One that is no file to be read again (a pipe, a terminal), if there is one.
    pub fn pipe(&self) -> Option<&Path> {
        self.0.keys().map(PathBuf::as_path).find(|path| is_pipe(path))
    }
}

fn content(bytes: &[u8]) -> Content {
    Sha256::digest(bytes).into()
}

fn is_pipe(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir())
}

impl fmt::Debug for Files {
    /// Their names: what they hold may be secret, also as a hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let (there, missing) = (folder.path().join("there"), folder.path().join("missing"));
        fs::write(&there, "hunter2").unwrap();
        let mut files = Files::default();
        assert_eq!(files.read(&there).unwrap(), "hunter2");
        assert!(files.read(&missing).is_err());
        assert_eq!(files.look(), files, "nothing has changed");
        fs::write(&there, "hunter2").unwrap();
        assert_eq!(files.look(), files, "written again, and the same");
        fs::write(&there, "hunter3").unwrap();
        assert_ne!(files.look(), files);
        fs::write(&there, "hunter2").unwrap();
        fs::write(&missing, "").unwrap();
        assert_ne!(files.look(), files, "a file that was not there is there");
    }

    #[test]
    fn a_pipe_is_not_read_again() {
        let mut files = Files::default();
        files.read(Path::new("/dev/null")).unwrap();
        assert_eq!(files.look(), files);
        assert_eq!(files.pipe(), Some(Path::new("/dev/null")));
        assert!(!format!("{files:?}").contains('['), "no hash is shown");
    }
}
