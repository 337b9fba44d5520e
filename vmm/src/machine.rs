//! A VM, from its description to its end.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, JoinHandle};

use devices::GuestMemory;
use devices::bus::{Bus, BusDevice};
use devices::power::{AcpiPower, I8042, I8042_BASE, I8042_PORTS, PVPANIC_PORT, PvPanic, acpi};
use devices::serial::{self, Serial};
use devices::threads::{self, Role};
use devices::virtio::mmio::{MmioTransport, QUEUE_NOTIFY, WINDOW_SIZE};
use devices::virtio::{DeviceSubscriber, IrqLine, SharedDevice};
use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VmFd};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::arch;
use crate::coalesced::CoalescedRing;
use crate::config::{Console as ConsoleMode, VmConfig};
use crate::console::{Console, ConsoleEvents, ConsoleIo};
use crate::control::{EndEvents, LimitsHandle, StopEvents, StopHandle};
use crate::error::{Error, KvmStep};
use crate::outcome::{Ending, Outcome};
use crate::signals::{self, StopSignals};
use crate::vcpu::{Board, Vcpu};
use crate::{memory, resident, virtio};

/// The stack of the thread that loads the kernel, in bytes: it reads headers into
/// arrays, and calls nothing deep.
const LOADER_STACK: usize = 256 << 10;

type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// Where a virtio device stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtioSlot {
    /// Guest physical address of its registers.
    pub base: u64,
    /// Its interrupt line.
    pub gsi: u32,
}

/// A VM that is ready to run: memory filled, devices in place, vCPUs created.
pub struct Machine {
    vcpus: Vec<Vcpu>,
    events: EventManager<Subscriber>,
    board: Arc<Board>,
    devices: Vec<SharedDevice>,
    published: Vec<usernet::Published>,
    power: Arc<Mutex<AcpiPower>>,
    end_event: EventFd,
    vm: Arc<VmFd>,
    // Last: a signal that came while sockets are removed would leave them.
    stop: Option<Arc<StopSignals>>,
}

impl Machine {
    /// Builds the VM that `config` describes. Of the process's signals it changes
    /// one: `SIGXFSZ` is ignored from here on, so that a write past `RLIMIT_FSIZE`
    /// is the guest's I/O error.
    ///
    /// # Errors
    /// When something of it is not to be had; nothing is left behind then.
    pub fn new(config: &VmConfig, io: ConsoleIo) -> Result<Self, Error> {
        Self::build(config, io, false)
    }

    /// As [`Machine::new`], and the process's stop signals are the VM's: see
    /// [`Machine::run`]. They are blocked from the moment on at which there is
    /// something to leave behind; those that are ignored now stay so.
    ///
    /// # Errors
    /// Those of [`Machine::new`].
    pub fn with_stop_signals(config: &VmConfig, io: ConsoleIo) -> Result<Self, Error> {
        Self::build(config, io, true)
    }

