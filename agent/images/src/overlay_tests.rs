use super::*;
use std::fs;

struct Place {
    directory: tempfile::TempDir,
    lower: Vec<PathBuf>,
}

impl Place {
    /// Layers under a path of about `depth_bytes` bytes, each with a file of its own and one they share.
    fn new(layers: usize, depth_bytes: usize) -> Place {
        let directory = tempfile::tempdir().unwrap();
        let base = directory
            .path()
            .join("d".repeat(depth_bytes.clamp(1, 200)))
            .join("e".repeat(depth_bytes.clamp(1, 200)));
        let lower: Vec<PathBuf> = (0..layers).map(|n| base.join(format!("layer{n}"))).collect();
        for (index, layer) in lower.iter().enumerate() {
            fs::create_dir_all(layer).unwrap();
            fs::write(layer.join(format!("own{index}")), "x").unwrap();
            fs::write(layer.join("shared"), index.to_string()).unwrap();
        }
        fs::create_dir_all(base.join("upper")).unwrap();
        fs::create_dir_all(base.join("work")).unwrap();
        Place { directory, lower }
    }

    fn mount(&self, by: impl Fn(&OverlaySpec<'_>) -> OwnedFd) -> OwnedFd {
        let base = self.lower[0].parent().unwrap();
        by(&OverlaySpec {
            lower: &self.lower,
            upper: &base.join("upper"),
            work: &base.join("work"),
            label: None,
            shown: None,
        })
    }
}

fn check(place: &Place, mount: &OwnedFd) {
    let root = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
    assert_eq!(fs::read_to_string(root.join("shared")).unwrap(), "0");
    assert_eq!(fs::read_dir(&root).unwrap().count(), place.lower.len() + 1);
    fs::write(root.join("written"), "w").unwrap();
    assert!(place.lower[0].parent().unwrap().join("upper/written").exists());
}

#[test]
fn many_layers_and_long_paths_mount_by_the_new_interface() {
    for (layers, depth) in [(1, 1), (150, 1), (3, 200)] {
        let place = Place::new(layers, depth);
        let mount = place.mount(|spec| mount_by_layers(spec).unwrap().expect("this kernel has lowerdir+"));
        check(&place, &mount);
    }
}

#[test]
fn the_classic_interface_gives_the_same_detached_mount() {
    for (layers, depth) in [(1, 1), (150, 1), (3, 200)] {
        let place = Place::new(layers, depth);
        let scratch = place.directory.path().join("scratch");
        fs::create_dir(&scratch).unwrap();
        let mount = place.mount(|spec| mount_by_options(spec, &scratch).unwrap());
        check(&place, &mount);
        fs::remove_dir(&scratch).expect("nothing is mounted on it any more");
    }
}

#[test]
fn a_missing_layer_is_an_error_with_its_step() {
    let place = Place::new(2, 1);
    fs::remove_dir_all(&place.lower[1]).unwrap();
    let base = place.lower[0].parent().unwrap();
    let spec = OverlaySpec {
        lower: &place.lower,
        upper: &base.join("upper"),
        work: &base.join("work"),
        label: None,
        shown: None,
    };
    let error = mount_by_layers(&spec).unwrap_err();
    assert_eq!(
        (error.step, error.source.kind()),
        ("add a layer", io::ErrorKind::NotFound)
    );
}

#[test]
fn a_label_is_an_option_of_both_interfaces() {
    let (nowhere, label) = (Path::new("/"), "system_u:object_r:container_file_t:s0:c1,c2");
    let spec = |label| OverlaySpec {
        lower: &[],
        upper: nowhere,
        work: nowhere,
        label,
        shown: None,
    };
    assert_eq!(spec(Some(label)).settings().last(), Some(("context", label)));
    let plain = ",redirect_dir=off,metacopy=off,index=off";
    let text = spec(Some(label)).classic_settings();
    assert_eq!(
        text,
        format!("{plain},context=\"system_u:object_r:container_file_t:s0:c1,c2\"")
    );
    assert_eq!(spec(None).classic_settings(), plain);
}
