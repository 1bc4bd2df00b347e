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
        log_driver: Some("gelf".into()),
        bridge_subnet: Some("172.17.0.0".into()),
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
            "log-driver",
            "bridge-subnet",
            "userns-remap",
            "userns-remap"
        ]
    );
}

#[test]
fn files_are_read_before_anything_starts() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let made = |name: &str| {
        let pair = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.self_signed(&pair).unwrap().pem(), pair.serialize_pem())
    };
    let ((certificate, key), (_, other)) = (made("a"), made("b"));
    let (junk, certificate) = (write("junk", "no PEM"), write("crt", &certificate));
    let (key, other) = (write("key", &key), write("other", &other));
    let told = |files: [&PathBuf; 6]| {
        let [authority, api, api_key, registry, registry_key, passwords] =
            files.map(|file| Some(file.clone()));
        let raw = ConfigFile {
            tlsverify: true,
            tlscacert: authority,
            tlscert: api,
            tlskey: api_key,
            registry_listen: vec!["127.0.0.1".into()],
            registry_tlscert: registry,
            registry_tlskey: registry_key,
            registry_htpasswd: passwords,
            log_level: Some("loud".into()),
            ..Default::default()
        };
        let problems = check(raw).unwrap_err();
        let fields: Vec<String> = problems.0.into_iter().map(|problem| problem.field).collect();
        fields
    };
    let passwords = write("passwords", "");
    let right = [&certificate, &certificate, &key, &certificate, &key, &passwords];
    assert_eq!(told(right), ["log-level"]);
    assert_eq!(
        told([&junk; 6]),
        [
            "tlscacert",
            "tlscert",
            "tlskey",
            "log-level",
            "registry-tlscert",
            "registry-htpasswd"
        ]
    );
    let of_another = [
        &certificate,
        &certificate,
        &other,
        &certificate,
        &other,
        &passwords,
    ];
    assert_eq!(told(of_another), ["tlsverify", "log-level", "registry-tlscert"]);
}

#[test]
fn mistakes_of_the_file_are_told_with_those_of_the_flags() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("muster.toml");
    let text = "tlsverify = \"yes\"\ncolour = \"red\"\nnode-name = \"\"\nlabels = [\"x=1\"]\nhosts = 7\n";
    std::fs::write(&path, text).unwrap();
    let flags = DaemonFlags {
        config: Some(path.clone()),
        metrics_addr: Some("nowhere".into()),
        ..Default::default()
    };
    let told = load(flags.clone()).unwrap_err().to_string();
    let told: Vec<&str> = told
        .lines()
        .skip(1)
        .filter_map(|line| line.trim().split_once(": "))
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        told,
        ["colour", "hosts", "tlsverify", "metrics-addr", "node-name"]
    );
    std::fs::write(&path, "colour = \"red\"").unwrap();
    let flags = DaemonFlags {
        metrics_addr: None,
        ..flags
    };
    assert!(
        load(flags.clone())
            .unwrap_err()
            .to_string()
            .contains("colour: unknown field")
    );
    // Nor does a file that cannot be read hide the flags'.
    std::fs::write(&path, "= 1").unwrap();
    let flags = DaemonFlags {
        metrics_addr: Some("nowhere".into()),
        ..flags
    };
    let told = load(flags.clone()).unwrap_err().to_string();
    assert!(told.contains("is not a settings file"), "{told}");
    assert!(told.contains("metrics-addr: "), "{told}");
    std::fs::remove_file(&path).unwrap();
    let told = load(flags).unwrap_err().to_string();
    assert!(told.contains("config: cannot read"), "{told}");
    assert!(told.contains("metrics-addr: "), "{told}");
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

#[test]
fn log_options_are_a_table_or_flags() {
    let file = |text: &str| toml::from_str::<ConfigFile>(text).unwrap();
    let own = "log-driver = \"local\"\n[log-opts]\nmax-size = \"1m\"\nmax-file = \"3\"";
    let driver = check(file(own)).unwrap().log_driver;
    assert_eq!((driver.name.as_str(), driver.options.len()), ("local", 2));
    let flags = DaemonFlags {
        log_opts: vec!["max-size=2m".into()],
        ..Default::default()
    };
    let driver = check(merge(flags, file(own))).unwrap().log_driver;
    assert_eq!(
        (driver.name.as_str(), driver.options["max-size"].as_str()),
        ("local", "2m")
    );
    assert_eq!(driver.options.len(), 1);
    let wrong = check(file("[log-opts]\ncolour = \"red\"")).unwrap_err();
    assert_eq!(
        wrong.0[0].message,
        "unknown log opt 'colour' for json-file log driver"
    );
}
