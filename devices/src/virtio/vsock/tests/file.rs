//! The socket's file.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::virtio::vsock::VsockError;

fn spec(path: PathBuf) -> VsockSpec {
    VsockSpec { path, cid: 3 }
}

#[test]
fn it_is_private_and_goes_with_the_device() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path().join("v"));
    let device = Vsock::open(&spec).unwrap();
    let mode = fs::metadata(&spec.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(device);
    assert!(!spec.path.exists());
}

#[test]
fn a_stale_one_is_replaced_and_one_in_use_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path().join("v"));
    drop(UnixListener::bind(&spec.path).unwrap());
    assert!(spec.path.exists());
    let device = Vsock::open(&spec).unwrap();
    let error = Vsock::open(&spec).err().unwrap();
    assert!(matches!(error, VsockError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("in use by another VM"));
    UnixStream::connect(&spec.path).unwrap();
    drop(device);
    Vsock::open(&spec).unwrap();
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    for path in [&file, &link, &dir.path().to_owned()] {
        let error = Vsock::open(&spec(path.clone())).err().unwrap();
        assert!(matches!(error, VsockError::NotASocket { .. }), "{error}");
    }
    assert_eq!(fs::read(&file).unwrap(), b"precious");
    assert!(!dir.path().join("file.lock").exists());
    let nowhere = dir.path().join("no/where");
    let error = Vsock::open(&spec(nowhere)).err().unwrap();
    assert!(matches!(error, VsockError::Bind { .. }), "{error}");
    let error = Vsock::open(&spec(PathBuf::new())).err().unwrap();
    assert!(matches!(error, VsockError::Spec(_)), "{error}");
}

#[test]
fn a_successor_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path().join("v"));
    let old = Vsock::open(&spec).unwrap();
    fs::rename(&spec.path, dir.path().join("moved")).unwrap();
    let _new = Vsock::open(&spec).unwrap();
    drop(old);
    UnixStream::connect(&spec.path).unwrap();
}

#[test]
fn one_of_many_gets_a_stale_one() {
    for _ in 0..50 {
        let dir = tempfile::tempdir().unwrap();
        let spec = spec(dir.path().join("v"));
        drop(UnixListener::bind(&spec.path).unwrap());
        let start = std::sync::Barrier::new(8);
        let open = || {
            start.wait();
            Vsock::open(&spec)
        };
        let devices: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            let results = threads.into_iter().map(|thread| thread.join().unwrap());
            results.filter_map(Result::ok).collect()
        });
        assert_eq!(devices.len(), 1);
        UnixStream::connect(&spec.path).unwrap();
        let files = fs::read_dir(dir.path()).unwrap();
        assert_eq!(files.count(), 1, "the lock is gone");
    }
}

#[test]
fn a_lock_that_was_left_behind_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path().join("v"));
    fs::write(dir.path().join("v.lock"), "").unwrap();
    let _device = Vsock::open(&spec).unwrap();
    assert!(!dir.path().join("v.lock").exists());
}

#[test]
fn a_place_that_another_vm_is_taking_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let spec = spec(dir.path().join("v"));
    drop(UnixListener::bind(&spec.path).unwrap());
    let lock = fs::File::create(dir.path().join("v.lock")).unwrap();
    assert!(crate::sys_io::try_lock(&lock, true).unwrap());
    let error = Vsock::open(&spec).err().unwrap();
    assert!(matches!(error, VsockError::InUse { .. }), "{error}");
    assert!(spec.path.exists(), "the abandoned one is the other's now");
    drop(lock);
    Vsock::open(&spec).unwrap();
}
