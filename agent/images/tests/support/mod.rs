//! Archives and stores for tests.
#![allow(dead_code, reason = "each test target uses its part")]

use std::io::{Cursor, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use muster_images::{Digest, ImageId, ImageRecipe, ImageStore, LoadLimits, LoadedImage, RecipeSource};
use serde_json::{Value, json};

/// Cases of a property test whose cases cost much: few, unless `PROPTEST_CASES` asks for more.
pub fn cases(few: u32) -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok();
    asked.map_or(few, |asked| asked.parse().expect("a number"))
}

pub const BUSYBOX: &str = "/usr/bin/busybox";

/// A store in a directory of its own.
pub struct Fixture {
    pub store: ImageStore,
    pub place: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        let place = tempfile::tempdir().unwrap();
        Fixture {
            store: ImageStore::open(place.path()).unwrap(),
            place,
        }
    }

    pub fn load(&self, archive: &[u8]) -> Vec<LoadedImage> {
        self.store
            .load(archive, &LoadLimits::default())
            .unwrap_or_else(|e| panic!("{}", e.full_message()))
    }

    /// Loads what must be refused; returns the message, after checking that nothing is left.
    pub fn refuse(&self, archive: &[u8], limits: &LoadLimits) -> String {
        let before = self.listing();
        let error = self
            .store
            .load(archive, limits)
            .expect_err("the archive must be refused");
        assert_eq!(
            self.listing(),
            before,
            "something is left behind after: {}",
            error.full_message()
        );
        error.full_message()
    }

    /// Every path of the store, once deletions are done.
    pub fn listing(&self) -> Vec<PathBuf> {
        self.store.wait_until_deleted();
        let mut found = Vec::new();
        let mut waiting = vec![self.place.path().to_path_buf()];
        while let Some(directory) = waiting.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    waiting.push(entry.path());
                }
                found.push(entry.path());
            }
        }
        found.sort();
        found
    }

    /// A container's root filesystem over the image, mounted.
    pub fn rootfs(&self, container_id: &str, image: &str) -> Rootfs {
        self.store.prepare(container_id, image).unwrap();
        Rootfs::of(
            self.store
                .mount(container_id)
                .unwrap_or_else(|e| panic!("{}", e.full_message())),
        )
    }
}

/// A mounted root filesystem.
pub struct Rootfs {
    mount: OwnedFd,
}

impl Rootfs {
    pub fn of(mount: OwnedFd) -> Rootfs {
        Rootfs { mount }
    }

    pub fn path(&self, path: &str) -> PathBuf {
        let process = std::process::id();
        PathBuf::from(format!("/proc/{process}/fd/{}", self.mount.as_raw_fd())).join(path)
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.path(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    pub fn names(&self, path: &str) -> Vec<String> {
        let names = std::fs::read_dir(self.path(path)).unwrap();
        let mut names: Vec<String> = names
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A layer under construction.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    pub fn header(kind: tar::EntryType, mode: u32, bytes: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(bytes);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000);
        header
    }

    /// An entry whose path and link are written as they are, however hostile.
    pub fn raw(mut self, mut header: tar::Header, path: &str, link: &str, content: &[u8]) -> Layer {
        let name = &mut header.as_old_mut().name;
        name.fill(0);
        name[..path.len()].copy_from_slice(path.as_bytes());
        let linkname = &mut header.as_old_mut().linkname;
        linkname.fill(0);
        linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    pub fn file(self, path: &str, content: &str) -> Layer {
        let header = Layer::header(tar::EntryType::Regular, 0o644, content.len() as u64);
        self.raw(header, path, "", content.as_bytes())
    }

    pub fn directory(self, path: &str, mode: u32) -> Layer {
        self.raw(Layer::header(tar::EntryType::Directory, mode, 0), path, "", b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.raw(
            Layer::header(tar::EntryType::Symlink, 0o777, 0),
            path,
            target,
            b"",
        )
    }

    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.raw(Layer::header(tar::EntryType::Link, 0o644, 0), path, target, b"")
    }

    pub fn device(self, kind: tar::EntryType, path: &str, (major, minor): (u32, u32)) -> Layer {
        let mut header = Layer::header(kind, 0o600, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, path, "", b"")
    }

    /// PAX records for the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Layer {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 3).unwrap()
}

/// A configuration for these uncompressed layers.
pub fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
    let config = json!({
        "architecture": native(), "os": "linux", "created": "2024-01-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"], "Labels": {"made": "here"}},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": layers.iter().map(|_| json!({"created_by": "step"})).collect::<Vec<_>>(),
    });
    serde_json::to_vec(&config).unwrap()
}