    fn build(config: &VmConfig, io: ConsoleIo, stop_signals: bool) -> Result<Self, Error> {
        config.validate()?;
        signals::ignore_file_size_signal();
        let kvm = open_kvm()?;
        // What takes long comes first, and what leaves files behind after it.
        let mem = memory::allocate(config.memory, config.into())?;
        let (vm, entry) = create_vm_meanwhile(&kvm, || arch::load(&mem, config))?;
        let stop = match stop_signals {
            true => Some(Arc::new(
                StopSignals::new().map_err(Error::host("watch signals"))?,
            )),
            false => None,
        };
        let (devices, published) = virtio::open_devices(config)?;
        let vm = Arc::new(vm);
        memory::register(&vm, &mem)?;

        let end_event = eventfd()?;
        let ending = Arc::new(Ending::new(
            end_event
                .try_clone()
                .map_err(Error::host("clone a descriptor"))?,
        ));
        let mut events: EventManager<Subscriber> =
            EventManager::new().map_err(|e| event_error("make the event loop", &e))?;
        let mut builder = Builder {
            vm: &vm,
            mem: &mem,
            mmio: Bus::new(),
            ports: Bus::new(),
            events: &mut events,
            slots: Vec::new(),
        };
        for device in &devices {
            builder.add_virtio(device)?;
        }
        let power = builder.add_power(&ending)?;
        let (serial, room) = builder.add_serial()?;
        let Builder {
            mmio, ports, slots, ..
        } = builder;

        arch::write_tables(&mem, config.cpus, &slots)?;
        let template = arch::CpuTemplate::new(&kvm, config.cpus, config.nested)?;
        let mut fds = Vec::new();
        for id in 0..config.cpus {
            let fd = vm
                .create_vcpu(id.into())
                .map_err(|e| Error::kvm(KvmStep::CreateVcpu, e))?;
            template.apply(&fd, id, &mem, (id == 0).then_some(entry))?;
            fds.push(fd);
        }

        // The ring spares an exit for each byte; without it the console still works.
        let ring = match fds.first() {
            Some(vcpu) if kvm.check_extension(Cap::CoalescedPio) => {
                vm.register_coalesced_mmio(
                    IoEventAddress::Pio(arch::SERIAL_PORT + serial::TRANSMIT),
                    1,
                )
                .map_err(|e| Error::kvm(KvmStep::Coalesced, e))?;
                Some(CoalescedRing::map(vcpu).map_err(Error::host("map KVM's ring"))?)
            }
            _ => None,
        };
        let io = match config.console {
            ConsoleMode::On => io,
            ConsoleMode::Off => ConsoleIo::default(),
        };
        let console = Console::new(serial, ring, (io.output, io.limit), ending.clone())
            .map_err(Error::host("make the console's timer"))?;
        let console = Arc::new(console);
        events.add_subscriber(Box::new(ConsoleEvents::new(
            console.clone(),
            io.input,
            io.filter,
            room,
        )));
        let first_port = arch::SERIAL_PORT as u16;
        let board = Arc::new(Board {
            mmio,
            ports,
            console,
            console_ports: first_port..first_port + serial::PORTS as u16,
            mem,
            ending,
            go: OnceLock::new(),
        });
        let vcpus = fds.into_iter().zip(0..).map(|(fd, id)| Vcpu {
            id,
            fd,
            board: board.clone(),
        });
        Ok(Machine {
            vcpus: vcpus.collect(),
            events,
            board,
            devices,
            published,
            power,
            end_event,
            vm,
            stop,
        })
    }

    /// The ports of the guest that the host's lead to, with those that the host
    /// chose.
    pub fn published(&self) -> &[usernet::Published] {
        &self.published
    }

    /// Directories below which the VM goes on to use names, for whoever confines
    /// the process: see [`devices::virtio::VirtioDevice::directories`].
    pub fn directories(&self) -> Vec<devices::virtio::OpenDirectory> {
        let all = self.devices.iter().flat_map(|device| {
            let device = device.lock();
            device
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .directories()
        });
        all.collect()
    }

    /// Other descriptors have been put in the place of these.
    ///
    /// # Errors
    /// The host's.
    pub fn directories_replaced(&self) -> io::Result<()> {
        self.devices.iter().try_for_each(|device| {
            let device = device.lock();
            device
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .directories_replaced()
        })
    }

    /// What changes the limits of its devices from another thread.
    pub fn limits_handle(&self) -> LimitsHandle {
        LimitsHandle::new(&self.devices)
    }

