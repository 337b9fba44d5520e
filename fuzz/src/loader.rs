//! Kernel and initrd files.

use vmm::config::BootProtocol;

use crate::Input;

/// A kernel file, and now and then an initrd, loaded into fresh memory.
pub fn loader(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let protocol = match how % 4 {
        0 | 1 => BootProtocol::Auto,
        2 => BootProtocol::Linux,
        _ => BootProtocol::Pvh,
    };
    let initrd = (how & 4 != 0).then(|| vec![0x69; input.len() as usize % (1 << 21)]);
    let Ok(loaded) = vmm::fuzzing::load(input.rest(), initrd.as_deref(), protocol) else {
        return;
    };
    // Nothing that was loaded after it lies on it, and its size is right.
    assert!(loaded.initrd == initrd, "the kernel finds another initrd");
    assert_eq!(loaded.command_line, vmm::fuzzing::COMMAND_LINE);
    if protocol != BootProtocol::Auto {
        assert_eq!(loaded.protocol, protocol);
    }
}