pub fn native() -> &'static str {
    if std::env::consts::ARCH == "x86_64" {
        "amd64"
    } else {
        "arm64"
    }
}

pub fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = Layer::header(tar::EntryType::Regular, 0o644, content.len() as u64);
        archive.append_data(&mut header, path, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

/// An archive of docker save with one image; `packed` are the layers as stored, `layers` as unpacked.
pub fn docker_archive(tag: &str, layers: &[&[u8]], packed: &[&[u8]]) -> Vec<u8> {
    let config = config(layers);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let names: Vec<String> = (0..packed.len()).map(|n| format!("layer{n}/layer.tar")).collect();
    let manifest = json!([{"Config": config_name, "RepoTags": [tag], "Layers": names}]).to_string();
    let mut files: Vec<(&str, &[u8])> = vec![(&config_name, &config), ("manifest.json", manifest.as_bytes())];
    files.extend(
        names
            .iter()
            .zip(packed)
            .map(|(name, layer)| (name.as_str(), *layer)),
    );
    archive(&files)
}

/// A docker archive whose layers are stored uncompressed.
pub fn plain_archive(tag: &str, layers: &[&[u8]]) -> Vec<u8> {
    docker_archive(tag, layers, layers)
}

/// Files of an OCI layout, by path.
#[derive(Default)]
pub struct OciLayout {
    pub files: Vec<(String, Vec<u8>)>,
}

impl OciLayout {
    pub fn blob(&mut self, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        let path = format!("blobs/sha256/{}", digest.hex());
        if self.files.iter().all(|(known, _)| *known != path) {
            self.files.push((path, content.to_vec()));
        }
        json!({"mediaType": "application/octet-stream", "digest": digest.to_string(), "size": content.len()})
    }

    pub fn image(&mut self, layers: &[&[u8]], packed: &[&[u8]]) -> Value {
        let config = self.blob(&config(layers));
        let layers: Vec<Value> = packed.iter().map(|layer| self.blob(layer)).collect();
        self.blob(
            json!({"schemaVersion": 2, "config": config, "layers": layers})
                .to_string()
                .as_bytes(),
        )
    }

    pub fn finish(mut self, entries: Vec<Value>) -> Vec<u8> {
        self.files
            .push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        self.files.push(("index.json".into(), index.into_bytes()));
        let files: Vec<(&str, &[u8])> = self
            .files
            .iter()
            .map(|(p, c)| (p.as_str(), c.as_slice()))
            .collect();
        archive(&files)
    }
}

/// An image with the machine's static busybox.
pub fn busybox(reference: &str) -> (Vec<u8>, ImageId) {
    let mut recipe = ImageRecipe {
        reference: reference.to_string(),
        cmd: vec!["sh".to_string()],
        env: vec!["PATH=/bin".to_string()],
        ..ImageRecipe::default()
    }
    .with(
        "bin/busybox",
        0o755,
        RecipeSource::File(Path::new(BUSYBOX).to_path_buf()),
    )
    .with("etc/motd", 0o644, RecipeSource::Bytes(b"hello\n".to_vec()));
    for applet in ["sh", "cat", "ls", "true", "echo"] {
        recipe = recipe.with(
            &format!("bin/{applet}"),
            0o777,
            RecipeSource::Symlink("/bin/busybox".to_string()),
        );
    }
    let mut archive = Cursor::new(Vec::new());
    let id = recipe.write(&mut archive).unwrap();
    (archive.into_inner(), id)
}

/// A docker archive of one plain layer.
pub fn one_layer(tag: &str, layer: Layer) -> Vec<u8> {
    plain_archive(tag, &[&layer.finish()])
}
