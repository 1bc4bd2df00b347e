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
    "cat", "date", "echo", "env", "false", "grep", "hostname", "httpd", "id", "kill", "ls", "mkdir", "ps",
    "seq", "sh", "sleep", "stty", "touch", "true", "tty", "wget",
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
