//! Debian's `docker-registry`, for what a registry of our own cannot show.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::agent::PATIENCE;
use super::image::Image;
use super::registry::digest;

/// How often it is asked whether it is ready.
const TICK: Duration = Duration::from_millis(20);
/// Another process may take the free port before the registry does.
const ATTEMPTS: usize = 5;

/// A registry that runs until it is dropped.
pub struct DockerRegistry {
    dir: tempfile::TempDir,
    process: Child,
    port: u16,
}

impl DockerRegistry {
    /// Serves plain HTTP. None, and a line that says so, where the program is not installed.
    pub fn http(test: &str) -> Option<Self> {
        Self::start(test, "")
    }

    /// Serves HTTPS with a certificate and its key, both files in PEM.
    pub fn https(test: &str, certificate: &Path, key: &Path) -> Option<Self> {
        let (certificate, key) = (certificate.display(), key.display());
        Self::start(test, &format!("  tls:\n    certificate: {certificate}\n    key: {key}\n"))
    }

    /// Serves what it fetches from `origin` when somebody asks for it, and keeps that.
    pub fn proxy(test: &str, origin: &Self) -> Option<Self> {
        let url = format!("http://{}", origin.host());
        Self::start(test, &format!("proxy:\n  remoteurl: {url}\n"))
    }

    fn start(test: &str, more: &str) -> Option<Self> {
        program(test, "docker-registry")?;
        (0..ATTEMPTS).find_map(|_| Self::attempt(more)).or_else(|| panic!("docker-registry does not start"))
    }

    fn attempt(more: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("config.yml");
        fs::write(&config, configuration(&dir.path().join("data"), port, more)).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut registry = Self { dir, process, port };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = registry.process.try_wait().unwrap();
            if ended.is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "docker-registry does not answer: {}", registry.log());
            std::thread::sleep(TICK);
        }
        Some(registry)
    }

    /// `127.0.0.1:PORT`
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// An image reference by tag or by digest.
    pub fn reference(&self, repo: &str, reference: &str) -> String {
        let separator = if reference.contains(':') { '@' } else { ':' };
        format!("{}/{repo}{separator}{reference}", self.host())
    }

    /// Where it keeps what it holds.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `more` goes on where the table `http` stands.
fn configuration(data: &Path, port: u16, more: &str) -> String {
    format!(
        "version: 0.1\n\
         log:\n  level: warn\n  accesslog:\n    disabled: true\n\
         storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: 127.0.0.1:{port}\n{more}",
        data.display()
    )
}

/// A program's path; none, and a line that says that the test is skipped, where it is not installed.
pub fn program(test: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if found.is_none() {
        println!("SKIP {test}: {name} is not installed");
    }
    found
}

/// Runs `skopeo` to its end; none where it is not installed.
pub fn skopeo(test: &str, arguments: &[&str]) -> Option<std::process::Output> {
    let output = Command::new(program(test, "skopeo")?).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

/// Makes a certificate authority, and a certificate of it for loopback, as files in `dir`: the authority (alone in its
/// directory, as skopeo wants it), the certificate and its key.
pub fn certificate(dir: &Path) -> [PathBuf; 3] {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    };
    [write("ca/ca.crt", authority.pem()), write("tls.pem", certificate.pem()), write("tls.key", key.serialize_pem())]
}

/// Checks that a directory in skopeo's form has the image's blobs and the manifest of `pushed`.
pub fn skopeo_has(dir: &Path, image: &Image, pushed: &str) {
    let manifest = fs::read(dir.join("manifest.json")).unwrap();
    assert_eq!(digest(&manifest), pushed);
    for bytes in [&image.kernel, &image.initrd, &image.root].into_iter().chain(&image.disks) {
        assert!(fs::read(dir.join(digest(bytes).replace("sha256:", ""))).unwrap() == *bytes);
    }
}
