//! A guest that plays the hostile driver.
//!
//! On its command line, one of
//!
//! * `attack`: every case for every device, or `attack=blk` for those of one kind;
//!   with `every=N` one of N of those that come in numbers;
//! * `hold`: starts every device and keeps still;
//! * `flood=N`: for each `f` that is typed, N notifications of the first device;
//!   `flood` alone notifies it without end;
//! * `fill`: writes to the first disk without end;
//! * `ping=N`: for each `m` that is typed, the median time of N reads of the first
//!   disk's first sector, for each `n` of N answers of the gateway's, in ticks of the
//!   CPU's clock.
//!
//! It ends after a `q`: until then the host can look at the process.

#![no_std]
#![no_main]

mod attack;
mod block;
mod fuse;
mod hw;
mod load;
mod net;
mod report;
mod rings;
mod sockets;
mod transport;
mod virtio;

/// Where drupe puts the command line (`vmm/src/x86_64/layout.rs`).
const COMMAND_LINE: u64 = 0x2_0000;

/// The value of `key=value` on the command line, empty for `key` alone; at most 31
/// bytes of it.
fn option(key: &str) -> Option<([u8; 31], usize)> {
    let mut at = COMMAND_LINE;
    loop {
        let mut same = 0;
        let mut value = ([0; 31], 0);
        let mut in_value = false;
        loop {
            let byte: u8 = hw::read(at);
            if byte == 0 || byte == b' ' {
                break;
            }
            at += 1;
            match (in_value, key.as_bytes().get(same)) {
                (true, _) if value.1 < value.0.len() => {
                    value.0[value.1] = byte;
                    value.1 += 1;
                }
                (false, None) if byte == b'=' => in_value = true,
                (false, Some(wanted)) if *wanted == byte => same += 1,
                (false, _) => same = usize::MAX / 2,
                _ => {}
            }
        }
        if same == key.len() {
            return Some(value);
        }
        if hw::read::<u8>(at) == 0 {
            return None;
        }
        at += 1;
    }
}

fn number(digits: &[u8]) -> u64 {
    let digits = digits.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0, |sum, byte| sum * 10 + u64::from(byte - b'0'))
}

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    if let Some((kind, len)) = option("attack") {
        let every = option("every").map_or(1, |(count, len)| number(&count[..len]));
        attack::run(&kind[..len], every);
    } else if option("hold").is_some() {
        attack::hold();
    } else if let Some((count, len)) = option("flood") {
        load::flood(number(&count[..len]));
    } else if option("fill").is_some() {
        load::fill();
    } else if let Some((count, len)) = option("ping") {
        load::ping(number(&count[..len]));
    } else {
        hw::say("nothing to do\n");
    }
    while hw::typed() != b'q' {}
    hw::power_off()
}
