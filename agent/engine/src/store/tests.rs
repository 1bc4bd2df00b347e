use super::*;
use redb::ReadableDatabase;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};
use std::io::Write;
use std::os::fd::AsRawFd;

#[tokio::test]
async fn a_disk_that_was_full_costs_only_what_was_refused() {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).expect("this is root");
    fsconfig_set_string(&context, "size", "16m").unwrap();
    fsconfig_create(&context).unwrap();
    let disk = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
    let place = std::path::PathBuf::from(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    let store = Store::open(&place.join("engine.redb")).unwrap();
    store.put(Table::Volumes, "a", &"durable").await.unwrap();
    store.put_behind(Table::Volumes, "b", &"behind").await.unwrap();
    let begun = Instant::now();
    while store.get::<String>(Table::Volumes, "b").unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is not written");
        tokio::task::yield_now().await;
    }
    let filling = place.join("filling");
    let mut file = std::fs::File::create(&filling).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let large = "x".repeat(8 << 20);
    for _ in 0..2 {
        let refused = store.put(Table::Volumes, "c", &large).await;
        assert!(matches!(refused, Err(Error::Store { .. })), "{refused:?}");
    }
    drop(file);
    std::fs::remove_file(&filling).unwrap();
    store.put(Table::Volumes, "d", &"after").await.unwrap();
    assert_eq!(
        store.all::<String>(Table::Volumes).unwrap(),
        ["durable", "behind", "after"]
    );
    store.close();
}

#[tokio::test]
async fn damaged_metadata_are_told_of() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.redb");
    let store = Store::open(&path).unwrap();
    store.put(Table::Volumes, "a", &"first").await.unwrap();
    store.close();
    drop(store);
    let good = std::fs::read(&path).unwrap();
    let mut refused = 0;
    for page in (0..good.len()).step_by(4096) {
        let mut damaged = good.clone();
        damaged[page..][..4096].fill(0xff);
        std::fs::write(&path, damaged).unwrap();
        match Store::open(&path) {
            Ok(_) => {}
            Err(Error::Store { operation, .. }) => {
                refused += 1;
                assert_eq!(operation, "open");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn rows_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.redb");
    let store = Store::open(&path).unwrap();
    store.put(Table::Volumes, "a", &"first").await.unwrap();
    for n in 0..600 {
        store
            .put_behind(Table::Containers, &format!("{n:03}"), &n)
            .await
            .unwrap();
    }
    store.remove_behind(Table::Containers, "000").await.unwrap();
    store.close();
    assert!(matches!(
        store.put(Table::Volumes, "b", &"late").await,
        Err(Error::ShuttingDown)
    ));
    drop(store);
    let store = Store::open(&path).unwrap();
    assert_eq!(
        store.all::<u32>(Table::Containers).unwrap(),
        (1..600).collect::<Vec<_>>()
    );
    assert_eq!(
        store.get::<String>(Table::Volumes, "a").unwrap().as_deref(),
        Some("first")
    );
    assert_eq!(store.get::<String>(Table::Volumes, "b").unwrap(), None);
    store.close();
}

#[tokio::test]
async fn steady_changes_are_synced_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.redb");
    let store = Store::open(&path).unwrap();
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            let mut pace = tokio::time::interval(SYNC_AFTER / 10);
            loop {
                store.put_behind(Table::Containers, "a", &1).await.unwrap();
                pace.tick().await;
            }
        }
    });
    // What a copy of the file has is what a crash leaves.
    let copy = directory.path().join("copy.redb");
    let after_crash = move || {
        std::fs::copy(&path, &copy).unwrap();
        // It may be torn by a commit that is under way.
        let copy = Database::open(&copy).ok()?;
        let rows = copy.begin_read().ok()?;
        let rows = rows.open_table(Table::Containers.definition()).ok()?;
        rows.get("a").ok()?.map(drop)
    };
    let synced = async {
        while tokio::task::spawn_blocking(after_crash.clone())
            .await
            .unwrap()
            .is_none()
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), synced)
        .await
        .unwrap();
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    store.close();
}

#[test]
fn end_of_the_runtime_does_not_end_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let store = runtime().block_on(async {
        let store = Store::open(&directory.path().join("engine.redb")).unwrap();
        store.put_behind(Table::Volumes, "a", &1).await.unwrap();
        store
    });
    runtime().block_on(store.put(Table::Volumes, "b", &2)).unwrap();
    assert_eq!(store.all::<u32>(Table::Volumes).unwrap(), [1, 2]);
    store.close();
}

#[test]
fn of_what_waits_for_a_sync_only_the_newest_values_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("engine.redb");
    let database = LastingDatabase::open(move || make(&path)).unwrap();
    let mut writing = Writing::new(Arc::new(database));
    writing.sync_at = Some(Instant::now() + Duration::from_secs(3600));
    let places = Arc::new(Semaphore::new(1));
    for value in 0..3 {
        let change = Change {
            place: (Table::Containers, "a".to_owned()),
            value: Some(vec![value]),
            done: None,
            _place: Arc::clone(&places).try_acquire_owned().unwrap(),
        };
        writing.write(&[change]).unwrap();
    }
    let kept: Vec<_> = writing.unsynced.values().flatten().collect();
    assert_eq!(kept, [&[2]]);
    writing.write(&[]).unwrap();
    assert!(writing.unsynced.is_empty(), "they are synced");
}
