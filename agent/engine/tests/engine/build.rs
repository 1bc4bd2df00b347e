//! Builds through the engine's own interface: what clients cannot show.

use crate::node::{Node, names, on_node, until};
use muster_engine::{BaseImages, BuildOutput, BuildRequest, BuildStream, Engine, Error, Result};
use std::io::{Cursor, Read};
use std::sync::Arc;
use std::time::Duration;

/// Nobody has other images.
struct NoImages;

impl BaseImages for NoImages {
    fn fetch<'a>(&'a self, name: &'a str) -> futures::future::BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            Err(Error::NoBaseImage {
                message: format!("{name} is nowhere"),
                is_missing: true,
            })
        })
    }
}

/// A tar archive of regular files, made by hand so that it can be wrong.
fn context(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        entry(&mut archive, name, b'0', "", content.as_bytes());
    }
    archive.extend_from_slice(&[0; 1024]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, kind: u8, link: &str, content: &[u8]) {
    let mut header = [0_u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].fill(b' ');
    header[156] = kind;
    header[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend_from_slice(&header);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

async fn begin(engine: &Engine, context: Vec<u8>, request: BuildRequest) -> Result<BuildStream> {
    let request = BuildRequest {
        dockerfile: "Dockerfile".to_owned(),
        remove: true,
        ..request
    };
    engine
        .image_build(Cursor::new(context), request, Arc::new(NoImages))
        .await
}

/// Builds to the end; returns the text and the image's id.
async fn build(engine: &Engine, context: Vec<u8>, request: BuildRequest) -> Result<(String, String)> {
    let mut stream = begin(engine, context, request).await?;
    let (mut text, mut id) = (String::new(), String::new());
    while let Some(output) = stream.recv().await {
        match output? {
            BuildOutput::Text(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            BuildOutput::Image(image) => id = image,
        }
    }
    Ok((text, id))
}

fn leaves_nothing(node: &Node) -> bool {
    names(&node.path("data/builds")).is_empty() && names(&node.path("data/images/containers")).is_empty()
}

#[test]
fn hostile_contexts_stay_inside() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        std::fs::write(node.path("secret"), "of the host").unwrap();
        let secret = node.path("secret").to_string_lossy().into_owned();
        let dockerfile = "FROM box\nCOPY . /all/\nRUN ls /all; cat /all/link || echo nothing";
        let linked = |link: &str| {
            let mut archive = Vec::new();
            entry(&mut archive, "Dockerfile", b'0', "", dockerfile.as_bytes());
            entry(&mut archive, "link", b'2', link, b"");
            archive.extend_from_slice(&[0; 1024]);
            archive
        };
        let (text, _) = build(&engine, linked(&secret), BuildRequest::default())
            .await
            .unwrap();
        assert!(
            text.contains("nothing") && !text.contains("of the host"),
            "{text}"
        );
        // As in archives of images.
        let up = linked("../../../../../../../../etc/passwd");
        let refused = build(&engine, up, BuildRequest::default()).await.unwrap_err();
        assert!(
            refused.chain().contains("leads out of the image"),
            "{}",
            refused.chain()
        );
        // A source that is a link leads nowhere outside.
        let mut archive = Vec::new();
        entry(&mut archive, "Dockerfile", b'0', "", b"FROM box\nCOPY link /x");
        entry(&mut archive, "link", b'2', &secret, b"");
        archive.extend_from_slice(&[0; 1024]);
        let refused = build(&engine, archive, BuildRequest::default())
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("file does not exist"), "{refused}");
        for (kind, name, link) in [
            (b'0', "../escaped", ""),
            (b'1', "hard", "../../../../etc/passwd"),
            (b'0', "link/through", ""),
        ] {
            let mut archive = Vec::new();
            entry(&mut archive, "Dockerfile", b'0', "", b"FROM box");
            entry(&mut archive, "link", b'2', "/", b"");
            entry(&mut archive, name, kind, link, b"");
            archive.extend_from_slice(&[0; 1024]);
            assert!(
                build(&engine, archive, BuildRequest::default()).await.is_err(),
                "{name}"
            );
        }
        // The Dockerfile itself may not be a link out of the context, nor cut short.
        let mut archive = Vec::new();
        entry(&mut archive, "Dockerfile", b'2', &secret, b"");
        archive.extend_from_slice(&[0; 1024]);
        assert!(build(&engine, archive, BuildRequest::default()).await.is_err());
        let cut = context(&[("Dockerfile", "FROM box")])[..515].to_vec();
        assert!(build(&engine, cut, BuildRequest::default()).await.is_err());
        until("nothing is left", || leaves_nothing(&node)).await;
        node.close(engine).await;
    });
}

