//! Compressed layers, told by their first bytes: what a manifest says about
//! them is not always so.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// The decompressed bytes of `from`.
///
/// # Errors
/// The reader's, and a compression that is not known.
pub fn decompressed<'a>(from: impl Read + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    // A pipe may give less than asked for, though the first bytes come together
    // in all but contrived cases: ask again until there are enough.
    let mut head = Vec::with_capacity(6);
    (&mut from).take(6).read_to_end(&mut head)?;
    let from = io::Cursor::new(head.clone()).chain(from);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(from)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(zstd::stream::read::Decoder::with_buffer(from)?)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => return Err(unknown("xz")),
        [b'B', b'Z', b'h', ..] => return Err(unknown("bzip2")),
        _ => Box::new(from),
    })
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!("compressed with {name}: decompress it first"),
    )
}

/// Whether bytes that begin so are compressed.
pub fn is_compressed(mut from: impl BufRead) -> io::Result<bool> {
    let head = from.fill_buf()?;
    Ok(head.starts_with(&[0x1f, 0x8b])
        || head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
        || head.starts_with(b"\xfd7zXZ")
        || head.starts_with(b"BZh"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompressed(bytes)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn each_form_is_told_by_its_bytes() {
        let data = b"some layer".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&data).unwrap();
        let gzip = gzip.finish().unwrap();
        let zstd = zstd::encode_all(&data[..], 1).unwrap();
        for form in [&data, &gzip, &zstd] {
            assert_eq!(read(form).unwrap(), data);
        }
        // Some tools write several members or frames.
        let twice = data.repeat(2);
        for form in [gzip.repeat(2), zstd.repeat(2)] {
            assert_eq!(read(&form).unwrap(), twice);
        }
        assert_eq!(read(b"").unwrap(), b"");
        assert_eq!(read(b"x").unwrap(), b"x");
        for cut in [&gzip[..gzip.len() - 9], &zstd[..zstd.len() - 1]] {
            assert!(read(cut).is_err());
        }
        assert!(
            read(b"\xfd7zXZ\0......")
                .unwrap_err()
                .to_string()
                .contains("xz")
        );
    }
}
