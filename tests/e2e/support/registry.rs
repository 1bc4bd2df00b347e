//! Debian's docker-registry inside a node's network, where the node reaches it at a loopback address.

use super::lab::Lab;
use super::request::fetch_inside;
use super::wait::{LONG, eventually};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Who may use a registry with names and passwords.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "correct horse";

/// A registry that ends with the test.
pub struct Registry {
    process: Child,
    /// `host:port`, as in references.
    pub name: String,
    /// Where its blobs are.
    pub storage: PathBuf,
}

/// How a registry is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// Port at 127.0.0.1, or with TLS at the node's address.
    pub port: u16,
    /// [`USER`] alone may use it.
    pub password: bool,
    /// Certificate and key.
    pub tls: Option<(PathBuf, PathBuf)>,
}

impl Registry {
    /// Starts one in the network of a node.
    #[track_caller]
    pub fn start(lab: &Lab, node: &str, setup: &Setup) -> Self {
        let host = match setup.tls {
            Some(_) => lab.address(node),
            None => "127.0.0.1".to_owned(),
        };
        let name = format!("{host}:{}", setup.port);
        let place = lab.directory().join(format!("registry-{}", setup.port));
        let storage = place.join("storage");
        std::fs::create_dir_all(&storage).expect("the test's directory can be written");
        let config = place.join("config.yml");
        std::fs::write(&config, configuration(&place, &name, setup))
            .expect("the test's directory can be written");
        let log = std::fs::File::create(place.join("log")).expect("the test's directory can be written");
        let namespace = PathBuf::from(format!("/proc/{}/ns/net", lab.init(node)));
        let process = Command::new("nsenter")
            .arg(format!("--net={}", namespace.display()))
            .args(["docker-registry", "serve"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("`nsenter` is in the path");
        let registry = Self {
            process,
            name,
            storage,
        };
        eventually("the registry", LONG, || {
            // Also what is no answer in plain HTTP says that it listens.
            match fetch_inside(&namespace, &registry.name, "v2/") {
                Err(error) if error.contains("refused") => Err(error),
                _ => Ok(()),
            }
        });
        registry
    }

    /// The file of a blob.
    pub fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.storage
            .join("docker/registry/v2/blobs/sha256")
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }
}

fn configuration(place: &Path, name: &str, setup: &Setup) -> String {
    let mut text = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
         http:\n  addr: {name}\n",
        place.join("storage").display()
    );
    if let Some((certificate, key)) = &setup.tls {
        let (certificate, key) = (certificate.display(), key.display());
        text.push_str(&format!(
            "  tls:\n    certificate: {certificate}\n    key: {key}\n"
        ));
    }
    if setup.password {
        let passwords = place.join("htpasswd");
        let hashed = Command::new("htpasswd")
            .args(["-nbB", USER, PASSWORD])
            .output()
            .expect("htpasswd is in the path: install apache2-utils");
        std::fs::write(&passwords, hashed.stdout).expect("the test's directory can be written");
        let passwords = passwords.display();
        text.push_str(&format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {passwords}\n"
        ));
    }
    text
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