#[test]
fn a_build_whose_client_leaves_ends_and_leaves_nothing() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let archive = context(&[("Dockerfile", "FROM box\nRUN echo begun; sleep 10000")]);
        let mut stream = begin(&engine, archive, BuildRequest::default()).await.unwrap();
        let mut text = String::new();
        while !text.contains("\nbegun\n") {
            let Some(Ok(BuildOutput::Text(bytes))) = stream.recv().await else {
                panic!("it ended: {text}")
            };
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
        assert_eq!(engine.list().len(), 1);
        drop(stream);
        until("the container is gone", || engine.list().is_empty()).await;
        until("nothing is left", || leaves_nothing(&node)).await;
        node.close(engine).await;
    });
}

#[test]
fn a_build_that_is_cut_short_is_cleared_away_at_the_next_opening() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let archive = context(&[("Dockerfile", "FROM box\nRUN echo begun; sleep 10000")]);
        let mut stream = begin(&engine, archive, BuildRequest::default()).await.unwrap();
        while let Some(Ok(BuildOutput::Text(bytes))) = stream.recv().await {
            if bytes.starts_with(b"begun") {
                break;
            }
        }
        let container = engine.list().remove(0);
        // As if the daemon had died: the context and the container are still there.
        let id = container.name.split('-').nth(1).unwrap().to_owned();
        drop(stream);
        until("the container is gone", || engine.list().is_empty()).await;
        engine.shutdown().await;
        drop(engine);
        std::fs::create_dir_all(node.path("data/builds").join(&id).join("context")).unwrap();
        let engine = node.open().await;
        assert!(leaves_nothing(&node));
        node.close(engine).await;
    });
}

#[test]
fn independent_stages_are_built_side_by_side_and_told_in_order() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        // Each waits for a file that the other one writes: one after the other they would never end.
        let step = |own: &str, other: &str| {
            format!(
                "RUN --mount=type=cache,target=/c : > /c/{own}; n=0; while [ ! -e /c/{other} ]; do n=$((n+1)); \
                 [ $n -lt 20000 ] || exit 1; done; echo {own} met {other}"
            )
        };
        let dockerfile = format!(
            "FROM box AS a\n{}\nFROM box AS b\n{}\nFROM box\nCOPY --from=a /srv /a\nCOPY --from=b /srv /b\n",
            step("one", "two"),
            step("two", "one")
        );
        let archive = context(&[("Dockerfile", &dockerfile)]);
        let (text, id) = build(&engine, archive, BuildRequest::default()).await.unwrap();
        assert!(id.starts_with("sha256:"));
        let first = text.find("one met two").unwrap();
        assert!(
            first < text.find("Step 3/7").unwrap() && text.contains("two met one"),
            "{text}"
        );
        node.close(engine).await;
    });
}

#[test]
fn a_stage_with_much_output_gives_its_cache_to_the_one_before() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        // The first stage waits for the cache that the second one uses alone while it writes.
        let dockerfile = "FROM box AS a\n\
            RUN --mount=type=cache,target=/c until [ -e /c/held ]; do :; done\n\
            RUN --mount=type=cache,id=l,target=/l,sharing=locked echo first was here\n\
            FROM box AS b\n\
            RUN --mount=type=cache,id=l,target=/l,sharing=locked --mount=type=cache,id=l,target=/again,sharing=locked \
            --mount=type=cache,target=/c : > /c/held; busybox yes $(busybox seq -s - 999) | busybox head -n 8000; echo second was here\n\
            FROM box\nCOPY --from=a /srv /a\nCOPY --from=b /srv /b\n";
        let archive = context(&[("Dockerfile", dockerfile)]);
        let building = build(&engine, archive, BuildRequest::default());
        let (text, _) = tokio::time::timeout(Duration::from_secs(60), building)
            .await
            .expect("the stages wait for each other")
            .unwrap();
        let place = |what: &str| text.find(what).unwrap();
        assert!(place("\nfirst was here\n") < place("\n1-2-3-"));
        assert!(place("\n1-2-3-") < place("\nsecond was here\n"));
        assert!(text.matches("-999\n").count() >= 8000);
        node.close(engine).await;
    });
}

#[test]
fn a_build_that_is_cancelled_while_a_step_starts_leaves_nothing() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        for _ in 0..5 {
            let archive = context(&[("Dockerfile", "FROM box\nRUN sleep 10000")]);
            let mut stream = begin(&engine, archive, BuildRequest::default()).await.unwrap();
            // The start follows at once.
            while let Some(Ok(BuildOutput::Text(bytes))) = stream.recv().await {
                if bytes.starts_with(b" ---> Running in") {
                    break;
                }
            }
            drop(stream);
            until("the container is gone", || engine.list().is_empty()).await;
            until("nothing is left", || leaves_nothing(&node)).await;
        }
        node.close(engine).await;
    });
}

#[test]
fn a_context_that_breaks_off_leaves_nothing() {
    struct Breaking;
    impl Read for Breaking {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the client left"))
        }
    }
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let request = BuildRequest {
            dockerfile: "Dockerfile".to_owned(),
            ..BuildRequest::default()
        };
        let refused = engine.image_build(Breaking, request, Arc::new(NoImages)).await;
        assert!(refused.is_err());
        until("nothing is left", || leaves_nothing(&node)).await;
        node.close(engine).await;
    });
}
