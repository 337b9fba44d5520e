//! What `drupe cp` unpacks on the host.

use std::fs::{self, File};

use crate::Input;
use crate::dir::Dir;
use crate::sandbox::unpack::{self, Options};
use crate::tar;

/// An archive of a hostile guest, unpacked in a directory with links in it that
/// lead out.
pub fn unpack(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let dir = Dir::new();
    let to = dir.inner();
    if how & 1 == 0 {
        std::os::unix::fs::symlink("..", to.join("l")).expect("a link");
        std::os::unix::fs::symlink("../secret", to.join("a")).expect("a link");
        fs::create_dir(to.join("d")).expect("a directory");
    }
    let options = Options {
        named: how & 2 == 0,
        top: (how & 12 == 0).then(|| "t".into()),
        owners: how & 16 != 0,
    };
    let archive = match how {
        0xe0.. => input.rest().to_vec(),
        _ => tar::archive(&mut input),
    };
    let directory = File::open(&to).expect("a directory");
    if let Err(e) = unpack::unpack(&archive[..], directory.into(), &options) {
        assert!(!e.to_string().is_empty());
    }
    dir.check();
}
