//! `RUN --mount`.

use crate::error::{Error, Result};

/// Who may use a cache at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Several steps at once.
    #[default]
    Shared,
    /// One step; the others wait.
    Locked,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the context, of a stage or of an image.
    Bind {
        /// The stage or image; the context where `None`.
        from: Option<String>,
        /// The part of it; all of it when empty.
        source: String,
    },
    /// A directory that outlives the build.
    Cache {
        /// Its identity.
        id: String,
        /// Who may use it at a time.
        sharing: Sharing,
        /// Mode of the directory.
        mode: u32,
        /// Owner of the directory.
        uid: u32,
        /// Group of the directory.
        gid: u32,
    },
    /// Memory.
    Tmpfs {
        /// Its size in bytes; 0 means the kernel's default.
        bytes: u64,
    },
}

/// One mount of a `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// What.
    pub kind: MountKind,
    /// Where in the container.
    pub target: String,
    /// It cannot be written to.
    pub read_only: bool,
}

impl Mount {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut fields = Fields::default();
        for field in text.split(',') {
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (field, None),
            };
            fields.set(&key.to_ascii_lowercase(), value)?;
        }
        fields.mount()
    }
}

#[derive(Default)]
struct Fields {
    kind: Option<String>,
    target: Option<String>,
    source: Option<String>,
    from: Option<String>,
    id: Option<String>,
    read_only: Option<bool>,
    sharing: Option<Sharing>,
    bytes: Option<u64>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        let invalid = || {
            Error::new(format!(
                "invalid value {:?} of {key} in --mount",
                value.unwrap_or_default()
            ))
        };
        let needed = || value.filter(|value| !value.is_empty()).ok_or_else(invalid);
        let text = || needed().map(|value| Some(value.to_owned()));
        let truth = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(invalid()),
        };
        let number = || needed()?.parse::<u32>().map(Some).map_err(|_| invalid());
        match key {
            "type" => self.kind = text()?,
            "target" | "dst" | "destination" => self.target = text()?,
            "source" | "src" => self.source = text()?,
            "from" => self.from = text()?,
            "id" => self.id = text()?,
            "ro" | "readonly" => self.read_only = Some(truth()?),
            "rw" | "readwrite" => self.read_only = Some(!truth()?),
            "sharing" => {
                self.sharing = Some(match needed()? {
                    "shared" => Sharing::Shared,
                    // A private cache is a new one for whoever comes second; waiting keeps what it holds.
                    "locked" | "private" => Sharing::Locked,
                    _ => return Err(invalid()),
                })
            }
            "size" => self.bytes = Some(bytes(needed()?).ok_or_else(invalid)?),
            "mode" => self.mode = Some(u32::from_str_radix(needed()?, 8).map_err(|_| invalid())? & 0o7777),
            "uid" => self.uid = number()?,
            "gid" => self.gid = number()?,
            "required" | "env" => {}
            _ => return Err(Error::new(format!("unexpected key '{key}' in --mount"))),
        }
        Ok(())
    }

    fn mount(self) -> Result<Mount> {
        let kind = self.kind.as_deref().unwrap_or("bind");
        if matches!(kind, "secret" | "ssh") {
            return Err(Error::new(format!(
                "RUN --mount=type={kind} is not supported: it needs a BuildKit session, and the classic builder's \
                 requests cannot carry secrets. Fetch what the step needs before the build, and COPY it"
            )));
        }
        let target = self.target.ok_or_else(|| Error::new("--mount needs a target"))?;
        let (kind, read_only) = match kind {
            "bind" => {
                let kind = MountKind::Bind {
                    from: self.from,
                    source: self.source.unwrap_or_default(),
                };
                if self.read_only == Some(false) {
                    return Err(Error::new(
                        "RUN --mount=type=bind,rw is not supported: copy the files with COPY to change them",
                    ));
                }
                (kind, true)
            }
            "cache" => {
                if self.from.is_some() {
                    return Err(Error::new("RUN --mount=type=cache,from=… is not supported"));
                }
                let kind = MountKind::Cache {
                    id: self.id.unwrap_or_else(|| target.clone()),
                    sharing: self.sharing.unwrap_or_default(),
                    mode: self.mode.unwrap_or(0o755),
                    uid: self.uid.unwrap_or(0),
                    gid: self.gid.unwrap_or(0),
                };
                (kind, self.read_only.unwrap_or(false))
            }
            "tmpfs" => {
                let kind = MountKind::Tmpfs {
                    bytes: self.bytes.unwrap_or(0),
                };
                (kind, self.read_only.unwrap_or(false))
            }
            other => return Err(Error::new(format!("unsupported mount type {other:?}"))),
        };
        Ok(Mount {
            kind,
            target,
            read_only,
        })
    }
}

/// A number of bytes with an optional unit.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let shift = match lower[digits..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        _ => return None,
    };
    lower[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let cache = Mount::parse("type=cache,target=/c,mode=0700,sharing=locked").unwrap();
        assert_eq!(
            cache.kind,
            MountKind::Cache {
                id: "/c".into(),
                sharing: Sharing::Locked,
                mode: 0o700,
                uid: 0,
                gid: 0
            }
        );
        let bind = Mount::parse("from=base,source=/x,dst=/y").unwrap();
        assert!(bind.read_only);
        assert_eq!(
            Mount::parse("type=tmpfs,target=/t,size=2m").unwrap().kind,
            MountKind::Tmpfs { bytes: 2 << 20 }
        );
        for bad in [
            "type=secret,id=x",
            "type=ssh",
            "type=bind",
            "target=/x,rw",
            "type=what,target=/x",
            "type=tmpfs,target=/x,size=x",
            "target=/x,nonsense=1",
            "",
        ] {
            assert!(Mount::parse(bad).is_err(), "{bad}");
        }
    }
}
