//! Capabilities of a specification that there is no name for here: newer ones, or none at all. They are left out with a
//! warning, as runc does, so that a specification that was written for another kernel runs.

use serde::de::DeserializeOwned;
use serde_json::Value;

const SETS: [&str; 5] = ["bounding", "effective", "inheritable", "permitted", "ambient"];

/// Reads a specification, or a process of one, whose capabilities are at this place; with it come the names that were
/// left out.
pub(super) fn read_known<T: DeserializeOwned>(
    content: &[u8],
    place: &str,
) -> Result<(T, Vec<String>), serde_json::Error> {
    let error = match serde_json::from_slice(content) {
        Ok(read) => return Ok((read, Vec::new())),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice::<Value>(content) else {
        return Err(error);
    };
    let mut unknown = Vec::new();
    for set in SETS {
        if let Some(Value::Array(names)) = value.pointer_mut(&format!("{place}/{set}")) {
            names.retain(|name| is_known(name) || note(&mut unknown, name));
        }
    }
    if unknown.is_empty() {
        return Err(error);
    }
    serde_json::from_value(value).map(|read| (read, unknown))
}

/// A value that is no text is left to be refused.
fn is_known(name: &Value) -> bool {
    !name.is_string() || serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok()
}

/// Notes a name once; it is not kept.
fn note(unknown: &mut Vec<String>, name: &Value) -> bool {
    let name = name.as_str().unwrap_or_default();
    if !unknown.iter().any(|known| known == name) {
        unknown.push(name.to_owned());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Process;

    #[test]
    fn unknown_names_are_left_out_and_told_and_other_defects_are_refused() {
        let process = |sets: &str| {
            let text =
                format!(r#"{{"user":{{"uid":0,"gid":0}},"cwd":"/","args":["a"],"capabilities":{{{sets}}}}}"#);
            read_known::<Process>(text.as_bytes(), "/capabilities")
        };
        let (read, unknown) = process(r#""bounding":["CAP_KILL"]"#).expect("it is valid");
        assert!(unknown.is_empty() && read.capabilities().is_some());
        let sets = r#""bounding":["CAP_KILL","CAP_FUTURE"],"effective":["CAP_FUTURE","TEST_CAP"]"#;
        let (read, unknown) = process(sets).expect("what is unknown is left out");
        assert_eq!(unknown, ["CAP_FUTURE", "TEST_CAP"]);
        let sets = read.capabilities().clone().expect("there are sets");
        assert_eq!(sets.bounding().as_ref().map(|set| set.len()), Some(1));
        assert_eq!(sets.effective().as_ref().map(|set| set.len()), Some(0));
        for bad in [
            r#""bounding":[1,"CAP_FUTURE"]"#,
            r#""bounding":{}"#,
            r#""bounding":"#,
        ] {
            assert!(process(bad).is_err(), "{bad}");
        }
    }
}
