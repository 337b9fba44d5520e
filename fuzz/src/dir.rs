//! A directory in memory that is made anew for each run.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// What stands beside what the guest may reach.
pub const SECRET: &[u8] = b"secret";

/// A directory with a secret in it, and one more for the guest; gone when
/// dropped.
pub struct Dir(PathBuf);

impl Dir {
    /// A new one.
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("drupe-fuzz-{}-{n}", std::process::id());
        // In memory where there is such a place.
        let memory = Path::new("/dev/shm");
        let place = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let dir = Dir(place.join(name));
        fs::create_dir_all(dir.inner()).expect("a directory");
        fs::write(dir.0.join("secret"), SECRET).expect("a file");
        dir
    }

    /// What the guest may reach.
    pub fn inner(&self) -> PathBuf {
        self.0.join("inner")
    }

    /// # Panics
    /// When something outside of the inner directory has changed.
    pub fn check(&self) {
        let outside = fs::read_dir(&self.0).expect("a directory").count();
        assert_eq!(outside, 2, "something was made outside");
        let secret = self.0.join("secret");
        assert_eq!(fs::read(&secret).expect("a file"), SECRET);
        let meta = fs::metadata(&secret).expect("a file");
        assert_eq!(std::os::unix::fs::MetadataExt::nlink(&meta), 1);
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // The guest may have taken the permission to search a directory away.
        let removed = fs::remove_dir_all(&self.0);
        if removed.is_err() {
            let _ = std::process::Command::new("chmod")
                .args(["-R", "u+rwx"])
                .arg(&self.0)
                .status();
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
