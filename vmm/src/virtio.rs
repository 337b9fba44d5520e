//! The list of virtio devices: the one place that knows them all.

use std::sync::{Arc, Mutex};

use devices::virtio::blk::Blk;
use devices::virtio::fs::Fs;
use devices::virtio::rng::Rng;
use devices::virtio::vsock::Vsock;
use devices::virtio::{SharedDevice, VirtioDevice};
use usernet::Published;

use crate::arch;
use crate::config::VmConfig;
use crate::error::Error;
use crate::{limits, net};

/// Opens the devices of `config` in the order in which the guest finds them:
/// disks, network interfaces, shares, sockets, entropy. With them, the ports that
/// were published.
///
/// # Errors
/// When a back end cannot be opened, or there are more devices than lines.
pub(crate) fn open_devices(
    config: &VmConfig,
) -> Result<(Vec<SharedDevice>, Vec<Published>), Error> {
    let lists = config.disks.len() + config.nets.len() + config.shares.len();
    let asked = lists + usize::from(config.vsock.is_some()) + 1;
    let most = (arch::LAST_VIRTIO_GSI - arch::FIRST_VIRTIO_GSI + 1) as usize;
    if asked > most {
        return Err(Error::TooManyDevices { asked, most });
    }
    let mut devices = Vec::with_capacity(asked);
    let mut published = Vec::new();
    for (n, spec) in config.disks.iter().enumerate() {
        devices.push(shared(Blk::open(spec, n).map_err(device)?));
    }
    for (n, spec) in config.nets.iter().enumerate() {
        devices.push(net::open(spec, n, &mut published).map_err(device)?);
    }
    // Also without shares: a guest's streams and connections take descriptors, and
    // the host's own programs need some to get in.
    let files = limits::files_for_shares();
    if !config.shares.is_empty() {
        let files = files / config.shares.len();
        for (n, spec) in config.shares.iter().enumerate() {
            devices.push(shared(Fs::open(spec, n, files).map_err(device)?));
        }
    }
    if let Some(spec) = &config.vsock {
        devices.push(shared(Vsock::open(spec).map_err(device)?));
    }
    devices.push(shared(Rng::new()));
    Ok((devices, published))
}

pub(crate) fn shared(device: impl VirtioDevice + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn device(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Device(Box::new(error))
}
