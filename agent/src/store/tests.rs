use super::*;

fn saved() -> Saved {
    Saved {
        controllers: vec!["10.0.0.1:2377".to_owned()],
        ..Default::default()
    }
}

#[test]
fn what_was_saved_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    assert!(store.load().unwrap().controllers.is_empty());
    store.save(saved()).unwrap();
    assert_eq!(store.load().unwrap().controllers, saved().controllers);
    store.clear().unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    std::fs::write(directory.path().join("agent.state"), b"garbage").unwrap();
    assert!(matches!(store.load(), Err(StoreError::Format { .. })));
}

#[test]
fn controllers_outlast_a_state_that_a_power_loss_took() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    store.save(saved()).unwrap();
    let known = ["10.0.0.2:2377".to_owned(), "10.0.0.3:2377".to_owned()];
    store.keep_controllers(&known).unwrap();
    assert_eq!(store.load().unwrap().controllers, known);
    for lost in [&b""[..], &[0; 300]] {
        std::fs::write(directory.path().join("agent.state"), lost).unwrap();
        assert_eq!(store.load().unwrap().controllers, known);
    }
    store.clear().unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn the_file_says_nothing_and_opens_only_with_its_key() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    store.save(saved()).unwrap();
    let (state, key) = (
        directory.path().join("agent.state"),
        directory.path().join("agent.key"),
    );
    let bytes = std::fs::read(&state).unwrap();
    let address = saved().controllers[0].clone();
    assert!(
        !bytes
            .windows(address.len())
            .any(|window| window == address.as_bytes())
    );
    store.save(saved()).unwrap();
    assert_ne!(std::fs::read(&state).unwrap(), bytes, "no nonce is used twice");

    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&state, changed).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
    for short in 1..bytes.len() {
        std::fs::write(&state, &bytes[..short]).unwrap();
        assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
    }
    std::fs::write(&state, &bytes).unwrap();
    std::fs::write(&key, [7; KEY_BYTES]).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
    std::fs::write(&key, b"short").unwrap();
    assert!(matches!(store.load(), Err(StoreError::Key { .. })));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(store.load(), Err(StoreError::Sealed { .. })));
}

#[test]
fn a_file_of_an_earlier_version_is_read_and_sealed_from_then_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    let state = directory.path().join("agent.state");
    let body = muster_proto::pack::pack(&saved()).unwrap();
    std::fs::write(&state, [&[FORMAT_IN_CLEAR], &body[..]].concat()).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.controllers, saved().controllers);
    store.save(loaded).unwrap();
    assert_eq!(std::fs::read(&state).unwrap()[0], FORMAT);
    assert_eq!(store.load().unwrap().controllers, saved().controllers);
}

fn file(id: u128, content: &str) -> AssignedFile {
    AssignedFile {
        id: FileId::from_u128(id),
        kind: muster_types::FileKind::Secret,
        name: format!("key-{id}"),
        data: content.as_bytes().to_vec().into(),
        template: None,
    }
}

/// A state with a task that needs these files.
fn needing(files: &[AssignedFile]) -> Saved {
    let reference = |file: &AssignedFile| muster_types::file::FileReference {
        id: file.id,
        name: file.name.clone(),
        ..Default::default()
    };
    let mut template = muster_types::TaskTemplate::default();
    template.container.secrets = files.iter().map(reference).collect();
    let task = muster_types::AssignedTask {
        id: TaskId::from_u128(5),
        service: muster_types::ServiceId::from_u128(1),
        service_name: "web".to_owned(),
        service_labels: Default::default(),
        slot: muster_types::Slot::Replica(1),
        template_version: 1,
        template: Arc::new(template),
        ports: Vec::new(),
        desired: DesiredState::Running,
        start_after: None,
        recorded: (0, muster_types::TaskState::Running),
        networks: Vec::new(),
    };
    let mut saved = saved();
    saved.set.tasks = vec![task];
    saved.set.files = files.to_vec();
    saved
}

#[test]
fn secrets_are_written_when_others_are_needed_and_at_no_other_save() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.files");
    let store = Store::new(directory.path());
    let one = needing(&[file(1, "swordfish")]);
    store.save(one.clone()).unwrap();
    let written = std::fs::read(&path).unwrap();
    assert!(!written.windows(9).any(|window| window == b"swordfish"));
    store.save(one.clone()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), written, "a nonce would differ");
    assert_eq!(store.load().unwrap().set.files, one.set.files);

    let two = needing(&[file(1, "swordfish"), file(2, "halibut")]);
    store.save(two.clone()).unwrap();
    let again = Store::new(directory.path());
    assert_eq!(again.load().unwrap().set, two.set);
    again.save(saved()).unwrap();
    assert!(!path.exists(), "nothing needs them any more");
    assert_eq!(again.load().unwrap().set.files, []);
}

#[test]
fn a_task_does_not_start_without_a_secret_that_a_power_loss_took() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    let mut needing = needing(&[file(1, "swordfish")]);
    store.save(needing.clone()).unwrap();
    std::fs::remove_file(directory.path().join("agent.files")).unwrap();
    assert!(store.load().unwrap().set.tasks.is_empty());
    // One that shall stop keeps its record and its logs.
    needing.set.tasks[0].desired = DesiredState::Shutdown;
    Store::new(directory.path()).save(needing).unwrap();
    std::fs::remove_file(directory.path().join("agent.files")).unwrap();
    assert_eq!(store.load().unwrap().set.tasks.len(), 1);
}

#[test]
fn secrets_in_a_state_of_an_earlier_version_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    let one = needing(&[file(1, "swordfish")]);
    let body = muster_proto::pack::pack(&one).unwrap();
    let sealed = store.seal(FORMAT, body.into()).unwrap();
    std::fs::write(directory.path().join("agent.state"), sealed).unwrap();
    let loaded = store.load().unwrap();
    assert_eq!(loaded.set, one.set);
    store.save(loaded).unwrap();
    assert_eq!(store.load().unwrap().set, one.set);
}
