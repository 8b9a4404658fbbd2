//! Reading of one configuration file.

use std::io::{self, Read};
use std::path::Path;

use nix::unistd::geteuid;

use super::error::ConfigError;
use super::writers::check_writers;
use crate::durable::open_file;

/// Size limit of a configuration file, in bytes.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads a configuration file: a regular file of at most 1 MiB. As root, refuses a file that another user can write.
pub(super) fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = open_file(path).map_err(failed)?;
    if geteuid().is_root() {
        check_writers(path, &file)?;
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| failed(io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{Classify, Kind};
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    use std::path::Path;

    const NOBODY: u32 = 65534;

    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        symlink("/dev/zero", path("zero")).unwrap();
        fs::create_dir(path("dir")).unwrap();
        fs::write(path("large"), vec![b'#'; (1 << 20) + 1]).unwrap();
        fs::write(path("binary"), [0xff]).unwrap();
        for name in ["fifo", "zero", "dir", "large", "binary", "absent"] {
            let error = read(&path(name)).unwrap_err();
            assert_eq!(error.kind(), Kind::ConfigInvalid);
            assert!(error.to_string().contains(path(name).to_str().unwrap()), "{error}");
        }
        fs::write(path("largest"), vec![b'#'; 1 << 20]).unwrap();
        assert_eq!(read(&path("largest")).unwrap().len(), 1 << 20);
        symlink("largest", path("link")).unwrap();
        assert!(read(&path("link")).is_ok());
    }

    #[test]
    fn root_refuses_files_that_others_can_write() {
        if !geteuid().is_root() {
            println!("SKIP root_refuses_files_that_others_can_write: only root gives files away");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (etc, elsewhere) = (dir.path().join("etc"), dir.path().join("elsewhere"));
        let (file, link) = (etc.join("a.toml"), elsewhere.join("link.toml"));
        for dir in [&etc, &elsewhere] {
            fs::create_dir(dir).unwrap();
            mode(dir, 0o755);
        }
        fs::write(&file, "").unwrap();
        symlink(&file, &link).unwrap();
        let refused = |path: &Path, named: &Path, saying: &str| {
            let error = read(path).unwrap_err();
            assert_eq!((error.kind(), error.kind().exit_code()), (Kind::ConfigInvalid, 78));
            let error = error.to_string();
            assert!(error.contains(named.to_str().unwrap()) && error.contains(saying), "{saying}: {error}");
        };
        let reset = || {
            for (path, bits) in [(&file, 0o644), (&etc, 0o755), (&elsewhere, 0o755)] {
                chown(path, Some(0), Some(0)).unwrap();
                mode(path, bits);
            }
            assert!(read(&file).is_ok() && read(&link).is_ok());
        };
        reset();
        for bits in [0o664, 0o646] {
            mode(&file, bits);
            refused(&file, &file, &format!("mode {bits:04o}"));
            refused(&link, &link, &format!("mode {bits:04o}"));
            reset();
        }
        chown(&file, Some(NOBODY), None).unwrap();
        refused(&file, &file, "user 65534");
        reset();
        for bits in [0o775, 0o757, 0o777] {
            mode(&etc, bits);
            refused(&file, &etc, &format!("mode {bits:04o}"));
            refused(&link, &etc, &format!("mode {bits:04o}"));
            reset();
        }
        chown(&elsewhere, Some(NOBODY), None).unwrap();
        refused(&link, &elsewhere, "user 65534");
        assert!(read(&file).is_ok());
        reset();
        std::os::unix::fs::lchown(&link, Some(NOBODY), None).unwrap();
        refused(&link, &link, "user 65534");
        mode(&etc, 0o1777);
        assert!(read(&file).is_ok(), "nobody else can replace a file in a sticky directory");
    }
}
