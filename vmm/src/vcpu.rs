//! A vCPU's thread: runs the guest and answers its exits.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use devices::GuestMemory;
use devices::bus::Bus;
use devices::threads::{self, Role};
use kvm_bindings::{
    KVM_INTERNAL_ERROR_EMULATION, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress};

use crate::arch;
use crate::console::Console;
use crate::outcome::{CpuReport, Ending, Outcome};

/// Stack of a vCPU thread in bytes: exits are handled without recursion and
/// without large locals.
const STACK: usize = 256 * 1024;
/// The longest x86 instruction, in bytes.
const INSTRUCTION: usize = 15;

/// What all vCPUs of a VM share.
pub(crate) struct Board {
    pub mmio: Bus,
    pub ports: Bus,
    pub console: Arc<Console>,
    pub console_ports: std::ops::Range<u16>,
    pub mem: GuestMemory,
    pub ending: Arc<Ending>,
    /// Set when every thread that is there is as it shall be: before that no
    /// instruction of the guest runs.
    pub go: OnceLock<()>,
}

impl Board {
    /// True for an access to the console's port.
    fn is_console(&self, exit: &VcpuExit<'_>) -> bool {
        match exit {
            VcpuExit::IoOut(port, _) | VcpuExit::IoIn(port, _) => self.console_ports.contains(port),
            _ => false,
        }
    }
}

/// One vCPU, not running yet.
pub(crate) struct Vcpu {
    pub id: u8,
    pub fd: VcpuFd,
    pub board: Arc<Board>,
}

impl Vcpu {
    /// Starts the vCPU on a thread of its own, which ends when the VM does.
    pub(crate) fn start(self) -> io::Result<JoinHandle<()>> {
        let name = format!("vcpu{}", self.id);
        threads::spawn(Role::Vcpu, name, Some(STACK), move || self.run())
    }

    fn run(mut self) {
        let board = self.board.clone();
        board.go.wait();
        while !board.ending.is_over() {
            if let Some(outcome) = self.step(&board) {
                board.ending.end(outcome);
            }
        }
        if board.ending.is_given_up() {
            let report = self.report("given up".to_owned()).to_string();
            log::warn!("{}", report.replace('\n', "; "));
        }
    }

    /// Runs the guest up to its next exit and answers it.
    fn step(&mut self, board: &Board) -> Option<Outcome> {
        let result = self.fd.run();
        let console = result.as_ref().is_ok_and(|exit| board.is_console(exit));
        if console {
            board.console.before_access();
        } else {
            board.console.catch_up();
        }
        match result {
            Ok(VcpuExit::IoOut(port, _)) => {
                for data in self.port_accesses() {
                    board.ports.write(port.into(), data);
                }
            }
            Ok(VcpuExit::IoIn(port, _)) => {
                for data in self.port_accesses() {
                    board.ports.read(port.into(), data);
                }
            }
            Ok(VcpuExit::MmioRead(addr, data)) => {
                board.mmio.read(addr, data);
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                board.mmio.write(addr, data);
            }
            Ok(VcpuExit::Shutdown) => {
                return Some(Outcome::TripleFault(self.report("triple fault".into())));
            }
            Ok(VcpuExit::InternalError) => return Some(self.internal_error()),
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Some(Outcome::InternalError(self.report(format!(
                    "the CPU refused to enter the guest: reason {reason:#x} on host CPU {cpu}"
                ))));
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _)) => {
                return Some(Outcome::PowerOff);
            }
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _)) => return Some(Outcome::Reboot),
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
            Ok(other) => {
                let what = format!("an exit that nothing here handles: {other:?}");
                return Some(Outcome::InternalError(self.report(what)));
            }
            Err(e) if matches!(e.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(e) => {
                let what = format!("KVM_RUN failed: {e}");
                return Some(Outcome::InternalError(self.report(what)));
            }
        }
        if console {
            board.console.after_access();
        }
        None
    }

    /// The data of a port exit, access by access: a string instruction makes
    /// several in one exit (KVM API §5, `KVM_EXIT_IO`).
    fn port_accesses(&mut self) -> std::slice::ChunksExactMut<'_, u8> {
        let run = self.fd.get_kvm_run();
        // SAFETY: called after `KVM_EXIT_IO`, for which `io` is the live member;
        // every bit pattern is a value of it.
        let io = unsafe { run.__bindgen_anon_1.io };
        let size = usize::from(io.size).max(1);
        let start = (&raw mut *run).cast::<u8>();
        // SAFETY: KVM puts the data at this offset of the mapping that starts with
        // `kvm_run`, and it stays there until the vCPU runs again, for which
        // `self` must not be borrowed any more.
        let data = unsafe {
            std::slice::from_raw_parts_mut(
                start.add(io.data_offset as usize),
                size * io.count as usize,
            )
        };
        data.chunks_exact_mut(size)
    }

    /// `KVM_EXIT_INTERNAL_ERROR` (KVM API §5): with the bytes that KVM could not
    /// emulate when it says which.
    fn internal_error(&mut self) -> Outcome {
        const INSTRUCTION_BYTES_GIVEN: u64 = 1;
        // SAFETY: the exit reason says that `internal` is the live member; every
        // bit pattern is a value of it.
        let internal = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.internal };
        let suberror = internal.suberror;
        let mut report = self.report(match suberror {
            KVM_INTERNAL_ERROR_EMULATION => {
                "KVM could not emulate an instruction; a host without hardware virtualization does that, see `drupe doctor`".to_owned()
            }
            2 => "two exceptions at once while KVM was delivering an interrupt".to_owned(),
            3 => "an event could not be delivered into the guest".to_owned(),
            n => format!("internal error {n} with data {:x?}", {
                let n = (internal.ndata as usize).min(internal.data.len());
                &internal.data[..n]
            }),
        });
        // struct kvm_run's `emulation_failure`: flags, then a length and the bytes.
        let data = internal.data;
        if suberror == KVM_INTERNAL_ERROR_EMULATION
            && internal.ndata >= 1
            && data[0] & INSTRUCTION_BYTES_GIVEN != 0
        {
            let bytes: Vec<u8> = data[1..3].iter().flat_map(|w| w.to_le_bytes()).collect();
            let len = usize::from(bytes[0]).min(INSTRUCTION);
            report.instruction = bytes[1..1 + len].to_vec();
        }
        Outcome::InternalError(report)
    }

    fn report(&self, what: String) -> Box<CpuReport> {
        Box::new(CpuReport {
            cpu: self.id,
            what,
            instruction: self.instruction_bytes(),
            registers: arch::dump_registers(&self.fd),
        })
    }

    /// The bytes at the instruction pointer, through the guest's page tables.
    fn instruction_bytes(&self) -> Vec<u8> {
        let Ok(regs) = self.fd.get_regs() else {
            return Vec::new();
        };
        let mut bytes = Vec::new();
        for at in (0..INSTRUCTION as u64).map(|n| regs.rip.wrapping_add(n)) {
            let byte = self
                .fd
                .translate_gva(at)
                .ok()
                .filter(|t| t.valid != 0)
                .and_then(|t| {
                    self.board
                        .mem
                        .read_obj::<u8>(GuestAddress(t.physical_address))
                        .ok()
                });
            match byte {
                Some(byte) => bytes.push(byte),
                None => break,
            }
        }
        bytes
    }
}
