//! Sandboxes: workloads with a machine of their own, from their creation to
//! their removal.
//!
//! A sandbox is a directory. While it runs, a process of its own, the monitor,
//! has its machine and the streams of its process; everybody else looks at the
//! directory, or connects with the sockets in it. No process stands above them.

pub mod agent;
pub mod attach;
pub mod cgroups;
pub mod control;
pub mod copy;
pub mod detach;
pub mod error;
pub mod events;
pub mod ext4;
pub mod files;
mod frames;
pub mod guest;
pub mod id;
pub mod images;
pub mod lock;
pub mod log;
pub mod monitor;
pub mod names;
pub mod network;
pub mod ops;
mod processes;
pub mod signals;
pub mod spec;
pub mod state;
pub mod store;
pub mod tap;
pub mod time;
pub mod unpack;
pub mod usernet;
pub mod volumes;