    /// What ends the VM from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle::new(self.board.ending.clone(), self.power.clone())
    }

    /// Runs the VM to its end. With stop signals, `SIGTERM`, `SIGINT`, `SIGHUP` and
    /// all others that would end a process press its power button and, when it has
    /// not switched itself off within `stop_timeout`, end it; a second signal, and
    /// `SIGQUIT`, end it at once. One that has arrived already ends the VM before it
    /// starts.
    ///
    /// On return no thread of the VM is left, its disks are flushed by whatever
    /// the guest flushed, and its sockets are closed.
    ///
    /// # Errors
    /// When the host refuses a thread or a descriptor.
    pub fn run(self, stop_timeout: std::time::Duration) -> Result<Outcome, Error> {
        self.run_to_end(stop_timeout).0
    }

    /// As [`Machine::run`], and what the kernel takes its time to free comes back
    /// in place of being waited for.
    pub fn run_to_end(
        mut self,
        stop_timeout: std::time::Duration,
    ) -> (Result<Outcome, Error>, Remains) {
        let result = self.run_here(stop_timeout);
        let remains = Remains {
            vm: Some(self.vm),
            mem: self.board.mem.clone(),
        };
        (result, remains)
    }

    fn run_here(&mut self, stop_timeout: std::time::Duration) -> Result<Outcome, Error> {
        if let Some(signal) = self.stop.as_ref().and_then(|stop| stop.take()) {
            return Ok(Outcome::Stopped(Some(signal)));
        }
        let ending = self.board.ending.clone();
        signals::install_kick().map_err(|e| Error::Host {
            what: "install a signal handler",
            source: e.into(),
        })?;
        let writer = self.board.console.start();
        let writer = writer.map_err(Error::host("start the console's thread"))?;
        let mut threads = Vec::new();
        let result = self.start(stop_timeout, &mut threads).and_then(|()| {
            while !ending.is_over() {
                match self.events.run() {
                    Ok(_) => {}
                    Err(event_manager::Error::Epoll(e)) if e.errno() == libc::EINTR => {}
                    Err(e) => return Err(event_error("wait for events", &e)),
                }
            }
            Ok(())
        });
        if result.is_err() {
            ending.end(Outcome::Stopped(None));
            // Those that wait for the start see the end.
            let _ = self.board.go.set(());
        }
        signals::join_threads(threads);
        for device in &self.devices {
            device
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .reset();
        }
        self.board.console.finish();
        signals::join_threads(writer);
        result.map(|()| ending.outcome().unwrap_or(Outcome::Stopped(None)))
    }

    /// Starts the vCPUs and what watches for the end, and lets the guest run when
    /// this thread has become what it stays.
    fn start(
        &mut self,
        timeout: std::time::Duration,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> Result<(), Error> {
        for vcpu in self.vcpus.drain(..) {
            threads.push(vcpu.start().map_err(Error::host("start a vCPU's thread"))?);
        }
        if let Some(signals) = self.stop.clone() {
            let stop = StopEvents::new(signals, self.stop_handle(), timeout)
                .map_err(Error::host("make a timer"))?;
            self.events.add_subscriber(Box::new(stop));
        }
        let end = self
            .end_event
            .try_clone()
            .map_err(Error::host("clone a descriptor"))?;
        self.events.add_subscriber(Box::new(EndEvents(end)));
        threads::enter(Role::EventLoop).map_err(Error::host("confine the event loop"))?;
        // Not earlier: what is left to do would be mapped again.
        resident::give_back();
        let _ = self.board.go.set(());
        Ok(())
    }
}

/// What is left of a VM that has ended: its memory, and KVM's side of it. To free
/// them takes tens of milliseconds, most of them grace periods of the kernel's
/// that are slept through. Nothing else depends on them: no file, no socket.
pub struct Remains {
    vm: Option<Arc<VmFd>>,
    mem: GuestMemory,
}

impl Drop for Remains {
    fn drop(&mut self) {
        drop(self.vm.take());
        memory::release(&self.mem);
    }
}

/// Puts devices on the buses and connects them with KVM.
struct Builder<'a> {
    vm: &'a Arc<VmFd>,
    mem: &'a GuestMemory,
    mmio: Bus,
    ports: Bus,
    events: &'a mut EventManager<Subscriber>,
    slots: Vec<VirtioSlot>,
}

impl Builder<'_> {
    fn add_virtio(&mut self, device: &SharedDevice) -> Result<(), Error> {
        let n = self.slots.len();
        let slot = VirtioSlot {
            base: arch::VIRTIO_MMIO_BASE + n as u64 * WINDOW_SIZE,
            gsi: arch::FIRST_VIRTIO_GSI + n as u32,
        };
        let queues = device
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .queue_sizes()
            .len();
        let mut kicks = Vec::new();
        for queue in 0..queues {
            let kick = eventfd()?;
            let address = IoEventAddress::Mmio(slot.base + QUEUE_NOTIFY);
            self.vm
                .register_ioevent(&kick, &address, queue as u32)
                .map_err(|e| Error::kvm(KvmStep::Ioeventfd, e))?;
            kicks.push(Arc::new(kick));
        }
        let irq = self.irqfd(slot.gsi)?;
        let transport = MmioTransport::new(device.clone(), self.mem.clone(), irq, kicks.clone())
            .map_err(|e| Error::Device(Box::new(e)))?;
        insert(&mut self.mmio, slot.base, WINDOW_SIZE, transport)?;
        self.events
            .add_subscriber(Box::new(DeviceSubscriber::new(device.clone(), kicks)));
        self.slots.push(slot);
        Ok(())
    }

    fn add_power(&mut self, ending: &Arc<Ending>) -> Result<Arc<Mutex<AcpiPower>>, Error> {
        let irq = self.line(arch::EVENT_GSI);
        let power = Arc::new(Mutex::new(AcpiPower::new(ending.clone(), irq)));
        self.ports
            .insert(arch::ACPI_PORT, acpi::PORTS, power.clone())
            .map_err(|e| Error::Device(Box::new(e)))?;
        let keyboard = I8042::new(ending.clone());
        insert(&mut self.ports, I8042_BASE, I8042_PORTS, keyboard)?;
        insert(
            &mut self.ports,
            PVPANIC_PORT,
            1,
            PvPanic::new(ending.clone()),
        )?;
        Ok(power)
    }

    fn add_serial(&mut self) -> Result<(Arc<Mutex<Serial>>, Arc<EventFd>), Error> {
        let irq = self.line(arch::SERIAL_GSI);
        let room = Arc::new(eventfd()?);
        let serial = Arc::new(Mutex::new(Serial::new(irq, room.clone())));
        self.ports
            .insert(arch::SERIAL_PORT, serial::PORTS, serial.clone())
            .map_err(|e| Error::Device(Box::new(e)))?;
        Ok((serial, room))
    }

    /// An interrupt line of the I/O APIC that only this process raises, and not
    /// often.
    fn line(&self, gsi: u32) -> Arc<dyn IrqLine> {
        Arc::new(KvmLine {
            vm: Arc::downgrade(self.vm),
            gsi,
        })
    }

    /// An interrupt line of the I/O APIC that is raised through an eventfd.
    fn irqfd(&self, gsi: u32) -> Result<Arc<dyn IrqLine>, Error> {
        let event = eventfd()?;
        self.vm
            .register_irqfd(&event, gsi)
            .map_err(|e| Error::kvm(KvmStep::Irqfd, e))?;
        Ok(Arc::new(IrqFd(event)))
    }
}

