//! The sandbox's root: the image's layers, and one above them that can be
//! written to, joined by overlayfs.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use protocol::Writable;
use rustix::mount::MountFlags;

use crate::boot::{LAYERS, ROOT, SCRATCH};
use crate::disks::Disks;
use crate::error::{Context, Error, Result};
use crate::mounts::{FileSystem, detach};

/// The most layers: overlayfs takes 500, an image of Docker's has 127 at most,
/// and a partition table 128.
const MAX_LAYERS: u32 = 128;
/// The path of a layer: short, for all of them have to fit in the page that
/// `mount(2)` takes (128 times 15 bytes).
fn layer_path(number: u32) -> String {
    format!("{LAYERS}/{number}")
}

/// Mounts the root at [`ROOT`].
///
/// # Errors
/// A disk that is not there, or one that does not hold what it should.
pub fn assemble(root: &protocol::Root, disks: &Disks) -> Result<()> {
    if root.layers > MAX_LAYERS {
        return Err(Error::request(format!(
            "the image has {} layers: {MAX_LAYERS} are the most",
            root.layers
        )));
    }
    mount_layers(root, disks)?;
    mount_writable(&root.writable, disks)?;
    let upper = Path::new(SCRATCH).join("upper");
    let work = Path::new(SCRATCH).join("work");
    if !upper.is_dir() {
        // The top directory of the whole is that of the upper layer.
        let top = fs::metadata(layer_path(root.layers)).context(|| "look at a layer".into())?;
        fs::create_dir(&upper)
            .and_then(|()| chown(&upper, Some(top.uid()), Some(top.gid())))
            .and_then(|()| fs::set_permissions(&upper, fs::Permissions::from_mode(top.mode())))
            .context(|| "make the writable layer".into())?;
    }
    if !work.is_dir() {
        fs::create_dir(&work).context(|| "make the writable layer".into())?;
    }
    // By mount(2): fsconfig(2) takes 255 bytes for a value, and layers one by
    // one from Linux 6.5 on only.
    let options = overlay_options(root.layers);
    let options = std::ffi::CString::new(options).map_err(|_| Error::request("a path with NUL"))?;
    rustix::mount::mount("overlay", ROOT, "overlay", MountFlags::empty(), &*options)
        .context(|| format!("join {} layers to a root", root.layers))?;
    // The overlay holds on to what it needs.
    detach(Path::new(LAYERS));
    detach(Path::new(SCRATCH));
    Ok(())
}

/// The lowest layer is number 1; number 0 is empty, and stands in for the
/// layers of an image that has none.
fn mount_layers(root: &protocol::Root, disks: &Disks) -> Result<()> {
    FileSystem::tmpfs(0, 0o755).mount_on(LAYERS)?;
    let first = match root.layers {
        0 => 0,
        _ => 1,
    };
    for number in first..=root.layers {
        let path = layer_path(number);
        fs::create_dir(&path).context(|| format!("make {path}"))?;
        if number > 0 {
            let device = disks.partition(&root.layers_disk, number)?;
            FileSystem::new("erofs")
                .option("source", device)
                .read_only(true)
                .mount_on(&path)?;
        }
    }
    Ok(())
}

fn mount_writable(writable: &Writable, disks: &Disks) -> Result<()> {
    match writable {
        Writable::Tmpfs { size } => FileSystem::tmpfs(*size, 0o755),
        Writable::Disk { serial } => {
            FileSystem::new("ext4").option("source", disks.device(serial)?)
        }
    }
    .mount_on(SCRATCH)
}

fn overlay_options(layers: u32) -> String {
    let lower: Vec<_> = match layers {
        0 => vec![layer_path(0)],
        _ => (1..=layers).rev().map(layer_path).collect(),
    };
    format!(
        "lowerdir={},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work",
        lower.join(":")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_layer_comes_first() {
        assert_eq!(
            overlay_options(2),
            "lowerdir=/run/layers/2:/run/layers/1,\
             upperdir=/run/scratch/upper,workdir=/run/scratch/work"
        );
        assert!(overlay_options(0).starts_with("lowerdir=/run/layers/0,"));
    }

    #[test]
    fn the_options_of_the_most_layers_fit_in_a_page() {
        assert!(overlay_options(MAX_LAYERS).len() < 4096);
    }

    #[test]
    fn too_many_layers_are_refused() {
        let root = protocol::Root {
            layers_disk: "layers".into(),
            layers: MAX_LAYERS + 1,
            writable: Writable::Tmpfs { size: 0 },
            read_only: false,
        };
        let error = assemble(&root, &Disks::default()).unwrap_err();
        assert!(error.to_string().contains("129 layers"));
    }
}
