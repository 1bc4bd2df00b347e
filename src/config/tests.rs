use super::*;

#[test]
fn the_defaults_are_valid() {
    let config = check(ConfigFile::default()).unwrap();
    assert_eq!(
        config.hosts,
        [ApiHost::Unix(PathBuf::from("/run/muster/docker.sock"))]
    );
    assert_eq!(config.listen_addr, "0.0.0.0:2377".parse().unwrap());
    assert_eq!(config.cgroup_parent, None);
}

#[test]
fn every_problem_is_printed_at_once() {
    let raw = ConfigFile {
        data_dir: Some("relative".into()),
        hosts: vec!["http://x".into(), "tcp://0.0.0.0:1".into()],
        labels: vec!["novalue".into()],
        log_level: Some("loud".into()),
        advertise_addr: Some("example.org".into()),
        userns_remap: Some("nosuchuser:nosuchgroup".into()),
        ..Default::default()
    };
    let problems = check(raw).unwrap_err();
    let fields: Vec<&str> = problems.0.iter().map(|problem| problem.field.as_str()).collect();
    assert_eq!(
        fields,
        [
            "data-dir",
            "host",
            "host",
            "advertise-addr",
            "label",
            "log-level",
            "userns-remap",
            "userns-remap"
        ]
    );
}

#[test]
fn plain_tcp_is_for_loopback_only() {
    let plain = |host: &str| ConfigFile {
        hosts: vec![host.into()],
        insecure_loopback: true,
        ..Default::default()
    };
    assert!(check(plain("tcp://127.0.0.1:2375")).is_ok());
    assert!(check(plain("tcp://10.0.0.1:2375")).is_err());
}

#[test]
fn flags_win_over_the_file() {
    let file: ConfigFile = toml::from_str("node-name = \"a\"\nlabels = [\"x=1\"]").unwrap();
    let flags = DaemonFlags {
        node_name: Some("b".into()),
        ..Default::default()
    };
    let merged = merge(flags, file);
    assert_eq!(merged.node_name.as_deref(), Some("b"));
    assert_eq!(merged.labels, ["x=1"]);
    assert!(toml::from_str::<ConfigFile>("unknown-key = 1").is_err());
}
