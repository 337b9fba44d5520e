//! The entropy device.

use devices::testing::{Desc, Driver};
use devices::virtio::rng::Rng;

use crate::Input;
use crate::interpreter::{self, Guest, Subject, address};

struct Bed(Driver);

impl Subject for Bed {
    fn driver(&mut self) -> &mut Driver {
        &mut self.0
    }

    fn request(&mut self, _: &mut Guest, input: &mut Input) -> (usize, Vec<Desc>) {
        (
            0,
            vec![Desc::writable(address(&self.0, input), input.len())],
        )
    }

    fn check(&mut self) {
        assert!(self.0.start(0));
        self.0.put(0x1000, &[0; 64]);
        let len = interpreter::request(&mut self.0, 0, &[Desc::writable(0x1000, 64)]);
        assert_eq!(len, 64);
        assert_ne!(self.0.get(0x1000, 64), [0; 64]);
    }
}

/// A hostile driver for the entropy device.
pub fn rng(data: &[u8]) {
    interpreter::run(&mut Bed(Driver::new(Rng::new())), data);
}
