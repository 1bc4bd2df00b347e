//! Which SELinux labels a container gets, from the policy's own defaults for containers and the user's options.

mod relabel;

use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

pub use relabel::{Audience, relabel};

/// Categories that the default policies have, `c0` to `c1023`.
const CATEGORIES: u16 = 1024;

/// The level of what is shared by containers without a label of their own: the two highest categories.
const LEVEL_UNCONFINED: &str = "s0:c1022,c1023";

/// Where a file's label is.
const ATTRIBUTE: &str = "security.selinux";

/// A label: `user:role:type` and, on policies with levels, `:level`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Context {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

impl Context {
    fn parse(text: &str) -> Option<Context> {
        let mut fields = text.splitn(4, ':').map(str::to_owned);
        let context = Context {
            user: fields.next()?,
            role: fields.next()?,
            kind: fields.next()?,
            level: fields.next(),
        };
        let named = [&context.user, &context.role, &context.kind];
        named.iter().all(|field| !field.is_empty()).then_some(context)
    }

    fn text(&self) -> String {
        let Context { user, role, kind, .. } = self;
        let level = self.level.iter().map(|level| format!(":{level}"));
        format!("{user}:{role}:{kind}{}", level.collect::<String>())
    }
}

/// Two categories that keep a container's files from other containers, the lower one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Level(u16, u16);

impl Level {
    /// The one that comes from a container's id.
    pub fn of(container_id: &str) -> Level {
        // FNV-1a: ids are random already; this only folds all of one into a number.
        let hash = container_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let categories = u32::from(CATEGORIES);
        let (first, second) = (hash % categories, hash / categories % (categories - 1));
        let second = second + u32::from(second >= first);
        let category = |number: u32| u16::try_from(number).unwrap_or_default();
        Level(category(first.min(second)), category(first.max(second)))
    }

    /// The next one in the order of all.
    #[must_use]
    pub fn next(self) -> Level {
        match self {
            Level(first, second) if second + 1 < CATEGORIES => Level(first, second + 1),
            Level(first, _) if first + 2 < CATEGORIES => Level(first + 1, first + 2),
            Level(..) => Level(0, 1),
        }
    }

    /// The one that a text such as `s0:c1,c2` means; `None` for other forms.
    pub fn parse(text: &str) -> Option<Level> {
        let (first, second) = text.strip_prefix("s0:c")?.split_once(",c")?;
        let (first, second) = (first.parse::<u16>().ok()?, second.parse::<u16>().ok()?);
        let valid = first != second && first.max(second) < CATEGORIES;
        valid.then(|| Level(first.min(second), first.max(second)))
    }

    /// The first one that is free, from the one that comes from a container's id on. When none is, containers share.
    pub fn reserve(container_id: &str, is_taken: impl Fn(Level) -> bool) -> Level {
        let first = Level::of(container_id);
        let mut level = first;
        // The policy's own level of unconfined containers is nobody's.
        while is_taken(level) || level.text() == LEVEL_UNCONFINED {
            level = level.next();
            if level == first {
                break;
            }
        }
        level
    }

    fn text(self) -> String {
        let Level(first, second) = self;
        format!("s0:c{first},c{second}")
    }
}

/// What the loaded policy says that containers and their files are labelled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerContexts {
    process: Context,
    file: Context,
}

/// `--security-opt label=…`, read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelOptions {
    disabled: bool,
    user: Option<String>,
    role: Option<String>,
    kind: Option<String>,
    level: Option<String>,
    file_kind: Option<String>,
}

/// The labels of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerLabels {
    /// Of its processes; `None` leaves them the engine's.
    pub process: Option<String>,
    /// Of the file systems that are mounted for it.
    pub mount: String,
}

impl LabelOptions {
    /// Takes what follows `label=`; false when it is none of the known options.
    pub fn read(&mut self, option: &str) -> bool {
        let (key, value) = option.split_once(':').unwrap_or((option, ""));
        let field = match key {
            "disable" if value.is_empty() => {
                self.disabled = true;
                return true;
            }
            "user" => &mut self.user,
            "role" => &mut self.role,
            "type" => &mut self.kind,
            "level" => &mut self.level,
            "filetype" => &mut self.file_kind,
            _ => return false,
        };
        *field = Some(value.to_owned());
        !value.is_empty()
    }

