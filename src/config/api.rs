//! Settings about where the Engine API listens.

use super::{ApiHost, ConfigFile, DEFAULT_SOCKET, TlsFiles, address};
use muster_types::Problems;
use std::path::PathBuf;

pub(super) fn hosts(raw: &ConfigFile, tls: bool, problems: &mut Problems) -> Vec<ApiHost> {
    let default = [match &raw.run_dir {
        Some(run_dir) => format!("unix://{}/docker.sock", run_dir.display()),
        None => DEFAULT_SOCKET.to_owned(),
    }];
    let given = if raw.hosts.is_empty() {
        &default[..]
    } else {
        &raw.hosts[..]
    };
    let mut hosts = Vec::new();
    for text in given {
        if let Some(path) = text.strip_prefix("unix://") {
            if path.starts_with('/') {
                hosts.push(ApiHost::Unix(PathBuf::from(path)));
            } else {
                problems.add("host", format!("{text:?}: the socket's path must be absolute"));
            }
        } else if let Some(rest) = text.strip_prefix("tcp://") {
            let port = if tls { 2376 } else { 2375 };
            if let Some(address) = address("host", rest, port, problems) {
                if !tls && !raw.insecure_loopback {
                    problems.add(
                        "host",
                        format!("{text:?}: TCP needs --tlsverify with --tlscacert, --tlscert and --tlskey"),
                    );
                } else if !tls && !address.ip().is_loopback() {
                    problems.add(
                        "host",
                        format!("{text:?}: without TLS only loopback addresses are served"),
                    );
                }
                hosts.push(ApiHost::Tcp(address));
            }
        } else {
            problems.add(
                "host",
                format!("{text:?}: use unix:///path or tcp://address:port"),
            );
        }
    }
    hosts
}

pub(super) fn tls_files(raw: &ConfigFile, problems: &mut Problems) -> Option<TlsFiles> {
    let files = (&raw.tlscacert, &raw.tlscert, &raw.tlskey);
    match (raw.tlsverify, files) {
        (true, (Some(authority), Some(certificate), Some(key))) => {
            let missing = [authority, certificate, key]
                .into_iter()
                .filter(|file| !file.is_file());
            let missing: Vec<_> = missing.collect();
            for file in &missing {
                problems.add("tlsverify", format!("{} is not a file", file.display()));
            }
            let files = TlsFiles {
                authority: authority.clone(),
                certificate: certificate.clone(),
                key: key.clone(),
            };
            if missing.is_empty() {
                for (field, error) in crate::tls::problems(&files) {
                    problems.add(field, format!("{error:#}"));
                }
            }
            Some(files)
        }
        (true, _) => {
            problems.add("tlsverify", "needs tlscacert, tlscert and tlskey");
            None
        }
        (false, (None, None, None)) => None,
        (false, _) => {
            problems.add(
                "tlsverify",
                "certificates are given, but not tlsverify: clients would not be checked",
            );
            None
        }
    }
}
