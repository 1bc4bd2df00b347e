//! Compiling each profile once.

use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

use super::{BpfProgram, HostSupport, Result, compile};

/// How many compiled profiles are kept. Nearly all containers of a node have Docker's default with the default
/// capabilities; a handful more covers the services with capabilities or profiles of their own.
const KEPT_MAX: usize = 8;

/// Compiles profiles for one host and keeps the newest: most containers have the same.
#[derive(Debug)]
pub struct Compiler {
    host: HostSupport,
    /// The most recently used first.
    recent: Mutex<Vec<(LinuxSeccomp, Arc<BpfProgram>)>>,
}

impl Compiler {
    /// A compiler for a host.
    pub fn new(host: HostSupport) -> Compiler {
        Compiler {
            host,
            recent: Mutex::new(Vec::with_capacity(KEPT_MAX + 1)),
        }
    }

    /// Compiles a profile, or hands out what was made of an equal one before.
    pub fn compile(&self, profile: &LinuxSeccomp) -> Result<Arc<BpfProgram>> {
        // The list is whole at every moment, also after a panic elsewhere.
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match recent.iter().position(|(known, _)| known == profile) {
            Some(at) => recent.remove(at),
            None => (profile.clone(), Arc::new(compile(profile, &self.host)?)),
        };
        let program = entry.1.clone();
        recent.insert(0, entry);
        recent.truncate(KEPT_MAX);
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Machine;
    use super::*;

    fn profile(errno: u32) -> LinuxSeccomp {
        let mut profile = LinuxSeccomp::default();
        profile.set_default_errno_ret(Some(errno));
        profile
    }

    #[test]
    fn equal_profiles_share_a_filter_and_old_ones_go() {
        let compiler = Compiler::new(HostSupport::complete(Machine::X86_64));
        let first = compiler.compile(&profile(0)).unwrap();
        assert!(Arc::ptr_eq(&first, &compiler.compile(&profile(0)).unwrap()));
        for errno in 1..=KEPT_MAX as u32 {
            compiler.compile(&profile(errno)).unwrap();
        }
        assert_eq!(compiler.recent.lock().unwrap().len(), KEPT_MAX);
        assert!(!Arc::ptr_eq(&first, &compiler.compile(&profile(0)).unwrap()));
    }
}
