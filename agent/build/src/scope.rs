//! The variables that a stage knows: build arguments, and the environment of its image.

use std::collections::BTreeMap;

/// Arguments that need no `ARG`: proxies, which steps need and images must not keep.
const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];
/// The argument that fixes every time of an image.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The build arguments of a request, and what Docker defines itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildArgs {
    given: BTreeMap<String, String>,
    /// `TARGETPLATFORM` and the like.
    automatic: BTreeMap<String, String>,
}

impl BuildArgs {
    /// The arguments of a request that builds for `os/architecture[/variant]`.
    pub fn new(given: BTreeMap<String, String>, platform: &str) -> Self {
        let mut parts = platform.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (os, architecture, variant) = (part(), part(), part());
        let mut automatic = BTreeMap::new();
        for side in ["TARGET", "BUILD"] {
            automatic.insert(format!("{side}PLATFORM"), platform.to_owned());
            automatic.insert(format!("{side}OS"), os.clone());
            automatic.insert(format!("{side}ARCH"), architecture.clone());
            automatic.insert(format!("{side}VARIANT"), variant.clone());
        }
        Self { given, automatic }
    }

    /// Seconds since 1970 that every time of the image is set to.
    pub fn source_date(&self) -> Option<i64> {
        self.given.get(SOURCE_DATE_EPOCH)?.trim().parse().ok()
    }

    /// The arguments that no `ARG` of these names takes.
    pub fn unused<'a>(&'a self, declared: &'a [String]) -> impl Iterator<Item = &'a str> {
        self.given
            .keys()
            .map(String::as_str)
            .filter(|name| !PREDEFINED.contains(name) && *name != SOURCE_DATE_EPOCH)
            .filter(|name| !declared.iter().any(|declared| declared == name))
    }
}

/// What an `ARG` before the first `FROM`, or in a stage, made known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    args: BTreeMap<String, Option<String>>,
}

impl Scope {
    /// An `ARG` before the first `FROM`.
    pub fn declare_global(&mut self, build: &BuildArgs, name: &str, default: Option<String>) {
        let value = build
            .given
            .get(name)
            .cloned()
            .or(default)
            .or_else(|| build.automatic.get(name).cloned());
        self.args.insert(name.to_owned(), value);
    }

    /// An `ARG` of a stage: the request's value, else the default, else what `global` says.
    pub fn declare(&mut self, build: &BuildArgs, global: &Scope, name: &str, default: Option<String>) {
        let value = build
            .given
            .get(name)
            .cloned()
            .or(default)
            .or_else(|| global.args.get(name).cloned().flatten())
            .or_else(|| build.automatic.get(name).cloned());
        self.args.insert(name.to_owned(), value);
    }

    /// The value of a variable in a `FROM`.
    pub fn global_value(&self, build: &BuildArgs, name: &str) -> Option<String> {
        match self.args.get(name) {
            Some(value) => value.clone(),
            None => build.automatic.get(name).cloned(),
        }
    }

    /// The value of a variable in a stage: the environment wins over arguments.
    pub fn value(&self, env: &[String], name: &str) -> Option<String> {
        env.iter()
            .rev()
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
            .or_else(|| self.args.get(name).cloned().flatten())
    }

    /// What a step's process has beside the image's environment.
    pub fn variables(&self, build: &BuildArgs, env: &[String]) -> Variables {
        let in_env = |name: &str| {
            env.iter()
                .any(|entry| entry.split_once('=').map_or(entry.as_str(), |(key, _)| key) == name)
        };
        let declared = self.args.iter().filter(|(name, _)| !in_env(name));
        let remembered: Vec<String> = declared
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
            .collect();
        let passing = build
            .given
            .iter()
            .filter(|(name, _)| PREDEFINED.contains(&name.as_str()))
            .filter(|(name, _)| !in_env(name) && !self.args.contains_key(*name))
            .map(|(name, value)| format!("{name}={value}"));
        Variables {
            passing: passing.collect(),
            remembered,
        }
    }
}

/// `NAME=value` entries for the process of a step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variables {
    /// Declared arguments: another value is another step.
    pub remembered: Vec<String>,
    /// Proxies that nobody declared: they change nothing of the image.
    pub passing: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build() -> BuildArgs {
        let given = [
            ("A", "given"),
            ("http_proxy", "p"),
            ("SOURCE_DATE_EPOCH", "7"),
            ("X", "y"),
        ];
        BuildArgs::new(
            given
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            "linux/amd64",
        )
    }

    #[test]
    fn a_request_wins_over_defaults_and_the_environment_over_arguments() {
        let build = build();
        let mut global = Scope::default();
        global.declare_global(&build, "A", Some("default".into()));
        global.declare_global(&build, "G", Some("global".into()));
        assert_eq!(global.global_value(&build, "A").as_deref(), Some("given"));
        assert_eq!(
            global.global_value(&build, "TARGETARCH").as_deref(),
            Some("amd64")
        );
        let mut scope = Scope::default();
        assert_eq!(scope.value(&[], "G"), None, "a stage must declare it");
        scope.declare(&build, &global, "G", None);
        scope.declare(&build, &global, "A", Some("default".into()));
        scope.declare(&build, &global, "U", None);
        assert_eq!(scope.value(&[], "G").as_deref(), Some("global"));
        assert_eq!(scope.value(&["G=env".into()], "G").as_deref(), Some("env"));
        let variables = scope.variables(&build, &["G=env".into()]);
        assert_eq!(variables.remembered, ["A=given"]);
        assert_eq!(variables.passing, ["http_proxy=p"]);
    }

    #[test]
    fn unused_arguments_are_told() {
        let build = build();
        assert_eq!(build.unused(&["A".to_owned()]).collect::<Vec<_>>(), ["X"]);
        assert_eq!(build.source_date(), Some(7));
    }
}