fn insert(
    bus: &mut Bus,
    base: u64,
    len: u64,
    device: impl BusDevice + 'static,
) -> Result<(), Error> {
    bus.insert(base, len, Arc::new(Mutex::new(device)))
        .map_err(|e| Error::Device(Box::new(e)))
}

/// An interrupt line that is raised by asking KVM (`KVM_IRQ_LINE`). An eventfd
/// would be one more thing for KVM to wait for when the VM ends.
struct KvmLine {
    /// Weak: a [`StopHandle`] may outlive the VM.
    vm: Weak<VmFd>,
    gsi: u32,
}

impl IrqLine for KvmLine {
    fn trigger(&self) {
        let Some(vm) = self.vm.upgrade() else { return };
        // An edge. Fails only without an interrupt controller.
        for level in [true, false] {
            let _ = vm.set_irq_line(self.gsi, level);
        }
    }
}

/// An interrupt line behind an eventfd that KVM listens to.
struct IrqFd(EventFd);

impl IrqLine for IrqFd {
    fn trigger(&self) {
        // Fails only when the counter is full: an interrupt is pending anyway.
        let _ = self.0.write(1);
    }
}

fn eventfd() -> Result<EventFd, Error> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(Error::host("make an eventfd"))
}

fn event_error(what: &'static str, error: &event_manager::Error) -> Error {
    Error::Host {
        what,
        source: io::Error::other(error.to_string()),
    }
}

fn open_kvm() -> Result<Kvm, Error> {
    let kvm = Kvm::new().map_err(|e| match e.errno() {
        libc::ENOENT | libc::ENXIO | libc::ENODEV => Error::NoKvm,
        libc::EACCES | libc::EPERM => Error::KvmPermission,
        _ => Error::KvmOpen(e.into()),
    })?;
    match arch::REQUIRED_CAPABILITIES
        .iter()
        .find(|(cap, _)| !kvm.check_extension(*cap))
    {
        Some((_, name)) => Err(Error::KvmLacks(name)),
        None => Ok(kvm),
    }
}

/// Creates the VM while `work` is done: KVM waits for other processors, for
/// milliseconds, when it makes a VM. It is this thread that waits, so that it begins
/// to at once: a new thread would run when there is a processor for it.
fn create_vm_meanwhile<T: Send>(
    kvm: &Kvm,
    work: impl FnOnce() -> Result<T, Error> + Send,
) -> Result<(VmFd, T), Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .stack_size(LOADER_STACK)
            .spawn_scoped(scope, work)
            .map_err(Error::host("start a thread"))?;
        let vm = create_vm(kvm);
        let done = thread.join().map_err(|_| Error::Host {
            what: "load the kernel",
            source: io::Error::other("its thread failed"),
        })?;
        // What is wrong with the kernel's file comes first.
        let done = done?;
        Ok((vm?, done))
    })
}

fn create_vm(kvm: &Kvm) -> Result<VmFd, Error> {
    let vm = loop {
        match kvm.create_vm() {
            // A signal came while KVM set up; it says so rather than go on.
            Err(e) if e.errno() == libc::EINTR => {}
            result => break result.map_err(|e| Error::kvm(KvmStep::CreateVm, e))?,
        }
    };
    arch::prepare_vm(&vm)?;
    Ok(vm)
}
