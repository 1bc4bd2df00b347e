//! Namespaces of containers with control groups v2 alone. Runs inside user-mode Linux.

use crate::support::{Node, map_users, set_namespace};

/// There the kernel lets it mount no control groups: they are those of the host.
#[tokio::test]
#[ignore = "runs in user-mode Linux"]
async fn a_user_namespace_can_share_the_view_of_the_groups_with_the_host() {
    let node = Node::new();
    let script = "readlink /proc/self/ns/cgroup; cat /proc/self/cgroup; \
                  cat /sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup)/cgroup.procs | grep -c '^[1-9]'; \
                  grep ' /sys/fs/cgroup ' /proc/self/mounts; \
                  mkdir /sys/fs/cgroup/mine 2>/dev/null || echo refused";
    let mut container = node.shell(script);
    map_users(&node, &mut container);
    set_namespace(&mut container, "cgroup", None);
    let (status, out) = node.run(&container).await;
    assert_eq!(status.code, 0, "{}", container.logged("stderr"));
    let lines: Vec<&str> = out.lines().collect();
    let own = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
    assert_eq!(lines[0], own.display().to_string());
    assert!(lines[1].ends_with(container.cgroup_path()), "{out}");
    assert_ne!(lines[2], "0", "{out}");
    let options = lines[3].split(' ').nth(3).unwrap();
    for wanted in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|option| option == wanted), "{out}");
    }
    assert_eq!(lines[4], "refused");
}
