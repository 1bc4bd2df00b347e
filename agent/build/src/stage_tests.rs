use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const MULTI: &str = "ARG BASE=box\nARG TAG\nFROM ${BASE}:${TAG:-1} AS Build\nRUN make\n\
    FROM scratch as unused\nCOPY --from=build /x /y\n\
    FROM build AS test\nRUN test\n\
    FROM --platform=$BUILDPLATFORM other\nCOPY --from=0 /x /y\nRUN --mount=from=test,target=/t ls\n";

fn args(given: &[(&str, &str)]) -> BuildArgs {
    let given = given
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    BuildArgs::new(given.collect::<BTreeMap<_, _>>(), "linux/amd64")
}

#[test]
fn only_the_stages_that_are_needed_are_built() {
    let dockerfile = Dockerfile::parse(MULTI).unwrap();
    let plan = Plan::of(&dockerfile, &args(&[]), None).unwrap();
    assert_eq!(plan.built, [0, 2, 3]);
    assert_eq!(plan.bases[0], Base::Image("box:1".into()));
    assert_eq!(plan.bases[2], Base::Stage(0));
    assert_eq!(plan.platforms[3].as_deref(), Some("linux/amd64"));
    let plan = Plan::of(&dockerfile, &args(&[("TAG", "9")]), Some("UNUSED")).unwrap();
    assert_eq!(plan.built, [0, 1]);
    assert_eq!(plan.bases[0], Base::Image("box:9".into()));
    assert_eq!(Plan::of(&dockerfile, &args(&[]), Some("0")).unwrap().built, [0]);
    let error = Plan::of(&dockerfile, &args(&[]), Some("none")).unwrap_err();
    assert_eq!(error.to_string(), "target stage \"none\" could not be found");
}

#[test]
fn mistakes_are_told_with_their_line() {
    for (text, line, said) in [
        (
            "FROM a\n\nNOTADOCKERFILECOMMAND x",
            3,
            "unknown instruction: NOTADOCKERFILECOMMAND",
        ),
        ("RUN x", 1, "no build stage in current context"),
        ("FROM a b", 1, "FROM requires either one or three arguments"),
        ("FROM a AS 1x", 1, "invalid name for build stage"),
        ("FROM --x=1 a", 1, "Unknown flag: x"),
        ("FROM a\nCOPY \\\n x", 2, "requires at least two arguments"),
        ("FROM a\nRUN <<E\nx", 2, "unterminated heredoc"),
    ] {
        let error = Dockerfile::parse(text).unwrap_err();
        assert_eq!(error.line, line, "{text}");
        assert!(error.problem.contains(said), "{error}");
    }
    let error = Dockerfile::parse("FROM a\nCOPY --from=1 x y")
        .and_then(|dockerfile| Plan::of(&dockerfile, &args(&[]), None))
        .unwrap_err();
    assert_eq!(error.line, 2);
    let error = Dockerfile::parse("ARG X\nFROM $X")
        .and_then(|dockerfile| Plan::of(&dockerfile, &args(&[]), None))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("line 2: base name ($X) should not be blank"),
        "{error}"
    );
}

#[test]
fn a_stage_means_the_last_earlier_one_of_its_name() {
    let dockerfile = Dockerfile::parse("FROM x AS a\nFROM y AS a\nFROM a\nCOPY --from=A b c").unwrap();
    let plan = Plan::of(&dockerfile, &args(&[]), None).unwrap();
    assert_eq!(plan.built, [1, 2]);
}

/// Pieces of Dockerfiles, so that mutations are often nearly right.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("FROM a AS b\n".to_owned()),
        Just("FROM ${X:-b}\n".to_owned()),
        Just("ARG X=1\n".to_owned()),
        Just("RUN a \\\n# c\n b\n".to_owned()),
        Just("RUN <<E\n$X\nE\n".to_owned()),
        Just("COPY --from=b --chown=$X [\"a\", \"b\"]\n".to_owned()),
        Just("COPY <<-'E' /x\n\ta\n\tE\n".to_owned()),
        Just("ENV A=\"${X:+$A}\" B='$X'\n".to_owned()),
        Just("HEALTHCHECK --interval=1s CMD x\n".to_owned()),
        Just("ONBUILD RUN x\n".to_owned()),
        Just("# escape=`\n".to_owned()),
        Just("RUN --mount=type=cache,target=/x y\n".to_owned()),
        "[ -~\n]{0,12}",
        "\\PC{0,6}",
    ]
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(pieces in proptest::collection::vec(piece(), 0..12), cut in 0..200_usize) {
        let mut text = pieces.concat();
        if text.is_char_boundary(cut) && cut < text.len() {
            text.remove(cut);
        }
        if let Ok(dockerfile) = Dockerfile::parse(&text) {
            let plan = Plan::of(&dockerfile, &args(&[("X", "v")]), None);
            if let Ok(plan) = plan {
                prop_assert!(plan.built.windows(2).all(|pair| pair[0] < pair[1]));
                prop_assert!(plan.built.iter().all(|index| plan.needs[*index].iter().all(|need| plan.built.contains(need))));
            }
            for step in dockerfile.stages.iter().flat_map(|stage| &stage.steps) {
                let _ = step.instruction.clone().expanded(dockerfile.escape, &|name| Some(name.to_owned()));
            }
        }
    }
}
