//! The image that the tests run: a statically linked busybox.

use muster_images::{ImageRecipe, RecipeSource};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Its name.
pub const IMAGE: &str = "busybox:e2e";
/// A command that stops at once when told to.
pub const WAITER: &str = "trap 'exit 0' TERM; sleep 100000 & wait";
/// A command that serves the host's name on port 80.
pub const SERVER: &str =
    "trap 'exit 0' TERM; mkdir /www; hostname > /www/name; httpd -f -p 80 -h /www & wait";

const APPLETS: &[&str] = &[
    "cat", "date", "echo", "env", "false", "grep", "hostname", "httpd", "id", "ip", "kill", "ls", "mkdir",
    "nc", "nslookup", "ps", "seq", "sh", "sleep", "stty", "touch", "true", "tty", "wget",
];

/// Writes the image into a directory as of `docker save`, and returns the archive's path.
pub fn busybox(directory: &Path) -> PathBuf {
    let recipe = ImageRecipe {
        reference: IMAGE.to_owned(),
        cmd: ["sh", "-c", WAITER].map(str::to_owned).to_vec(),
        env: vec!["PATH=/bin".to_owned()],
        ..ImageRecipe::default()
    };
    let recipe = recipe.with("bin/busybox", 0o755, RecipeSource::File("/bin/busybox".into()));
    let recipe = APPLETS.iter().fold(recipe, |recipe, applet| {
        recipe.with(
            &format!("bin/{applet}"),
            0o777,
            RecipeSource::Symlink("busybox".into()),
        )
    });
    let path = directory.join("busybox.tar");
    let file = File::create(&path).expect("the test's directory can be written");
    recipe
        .write(file)
        .expect("/bin/busybox can be read: install busybox-static");
    path
}

/// Users that scripts of others expect, as in small distributions.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/sbin/nologin\n\
    daemon:x:2:2:daemon:/sbin:/sbin/nologin\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n\
    nobody:x:65534:65534:nobody:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:root\nbin:x:1:root,bin,daemon\ndaemon:x:2:root,bin,daemon\npostgres:x:70:\n\
    nobody:x:65534:\n";

/// Writes an image of this name with all of busybox and users, as a small distribution has them, into a directory as of
/// `docker save`, and returns the archive's path.
pub fn rootfs(directory: &Path, name: &str, command: &[&str]) -> PathBuf {
    let list = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .expect("busybox-static is installed");
    let applets = String::from_utf8(list.stdout).expect("names of programs are text");
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let recipe = ImageRecipe {
        reference: name.to_owned(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![path.to_owned()],
        ..ImageRecipe::default()
    };
    let bytes = |text: &str| RecipeSource::Bytes(text.as_bytes().to_vec());
    let recipe = recipe
        .with("bin/busybox", 0o755, RecipeSource::File("/bin/busybox".into()))
        .with("etc/passwd", 0o644, bytes(PASSWD))
        .with("etc/group", 0o644, bytes(GROUP))
        .with("tmp", 0o1777, RecipeSource::Directory)
        .with("var/opt", 0o755, RecipeSource::Directory)
        .with("root", 0o700, RecipeSource::Directory);
    let applets = applets.lines().filter(|applet| *applet != "busybox");
    let recipe = applets.fold(recipe, |recipe, applet| {
        let source = RecipeSource::Symlink("busybox".into());
        recipe.with(&format!("bin/{applet}"), 0o777, source)
    });
    let path = directory.join(format!("{}.tar", name.replace([':', '/'], "-")));
    let file = File::create(&path).expect("the test's directory can be written");
    recipe.write(file).expect("/bin/busybox can be read");
    path
}
