//! Profiles that a user made up: compiled or refused, never a panic.

use super::{DockerProfile, HostSupport, KernelVersion, Machine, compile};
use proptest::prelude::*;
use proptest::sample::Index;

const PROFILE: &str = r#"{
  "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
  "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
  "syscalls": [
    {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": [
      {"index": 0, "value": 8, "valueTwo": 255, "op": "SCMP_CMP_MASKED_EQ"}]},
    {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"], "minKernel": "4.8"},
     "excludes": {"arches": ["s390"]}},
    {"names": ["ptrace"], "action": "SCMP_ACT_TRACE", "errnoRet": 38}
  ]
}"#;
/// Pieces of text that take the place of others.
const PIECES: [&str; 16] = [
    "-1",
    "18446744073709551615",
    "18446744073709551616",
    "6",
    "\"\"",
    "null",
    "[]",
    "{}",
    "\"SCMP_ACT_NOTIFY\"",
    "\"SCMP_ACT_KILL\"",
    "\"SCMP_CMP_NE\"",
    "\"999.999\"",
    "\"nosuchcall\"",
    "1e99",
    "\"CAP_NOSUCH\"",
    "[[[[[[]]]]]]",
];

/// Where a value stands in the text, and how long it is.
fn values() -> Vec<(usize, usize)> {
    let mut values = Vec::new();
    let mut begin = None;
    for (place, letter) in PROFILE.char_indices() {
        let is_part = letter.is_ascii_alphanumeric() || "\"_.".contains(letter);
        match (begin, is_part) {
            (None, true) => begin = Some(place),
            (Some(from), false) => {
                values.push((from, place - from));
                begin = None;
            }
            (None, false) | (Some(_), true) => {}
        }
    }
    values
}

fn load(text: &str) -> bool {
    let Ok(profile) = DockerProfile::parse(text) else {
        return false;
    };
    let kernel = KernelVersion::current().expect("the kernel has a version");
    let resolved = profile.resolve(&[], Machine::current(), kernel);
    compile(&resolved, &HostSupport::complete(Machine::current())).is_ok()
}

#[test]
fn profile_as_it_should_be_is_compiled() {
    assert!(load(PROFILE));
}

proptest! {
    #[test]
    fn changed_profiles_are_compiled_or_refused(
        changes in proptest::collection::vec((any::<Index>(), any::<Index>()), 1..4),
    ) {
        let values = values();
        let mut text = PROFILE.to_owned();
        let mut places: Vec<_> = changes.iter().map(|(place, piece)| (place.index(values.len()), piece)).collect();
        // From the end, so that what stands before keeps its place.
        places.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        places.dedup_by_key(|(place, _)| *place);
        for (place, piece) in places {
            let (from, length) = values[place];
            text.replace_range(from..from + length, PIECES[piece.index(PIECES.len())]);
        }
        load(&text);
    }

    #[test]
    fn profiles_of_any_bytes_are_refused(damage in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..8)) {
        let mut bytes = PROFILE.as_bytes().to_vec();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        load(&String::from_utf8_lossy(&bytes));
    }
}
