//! What the tests are made of: labs, the docker CLI, images, waiting, and the search for what was left behind.

mod docker;
mod image;
mod lab;
mod leftovers;
mod registry;
mod request;
mod wait;

pub use docker::{Docker, Output, stack_deploy};
pub use image::{IMAGE, SERVER, WAITER, busybox, rootfs};
pub use lab::Lab;
pub use registry::{PASSWORD, Registry, Setup, USER};
pub use request::{Ending, fetch_inside, json_request, raw_request, send_inside};
pub use wait::{LONG, eventually};
