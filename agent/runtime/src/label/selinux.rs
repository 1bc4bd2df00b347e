//! Which SELinux labels a container gets, from the policy's own defaults for containers and the user's options.

use std::io;
use std::path::Path;

/// Categories that the default policies have, `c0` to `c1023`.
const CATEGORIES: u32 = 1024;

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

    /// The labels of a container. Two categories that come from its id keep containers apart.
    pub fn labels(&self, container_id: &str, options: &LabelOptions) -> ContainerLabels {
        let (mut process, mut file) = (self.process.clone(), self.file.clone());
        if process.level.is_some() {
            let level = if options.disabled {
                LEVEL_UNCONFINED.to_owned()
            } else {
                level_of(container_id)
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

/// A pair of different categories for an id, in ascending order.
fn level_of(container_id: &str) -> String {
    // FNV-1a: ids are random already; this only folds all of one into a number.
    let hash = container_id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    let first = hash % CATEGORIES;
    let second = hash / CATEGORIES % (CATEGORIES - 1);
    let second = second + u32::from(second >= first);
    format!("s0:c{},c{}", first.min(second), first.max(second))
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
        let labels = contexts.labels("0123456789ab", &options(texts));
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
        let level = level_of("0123456789ab");
        assert_eq!(process, Some(format!("system_u:system_r:container_t:{level}")));
        assert_eq!(mount, format!("system_u:object_r:container_file_t:{level}"));
        for number in 0..10_000 {
            let level = level_of(&format!("{number:064x}"));
            let (first, second) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            let [first, second]: [u32; 2] = [first, second].map(|text| text.parse().unwrap());
            assert!(first < second && second < CATEGORIES, "{level}");
        }
    }

    #[test]
    fn policies_without_levels_get_none() {
        let text = LXC_CONTEXTS.replace(":s0\"", "\"");
        let labels = ContainerContexts::parse(&text)
            .unwrap()
            .labels("c", &options(&[]));
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
