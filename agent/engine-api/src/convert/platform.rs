//! `os/architecture[/variant]` of a request, and whether an image is of it.

use super::Read;
use crate::http::Failure;

/// A platform that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Platform {
    os: String,
    architecture: Option<String>,
}

const SYSTEMS: [&str; 2] = ["linux", "windows"];
const ARCHITECTURES: [&str; 12] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x", "wasm",
    "ppc64",
];

impl Platform {
    /// Reads a platform: `linux/arm64/v8`, or one of its parts.
    pub(crate) fn read(text: &str) -> Read<Self> {
        let refused = || {
            Failure::invalid(format!(
                "{text:?}: unknown operating system or architecture: invalid argument"
            ))
        };
        let lower = text.to_ascii_lowercase();
        let parts: Vec<&str> = lower.split('/').collect();
        let system = |name: &str| SYSTEMS.contains(&name).then(|| name.to_owned());
        let (os, architecture) = match parts[..] {
            [one] => match (system(one), architecture(one)) {
                (Some(os), _) => (os, None),
                (None, Some(architecture)) => ("linux".to_owned(), Some(architecture)),
                (None, None) => return Err(refused()),
            },
            [os, of, ..] if parts.len() <= 3 && !of.is_empty() => {
                let architecture = architecture(of).unwrap_or_else(|| of.to_owned());
                (system(os).ok_or_else(refused)?, Some(architecture))
            }
            _ => return Err(refused()),
        };
        Ok(Self { os, architecture })
    }

    /// Refuses an image of another platform. Clients take it for a missing image then, and look for one that fits.
    pub(crate) fn check(&self, reference: &str, os: &str, architecture: &str) -> Read<()> {
        let fits = self
            .architecture
            .as_ref()
            .is_none_or(|wanted| wanted == architecture);
        if self.os == os && fits {
            return Ok(());
        }
        let wanted = match &self.architecture {
            Some(architecture) => format!("{}/{architecture}", self.os),
            None => self.os.clone(),
        };
        Err(Failure::new(
            hyper::StatusCode::NOT_FOUND,
            format!(
                "image with reference {reference} was found but its platform ({os}/{architecture}) does not match the \
                 specified platform ({wanted})"
            ),
        ))
    }
}

/// The name under which images have an architecture.
fn architecture(name: &str) -> Option<String> {
    let known = match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i686" => "386",
        "armhf" | "armel" => "arm",
        other => other,
    };
    ARCHITECTURES.contains(&known).then(|| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_and_compared() {
        for fits in ["linux/amd64", "linux", "amd64", "x86_64", "Linux/x86_64/v2"] {
            assert!(
                Platform::read(fits).unwrap().check("a", "linux", "amd64").is_ok(),
                "{fits}"
            );
        }
        for other in ["linux/arm64", "windows", "linux/strange"] {
            let failure = Platform::read(other)
                .unwrap()
                .check("a", "linux", "amd64")
                .unwrap_err();
            assert_eq!(failure.status, 404, "{other}");
            assert!(
                failure.message.contains("(linux/amd64) does not match"),
                "{}",
                failure.message
            );
        }
        for bad in ["", "/", "linux/", "plan9/amd64", "a/b/c/d", "nonsense"] {
            assert!(Platform::read(bad).is_err(), "{bad}");
        }
    }
}
