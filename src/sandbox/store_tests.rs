//! Sandboxes on the disk.

use super::*;
use crate::sandbox::spec::tests::spec;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path().join("home"));
    (dir, store)
}

#[test]
fn a_sandbox_is_found_by_identifier_name_and_prefix() {
    let (_dir, store) = store();
    assert!(store.list().unwrap().is_empty());
    let a = store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    let b = store
        .create(Id::random().unwrap(), &mut spec(""), None)
        .unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
    for reference in [a.id.as_str(), a.id.short(), "web"] {
        assert_eq!(store.find(reference).unwrap().id, a.id);
    }
    assert_eq!(store.find(&b.label()).unwrap().id, b.id);
    for reference in ["", "nothing", "../x", "zz", &"0".repeat(64)] {
        let error = store.find(reference).unwrap_err();
        assert!(matches!(error, SandboxError::Unknown(_)), "{reference}");
    }
    // Sixteen beginnings for seventeen sandboxes.
    for _ in 0..15 {
        store
            .create(Id::random().unwrap(), &mut spec(""), None)
            .unwrap();
    }
    let ambiguous = (0..16).filter(|digit| {
        matches!(
            store.find(&format!("{digit:x}")),
            Err(SandboxError::Ambiguous(_))
        )
    });
    assert!(ambiguous.count() > 0);
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let (_dir, store) = store();
    store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    assert!(
        store
            .create(Id::random().unwrap(), &mut spec(""), Some("web"))
            .is_err()
    );
    assert!(
        store
            .create(Id::random().unwrap(), &mut spec(""), Some("no name"))
            .is_err()
    );
    assert_eq!(fs::read_dir(store.sandboxes()).unwrap().count(), 1);
}

#[test]
fn a_name_is_free_after_its_sandbox() {
    let (_dir, store) = store();
    let a = store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    a.rename("db").unwrap();
    assert_eq!(a.label(), "db");
    let b = store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    assert!(matches!(
        b.rename("db"),
        Err(SandboxError::NameInUse { .. })
    ));
    assert_eq!(b.label(), "web");
    a.remove(&a.lock_changes().unwrap()).unwrap();
    b.rename("db").unwrap();
    assert!(matches!(a.lock_changes(), Err(SandboxError::Unknown(_))));
    assert!(matches!(a.state(), Err(SandboxError::Unknown(_))));
    assert_eq!(fs::read_dir(store.sandboxes()).unwrap().count(), 1);
}

#[test]
fn a_dead_monitor_is_noticed() {
    let (_dir, store) = store();
    let sandbox = store
        .create(Id::random().unwrap(), &mut spec(""), None)
        .unwrap();
    let running = State {
        status: Status::Running,
        pid: Some(1),
        ..State::created()
    };
    let life = sandbox.lock_life().unwrap();
    assert!(matches!(
        sandbox.lock_life(),
        Err(SandboxError::AlreadyRunning(_))
    ));
    sandbox.write_state(&running).unwrap();
    assert_eq!(sandbox.state().unwrap(), running);
    drop(life);
    let state = sandbox.state().unwrap();
    assert_eq!(
        (state.status, state.exit_code, state.pid),
        (Status::Exited, Some(LOST), None)
    );
    let written: State = read_json(&sandbox, &sandbox.kept("state.json")).unwrap();
    assert_eq!(written, state);
}

#[test]
fn newer_and_broken_files_are_refused() {
    let (_dir, store) = store();
    let sandbox = store
        .create(Id::random().unwrap(), &mut spec(""), None)
        .unwrap();
    let path = sandbox.kept("config.json");
    fs::write(&path, r#"{"version": 2, "new": 1}"#).unwrap();
    assert!(matches!(
        sandbox.spec(),
        Err(SandboxError::Version { found: 2, .. })
    ));
    fs::write(&path, "{").unwrap();
    assert!(matches!(sandbox.spec(), Err(SandboxError::Corrupt { .. })));
    assert_eq!(sandbox.label(), sandbox.id.short());
    sandbox.remove(&sandbox.lock_changes().unwrap()).unwrap();
}

#[test]
fn what_a_sandbox_is_cannot_be_changed_from_its_own_directory() {
    let (_dir, store) = store();
    let sandbox = store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    let before = sandbox.spec().unwrap();
    let forged = Spec {
        name: "forged".into(),
        confine: confine::Mode::Off,
        ..before.clone()
    };
    assert!(!sandbox.kept("config.json").starts_with(sandbox.dir()));
    write_json(&sandbox.path("config.json"), &forged).unwrap();
    assert_eq!(sandbox.spec().unwrap(), before);
    sandbox.rename("db").unwrap();
    assert_eq!(sandbox.spec().unwrap().name, "db");
    sandbox.remove(&sandbox.lock_changes().unwrap()).unwrap();
    assert!(!sandbox.kept("config.json").exists());
    // A name that is taken.
    store
        .create(Id::random().unwrap(), &mut spec(""), Some("web"))
        .unwrap();
    let failed = store.create(Id::random().unwrap(), &mut spec(""), Some("web"));
    assert!(failed.is_err());
    let kept = fs::read_dir(store.home().join("configs")).unwrap();
    assert_eq!(kept.count(), 1);
}

#[test]
fn changes_are_made_one_after_the_other() {
    let (_dir, store) = store();
    let sandbox = store
        .create(Id::random().unwrap(), &mut spec(""), None)
        .unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let sandbox = &sandbox;
            scope.spawn(move || sandbox.rename(&format!("name{n}")).unwrap());
        }
    });
    let names = fs::read_dir(store.home().join("names")).unwrap();
    // The last name, and the lock.
    assert_eq!(names.count(), 2);
    assert_eq!(store.find(&sandbox.label()).unwrap().id, sandbox.id);
}
