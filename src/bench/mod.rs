//! `drupe bench`: the same workloads as a process of the host, in a container, in
//! a micro-VM, and in a container in a micro-VM.
#![allow(dead_code)]

pub mod results;