    /// No label on the processes, as privileged containers have none.
    #[must_use]
    pub fn or_disabled(mut self, disabled: bool) -> Self {
        self.disabled |= disabled;
        self
    }

    /// The level that was asked for, where it has the form of those that are given out.
    pub fn level(&self) -> Option<Level> {
        self.level.as_deref().and_then(Level::parse)
    }

    /// Whether anything but no label was asked for.
    pub fn asks_for_a_label(&self) -> bool {
        let fields = [&self.user, &self.role, &self.kind, &self.level, &self.file_kind];
        fields.iter().any(|field| field.is_some())
    }
}

impl ContainerContexts {
    /// The contexts of the policy that `/etc/selinux` (given) names; `None` where it has none for containers.
    pub fn read(configuration: &Path) -> Option<ContainerContexts> {
        let config = std::fs::read_to_string(configuration.join("config")).ok()?;
        let policy = config
            .lines()
            .find_map(|line| line.trim().strip_prefix("SELINUXTYPE="))?;
        let contexts = configuration.join(policy.trim()).join("contexts/lxc_contexts");
        Self::parse(&std::fs::read_to_string(contexts).ok()?)
    }

    /// From lines such as `process = "system_u:system_r:container_t:s0"`.
    fn parse(text: &str) -> Option<ContainerContexts> {
        let value = |name: &str| {
            let mut values = text.lines().filter_map(|line| {
                let (key, value) = line.split_once('=')?;
                (key.trim() == name).then(|| value.trim().trim_matches('"'))
            });
            values.next().and_then(Context::parse)
        };
        Some(ContainerContexts {
            process: value("process")?,
            file: value("file")?,
        })
    }

    /// The labels of a container, whose level keeps it apart from others.
    pub fn labels(&self, level: Level, options: &LabelOptions) -> ContainerLabels {
        let (mut process, mut file) = (self.process.clone(), self.file.clone());
        if process.level.is_some() {
            let level = if options.disabled {
                LEVEL_UNCONFINED.to_owned()
            } else {
                level.text()
            };
            process.level = Some(level.clone());
            file.level = Some(level);
        }
        if options.disabled {
            return ContainerLabels {
                process: None,
                mount: file.text(),
            };
        }
        let set = |field: &mut String, option: &Option<String>| {
            option.iter().for_each(|value| field.clone_from(value));
        };
        set(&mut process.user, &options.user);
        set(&mut process.role, &options.role);
        set(&mut process.kind, &options.kind);
        set(&mut file.user, &options.user);
        set(&mut file.kind, &options.file_kind);
        if options.level.is_some() {
            process.level.clone_from(&options.level);
            file.level.clone_from(&options.level);
        }
        ContainerLabels {
            process: Some(process.text()),
            mount: file.text(),
        }
    }
}

