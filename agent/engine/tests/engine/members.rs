//! Two nodes with a wire between them, each with an engine, and what happens inside of their containers' networks.

use crate::node::Node;
use muster_engine::Engine;
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

/// How long anything in a test may take before it counts as not happening.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long a connection that is to fail is given; packets between namespaces take microseconds.
const REFUSAL: Duration = Duration::from_secs(2);

/// A node with an engine; what it does happens on its threads, which are in its namespace.
pub struct Member {
    node: Arc<Node>,
    engine: Option<Engine>,
    runtime: Option<Runtime>,
    netns: OwnedFd,
}

/// Two of them.
pub struct Members(Vec<Member>);

impl Member {
    /// The address on the wire of the member with this number.
    pub fn address_of(number: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(192, 0, 2, u8::try_from(number).unwrap() + 1))
    }

    fn open() -> Self {
        let opened = std::thread::spawn(|| {
            let node = Arc::new(Node::new());
            served("ip", &["link", "set", "lo", "up"]);
            // Threads of the runtime are children of this one, so they are in its namespace.
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let opening = Arc::clone(&node);
            let engine = runtime.spawn(async move { opening.open_with_image().await });
            Self {
                engine: Some(runtime.block_on(engine).unwrap()),
                node,
                runtime: Some(runtime),
                netns: File::open("/proc/thread-self/ns/net").unwrap().into(),
            }
        });
        opened.join().unwrap()
    }

    /// Does something as this node.
    pub async fn run<R, F>(&self, operation: impl FnOnce(Engine) -> F) -> R
    where
        R: Send + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let engine = self.engine.clone().expect("it is open");
        let runtime = self.runtime.as_ref().expect("it runs");
        runtime.spawn(operation(engine)).await.unwrap()
    }

    /// Does something on a thread in the node's namespace.
    pub fn inside<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        enter(self.netns.try_clone().unwrap(), job)
    }

    /// A path of the node.
    pub fn path(&self, name: &str) -> PathBuf {
        self.node.path(name)
    }

    /// Ends the daemon and starts another one.
    pub async fn restart(&mut self) {
        self.engine.take().expect("it is open").shutdown().await;
        let node = Arc::clone(&self.node);
        let runtime = self.runtime.as_ref().expect("it runs");
        let opened = runtime.spawn(async move { node.open().await });
        self.engine = Some(opened.await.unwrap());
    }

    async fn close(mut self) {
        let runtime = self.runtime.take().expect("it runs");
        let engine = self.engine.take().expect("it is open");
        let Ok(node) = Arc::try_unwrap(self.node) else {
            panic!("the node is still in use")
        };
        runtime
            .spawn(async move { node.close(engine).await })
            .await
            .unwrap();
        runtime.shutdown_background();
    }
}

impl Members {
    /// Runs a test that has members.
    pub fn test(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test);
    }

    /// Two nodes with a wire between them.
    pub async fn open() -> Self {
        let members = Self((0..2).map(|_| Member::open()).collect());
        let far = format!("/proc/{}/fd/{}", std::process::id(), members[1].netns.as_raw_fd());
        members[0].inside(move || {
            let pair = [
                "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns",
            ];
            served("ip", &[&pair[..], &[far.as_str()]].concat());
        });
        for (number, member) in members.iter().enumerate() {
            member.inside(move || {
                let address = format!("{}/24", Member::address_of(number));
                served("ip", &["addr", "add", &address, "dev", "wire"]);
                served("ip", &["link", "set", "wire", "up"]);
            });
        }
        members
    }

    /// Removes every container, closes the engines, and checks that nothing is left over.
    pub async fn close(self) {
        for member in self.0 {
            member.close().await;
        }
    }
}

impl Deref for Members {
    type Target = Vec<Member>;

    fn deref(&self) -> &Vec<Member> {
        &self.0
    }
}

impl DerefMut for Members {
    fn deref_mut(&mut self) -> &mut Vec<Member> {
        &mut self.0
    }
}

/// The output of a program that succeeds.
pub fn served(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn enter<R: Send + 'static>(netns: OwnedFd, job: impl FnOnce() -> R + Send + 'static) -> R {
    let entered = std::thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        job()
    });
    entered.join().unwrap()
}

/// Does something on a thread in the network namespace of a process.
pub fn inside<R: Send + 'static>(pid: i32, job: impl FnOnce() -> R + Send + 'static) -> R {
    enter(File::open(format!("/proc/{pid}/ns/net")).unwrap().into(), job)
}

/// Serves in a container until the test ends: on port 80 its name and the client's address, on port 81 what it is sent.
pub fn serve(pid: i32, name: &'static str) {
    let [naming, echoing] =
        [80, 81].map(|port| inside(pid, move || TcpListener::bind(("0.0.0.0", port)).unwrap()));
    std::thread::spawn(move || {
        for mut client in naming.incoming().map_while(Result::ok) {
            let peer = client.peer_addr().unwrap().ip();
            // The client may have gone; the next one is served all the same.
            drop(write!(client, "{name} {peer}"));
        }
    });
    std::thread::spawn(move || {
        for client in echoing.incoming().map_while(Result::ok) {
            std::thread::spawn(move || std::io::copy(&mut &client, &mut &client));
        }
    });
}

/// A connection from inside of a container.
pub fn connect(pid: i32, target: &str) -> Option<TcpStream> {
    let target: SocketAddr = target.parse().unwrap();
    let stream = inside(pid, move || TcpStream::connect_timeout(&target, REFUSAL)).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    Some(stream)
}

/// What a server says to somebody in a container.
pub fn ask_from(pid: i32, target: &str) -> Option<String> {
    let mut answer = String::new();
    connect(pid, target)?.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// What a server says to somebody in the calling thread's namespace.
pub fn ask(target: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&target.parse().unwrap(), REFUSAL).ok()?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Who answers how many of so many connections.
pub fn answers(pid: i32, target: &str, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..count {
        let answer = ask_from(pid, target).expect("an answer");
        let name = answer.split(' ').next().unwrap_or_default().to_owned();
        *answers.entry(name).or_default() += 1;
    }
    answers
}
