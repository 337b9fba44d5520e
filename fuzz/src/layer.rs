//! A layer of an image: a tar becomes a disk image.

use crate::Input;
use crate::tar;

/// Two layers, the second over the first; or a damaged disk image below one.
pub fn layer(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    if how >= 0xe0 {
        // A disk image that somebody else wrote, or one of ours with bytes
        // changed.
        let mut image = match how & 1 {
            0 => input.bytes(1 << 16).to_vec(),
            _ => base(),
        };
        if how & 1 == 1 {
            while !input.is_empty() {
                let at = usize::from(input.u16()) % image.len();
                image[at] = input.u8();
            }
        }
        let _ = images::fuzzing::walk(&image);
        let _ = images::fuzzing::convert(&over(), &[&image]);
        return;
    }
    let split = usize::from(input.u16()) % (data.len() + 1);
    let below = tar::archive(&mut Input::new(input.bytes(split)));
    let above = match how {
        0xc0.. => input.rest().to_vec(),
        _ => tar::archive(&mut input),
    };
    let below = images::fuzzing::convert(&below, &[]).ok();
    if let Some(image) = &below {
        images::fuzzing::walk(image).expect("an image of ours can be read");
    }
    let below: Vec<&[u8]> = below.iter().map(Vec::as_slice).collect();
    let image = images::fuzzing::convert(&above, &below);
    match &image {
        Ok(image) => {
            images::fuzzing::walk(image).expect("an image of ours can be read");
        }
        Err(e) => assert!(!e.is_empty()),
    }
    // Digests are made of it.
    let again = images::fuzzing::convert(&above, &below);
    assert!(again == image, "the same layer becomes another image");
}

/// A layer with a bit of everything.
fn base() -> Vec<u8> {
    let base = tar::plain(&[
        (b'5', b"d", b""),
        (b'0', b"d/a", &[7; 100]),
        (b'2', b"l", b"d/a"),
        (b'1', b"h", b"d/a"),
        (b'0', b"e/f/g", b"text"),
    ]);
    images::fuzzing::convert(&base, &[]).expect("a layer")
}

/// One that needs what is below: a file without its directory, and whiteouts.
fn over() -> Vec<u8> {
    tar::plain(&[
        (b'0', b"d/b", b"b"),
        (b'0', b"d/.wh.a", b""),
        (b'0', b"e/f/.wh.g", b""),
    ])
}