/// Labels a file of the engine's that a container sees.
pub fn label_file(path: &Path, label: &str) -> io::Result<()> {
    let value = [label.as_bytes(), b"\0"].concat();
    Ok(rustix::fs::lsetxattr(
        path,
        ATTRIBUTE,
        &value,
        rustix::fs::XattrFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LXC_CONTEXTS: &str = "\
process = \"system_u:system_r:container_t:s0\"\n\
content = \"system_u:object_r:virt_var_lib_t:s0\"\n\
file = \"system_u:object_r:container_file_t:s0\"\n\
ro_file=\"system_u:object_r:container_ro_file_t:s0\"\n\
sandbox_kvm_process = \"system_u:system_r:svirt_qemu_net_t:s0\"\n";

    fn options(texts: &[&str]) -> LabelOptions {
        let mut options = LabelOptions::default();
        for text in texts {
            assert!(options.read(text), "{text}");
        }
        options
    }

    fn labels(texts: &[&str]) -> (Option<String>, String) {
        let contexts = ContainerContexts::parse(LXC_CONTEXTS).unwrap();
        let labels = contexts.labels(Level::of("0123456789ab"), &options(texts));
        (labels.process, labels.mount)
    }

    #[test]
    fn policy_names_the_contexts_of_containers() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(ContainerContexts::read(directory.path()), None);
        std::fs::write(
            directory.path().join("config"),
            "# comment\nSELINUX=enforcing\nSELINUXTYPE=targeted\n",
        )
        .unwrap();
        assert_eq!(ContainerContexts::read(directory.path()), None);
        let contexts = directory.path().join("targeted/contexts");
        std::fs::create_dir_all(&contexts).unwrap();
        std::fs::write(contexts.join("lxc_contexts"), LXC_CONTEXTS).unwrap();
        let read = ContainerContexts::read(directory.path()).unwrap();
        assert_eq!(read.process.text(), "system_u:system_r:container_t:s0");
        assert_eq!(read.file.text(), "system_u:object_r:container_file_t:s0");
    }

    #[test]
    fn processes_and_mounts_share_a_level_of_their_own() {
        let (process, mount) = labels(&[]);
        let level = Level::of("0123456789ab").text();
        assert_eq!(process, Some(format!("system_u:system_r:container_t:{level}")));
        assert_eq!(mount, format!("system_u:object_r:container_file_t:{level}"));
        for number in 0..10_000 {
            let level = Level::of(&format!("{number:064x}"));
            assert!(level.0 < level.1 && level.1 < CATEGORIES, "{level:?}");
            assert_eq!(Level::parse(&level.text()), Some(level));
        }
        for bad in [
            "s0",
            "s0:c1,c1",
            "s0:c1,c1024",
            "s1:c1,c2",
            "s0:c1.c5",
            "s0:c1,c2,c3",
        ] {
            assert_eq!(Level::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn no_two_containers_get_the_same_level_while_one_is_free() {
        let mut taken = std::collections::BTreeSet::new();
        // As many as there are, but for the one that is nobody's.
        let all = u32::from(CATEGORIES) * u32::from(CATEGORIES - 1) / 2 - 1;
        let mut level = Level(0, 1);
        for _ in 0..all - 3 {
            taken.insert(level);
            level = level.next();
        }
        let free: Vec<Level> = (0..3)
            .map(|_| {
                let reserved = Level::reserve("0123456789ab", |level| taken.contains(&level));
                assert!(taken.insert(reserved), "{reserved:?}");
                reserved
            })
            .collect();
        assert_eq!(free.len(), 3);
        // Then they share.
        let shared = Level::reserve("0123456789ab", |_| true);
        assert_eq!(shared, Level::of("0123456789ab"));
    }

    #[test]
    fn policies_without_levels_get_none() {
        let text = LXC_CONTEXTS.replace(":s0\"", "\"");
        let labels = ContainerContexts::parse(&text)
            .unwrap()
            .labels(Level::of("c"), &options(&[]));
        assert_eq!(labels.process.as_deref(), Some("system_u:system_r:container_t"));
        assert_eq!(labels.mount, "system_u:object_r:container_file_t");
    }

    #[test]
    fn options_replace_parts_of_the_labels() {
        let (process, mount) = labels(&[
            "user:u",
            "role:r",
            "type:svirt_apache_t",
            "level:s0:c100,c200",
            "filetype:f_t",
        ]);
        assert_eq!(process.as_deref(), Some("u:r:svirt_apache_t:s0:c100,c200"));
        assert_eq!(mount, "u:object_r:f_t:s0:c100,c200");
        let (process, mount) = labels(&["type:ignored_t", "disable"]);
        assert_eq!(process, None);
        assert_eq!(mount, "system_u:object_r:container_file_t:s0:c1022,c1023");
        assert!(!options(&["disable"]).asks_for_a_label() && options(&["type:t"]).asks_for_a_label());
        for bad in ["", "type", "type:", "disable:x", "category:c1"] {
            assert!(!LabelOptions::default().read(bad), "{bad:?}");
        }
    }
}
